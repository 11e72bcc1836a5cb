"""How many texts of a command were cut: a line for each kind of them, at its end."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xlabml.pipelines import TextEmbedder
    from xlabml.pipelines.embedder import Cut


class CutTexts:
    """Counts the texts that an embedder cuts, by a name for people; they are embedded in many calls."""

    def __init__(self) -> None:
        self._found: dict[str, Cut] = {}

    @contextmanager
    def counting(self, name: str, embedder: 'TextEmbedder') -> Iterator[None]:
        """Count what the one call of `embedder.encode` inside cuts, in place of its warning."""
        from xlabml.pipelines.embedder import CutWarning

        with warnings.catch_warnings():
            warnings.simplefilter('ignore', CutWarning)
            yield
        new = embedder.cut
        known = self._found.get(name, new._replace(n_texts=0, n_cut=0))
        self._found[name] = new._replace(n_texts=known.n_texts + new.n_texts, n_cut=known.n_cut + new.n_cut)

    def report(self) -> None:
        """Print the counts of those names of which a text was cut."""
        for name, cut in self._found.items():
            if cut.n_cut:
                print(f'{name}: {cut}; what is behind that is not in their vectors', file=sys.stderr)
