"""Find the special tokens of another library's tokenizer: start and end of text, padding …"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from xlabml.errors import SettingsError

ROLES = ('unk', 'sos', 'eos', 'pad', 'mask', 'cls', 'sep')
"""The roles of special tokens."""

N_SPARE = 5
"""Number of spare tokens that are appended with the others, for later use."""

KNOWN = {
    'unk': ('<unk>', '[UNK]', '<|unk|>'),
    'sos': (
        *('<s>', '<bos>', '<sos>', '[BOS]', '<BOS>', '<|bos|>', '<|startoftext|>', '<|begin_of_text|>'),
        '<\uff5cbegin\u2581of\u2581sentence\uff5c>',
    ),
    'eos': (
        *('</s>', '<eos>', '[EOS]', '<EOS>', '<|eos|>', '<|endoftext|>', '<|end_of_text|>'),
        '<\uff5cend\u2581of\u2581sentence\uff5c>',
    ),
    'pad': ('<pad>', '[PAD]', '<|pad|>', '<|padding|>'),
    'mask': ('<mask>', '[MASK]', '<|mask|>'),
    'cls': ('<cls>', '[CLS]'),
    'sep': ('<sep>', '[SEP]'),
}
"""Names of the tokens of each role in public tokenizers."""


class SpecialTokens(NamedTuple):
    """The special tokens of a tokenizer.

    Args:
        pieces: The piece of each role.
        appended: Pieces that are appended to the vocabulary.
    """

    pieces: dict[str, str]
    appended: list[str]


def check_roles(named: Mapping[str, str], name: str = 'special_tokens') -> None:
    """Raise ValueError where a special token is named for an unknown role.

    Args:
        name: Name of the argument in error messages.
    """
    for role, piece in named.items():
        if role not in ROLES:
            raise SettingsError(f'{name} names a token for {role!r}; the roles are {", ".join(ROLES)}')
        if not isinstance(piece, str) or not piece:
            raise SettingsError(f'{name}.{role} is {piece!r}; it must be the text of a token')


def find_special_tokens(
    named: Mapping[str, str],
    found: Mapping[str, str],
    candidates: Collection[str],
    append: bool,
    has_piece: Callable[[str], bool],
    name: str,
) -> SpecialTokens:
    """Find the token of each role.

    Args:
        named: Tokens named by the user, which take precedence.
        found: Tokens named by the tokenizer's own files.
        candidates: Its special tokens; a role that is named nowhere is found by their names.
        append: Whether missing tokens are appended to the vocabulary.
        has_piece: Whether the vocabulary has a piece.
        name: Name of the tokenizer in error messages.

    Raises:
        ValueError: A named token does not exist, a role is ambiguous, or no token ends a text.
    """
    check_roles(named)
    for role, piece in named.items():
        if not has_piece(piece):
            raise SettingsError(
                f'{name} has no token {piece!r} to be {role}; its special tokens are {_list(candidates)}'
            )
    pieces = {role: piece for role, piece in {**found, **named}.items() if has_piece(piece)}
    for role in ROLES:
        known = [piece for piece in KNOWN[role] if piece in candidates]
        if role not in pieces and (len(known) == 1 or (known and role not in ('sos', 'eos'))):
            pieces[role] = known[0]
        elif role not in pieces and known:
            raise SettingsError(
                f'{name} has {_list(known)}, and nothing says which of them is its {role}; name it with special_tokens '
                f'{{{role}: TOKEN}} (data.special_tokens)'
            )
    for role, other in (('sos', 'cls'), ('eos', 'sep')):  # BERT's
        if role not in pieces and other in pieces:
            pieces[role] = pieces[other]
    appended = []
    if append:
        names = [role for role in ROLES if role not in pieces and role != 'unk']
        for role in (*names, *(f'reserved_{i}' for i in range(N_SPARE))):
            piece = f'<{role}>'
            while has_piece(piece):
                piece = f'<{piece}>'
            appended.append(piece)
            if role in names:
                pieces[role] = piece
    others = [piece for piece in candidates if piece not in pieces.values()]
    if 'eos' not in pieces and 'sos' not in pieces and len(others) == 1:  # GPT-2's
        pieces['eos'] = others[0]
    if 'eos' not in pieces:
        raise SettingsError(
            f'{name} has no token that is known to end a text: its special tokens are {_list(candidates)}; name one '
            'with special_tokens {eos: TOKEN} (data.special_tokens), or append the missing ones to its vocabulary '
            '(data.append_special_tokens: true)'
        )
    for role in ('sos', 'pad'):
        pieces.setdefault(role, pieces['eos'])
    return SpecialTokens({role: pieces[role] for role in ROLES if role in pieces}, appended)


def _list(pieces: Collection[str]) -> str:
    shown = ', '.join(map(repr, list(pieces)[:20]))
    return f'{shown} \u2026' if len(pieces) > 20 else shown or 'none'
