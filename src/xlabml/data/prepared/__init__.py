"""Stored or streamed texts, ready for a run: tokenizer, corpus, what is evaluated on and what is trained on."""

from .choices import ExampleChoice, ReadChoice, TokenizerChoice
from .epochs import check_epochs
from .streamed import StreamedTexts
from .texts import Texts
from .verification import verify

__all__ = [
    'ExampleChoice',
    'ReadChoice',
    'StreamedTexts',
    'Texts',
    'TokenizerChoice',
    'check_epochs',
    'verify',
]
