"""The parser of settings: a default task, and errors that fit on a line."""

import re
from textwrap import shorten
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from xlabml.models import XLabModel

from .errors import UsageError

_HINT = ' (xlab COMMAND --help lists what there is)'


class Parser(LightningArgumentParser):
    """Lightning's parser with a default task, and errors without pages of usage."""

    def add_subclass_arguments(  # type: ignore[override]
        self, baseclass: Any, nested_key: str, **kwargs: Any
    ) -> Any:
        if nested_key == 'model':
            kwargs.update(default={'class_path': f'xlabml.models.{XLabModel.__name__}'}, required=False)
        return super().add_subclass_arguments(baseclass, nested_key, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One message in place of usage and tip; types and namespaces, which nobody typed, are left out."""
        message = re.sub(r'Type \S.*? expects a function or a callable class: ', '', message)
        message = re.sub(r'[.;]? Got value: Namespace\(.*', '', message)
        message = re.sub(r"Problem with given class_path '([^']*)':\s*", '', message)
        message = re.sub(r'\s*\n\s*', ' ', message.strip())
        message = shorten(message, 1000, placeholder=' …')
        raise UsageError(f'{message.replace(_HINT, "")}{_HINT}')
