"""Read a tokenizer from a file or its bytes; its kind is detected from the content, and no code is executed."""

import json
from collections.abc import Mapping
from pathlib import Path

from xlabml.errors import SettingsError

from .base import MAX_BYTES, Tokenizer
from .packed import MAGIC, unpack
from .special import ROLES, check_roles

FILES = ('tokenizer.json', 'tokenizer.model', 'spiece.model', 'sentencepiece.bpe.model', 'spm.model')
"""Names of the file in the folder of a public model, in order of preference."""

_CONFIGS = ('special_tokens_map.json', 'tokenizer_config.json')
_MAX_CONFIG = 1 << 23
_ROLES = {'bos_token': 'sos', **{f'{role}_token': role for role in ROLES if role != 'sos'}}


def read_tokenizer(path: Path, special_tokens: Mapping[str, str], append: bool) -> Tokenizer:
    """`Tokenizer.load`."""
    file = path
    if path.is_dir():
        there = [path / name for name in FILES if (path / name).is_file()]
        if not there:
            raise FileNotFoundError(f'there is no tokenizer in {path}; it has none of {", ".join(FILES)}')
        file = there[0]
    elif not path.is_file():
        raise FileNotFoundError(f'there is no tokenizer at {path}; check the path, or train one there')
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(
            f'tokenizer {file} has {file.stat().st_size:,} bytes; no tokenizer has more than {MAX_BYTES:,}'
        )
    return make_tokenizer(file.read_bytes(), f'tokenizer {file}', special_tokens, append, file.parent)


def make_tokenizer(
    data: bytes,
    name: str,
    special_tokens: Mapping[str, str] | None = None,
    append: bool = False,
    folder: Path | None = None,
) -> Tokenizer:
    """`Tokenizer.from_bytes`, with options for a file that is read for the first time.

    Args:
        folder: A folder with configurations that may name its special tokens.
    """
    try:
        return _make(data, name, special_tokens or {}, append, folder)
    except (RuntimeError, UnicodeError, LookupError, TypeError, OverflowError) as error:
        why = next(iter(str(error).splitlines()), '') or type(error).__name__
        raise ValueError(
            f'{name} is no SentencePiece model and no tokenizer.json, or it is cut short or damaged ({why[:300]}); '
            'copy it again, or train it again'
        ) from error


def _make(data: bytes, name: str, named: Mapping[str, str], append: bool, folder: Path | None) -> Tokenizer:
    check_roles(named)
    if len(data) > MAX_BYTES:
        raise ValueError(f'{name} has {len(data):,} bytes; no tokenizer has more than {MAX_BYTES:,}')
    if data.startswith(MAGIC):
        packed = unpack(data, name)
        if packed.kind == 'sentencepiece':
            from .sentencepieces import SentencePieceTokenizer

            made: Tokenizer = SentencePieceTokenizer(packed.file, name, packed.special)
        elif packed.kind == 'huggingface':
            from .huggingface import HuggingFaceTokenizer

            made = HuggingFaceTokenizer(packed.file, name, packed.special)
        else:
            raise ValueError(f'{name} is of kind {packed.kind!r}, which this version does not know; update xlabml')
        _refuse_other(made, named, append)
        return made
    if data[:64].lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'{'):
        from .huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer.read(data, name, named, append, _configured(folder))
    from .sentencepieces import SentencePieceTokenizer, open_model
    from .tokenizer import OwnTokenizer, is_own

    processor = open_model(data)
    if is_own(processor):
        made = OwnTokenizer(data, name)
        _refuse_other(made, named, append)
        return made
    return SentencePieceTokenizer.read(data, name, named, append, _configured(folder))


def _refuse_other(made: Tokenizer, named: Mapping[str, str], append: bool) -> None:
    """Raise ValueError if other special tokens are set for a tokenizer whose special tokens are fixed."""
    for role, piece in named.items():
        there = made.piece(made.special_ids[role]) if role in made.special_ids else 'none'
        if piece != there:
            raise SettingsError(
                f'special_tokens.{role} is {piece!r}, but {made._name} has {there!r}, which is fixed; leave it out'
            )
    if append and not made.appended and made.kind != 'own':
        raise SettingsError(
            f'append_special_tokens is set, but {made._name} was first read without it; leave it out, or start a new '
            'run from its original file'
        )


def _configured(folder: Path | None) -> dict[str, str]:
    """The special tokens that the files beside a tokenizer name; only these strings are read."""
    found: dict[str, str] = {}
    for name in _CONFIGS:
        path = None if folder is None else folder / name
        if path is None or not path.is_file() or path.stat().st_size > _MAX_CONFIG:
            continue
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path} is no JSON ({error}); fix it, or move it away from the tokenizer') from error
        if isinstance(content, dict):
            found = {role: piece for key, role in _ROLES.items() if (piece := _piece(content.get(key)))} | found
    return found


def _piece(value: object) -> str | None:
    value = value.get('content') if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None
