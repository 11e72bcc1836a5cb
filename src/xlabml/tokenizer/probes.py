"""Find what a tokenizer loses in a round trip, by encoding and decoding short texts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Tokenizer
else:
    Tokenizer = object  # importing it would be a circle

_PROBES = (
    ('upper case', 'AbC'),
    ('accents', '\u00e9'),
    ('combining marks', 'e\u0301'),
    ('ligatures and other compatibility characters', '\ufb01'),
    ('full-width letters', '\uff21'),
    ('a space at the beginning', ' a'),
    ('a space at the end', 'a '),
    ('runs of spaces', 'a  b'),
    ('line breaks', 'a\nb'),
    ('carriage returns', 'a\r\nb'),
    ('tabs', 'a\tb'),
    ('no-break spaces', 'a\u00a0b'),
    ('control characters', 'a\0b'),
    ('U+2581', 'a\u2581b'),
    ('spaces around punctuation', "it's (so) a-b, no . No"),
    ('numbers', '1,234.5'),
    ('Chinese', '\u4e16\u754c'),
    ('emoji', '\U0001f469\u200d\U0001f467'),
)
_SHOWN = 4


def find_losses(tokenizer: Tokenizer) -> list[str]:
    """Kinds of text that change in a round trip, each with an example."""
    unk = tokenizer.special_ids.get('unk')
    lead, _, rest = tokenizer.decode(tokenizer.encode('a')).rpartition('a')
    found = [] if rest or not lead else [f"'a' comes back as {lead + 'a'!r}: something is put before every text"]
    lead = '' if rest else lead
    unknown = []
    for name, text in (*_PROBES, ('the names of its special tokens', tokenizer.eos_token)):
        ids = tokenizer.encode(text)
        back = tokenizer.decode(ids)
        if unk is not None and unk in ids:
            unknown.append(text)
        elif back != lead + text:
            found.append(f'{name} ({text!r} comes back as {back!r})')
    if unknown:
        more = ' \u2026' if len(unknown) > _SHOWN else ''
        found.append(f'what it does not know ({", ".join(map(repr, unknown[:_SHOWN]))}{more})')
    return found
