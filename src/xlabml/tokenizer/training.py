"""Train a tokenizer: SentencePiece's byte-pair trainer, configured so that no text loses anything, unless it is to fold
texts as a search engine does."""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from xlabml import artifacts
from xlabml.errors import SettingsError, VocabularyError

from .base import Tokenizer, refuse_surrogates
from .model_file import without_field
from .sentencepieces import SPACE_MARK
from .tokenizer import RESERVED_PIECES

# Line ends are always bytes, so that a long line is not one word; the trainer reserves NUL, U+2581 and U+2585.
_NEVER_LEARNED = re.compile('[\n\0\u2581\u2585]')
_TOO_MANY = re.compile(r'too high \(\d+\).*<= (\d+)')
_MAX_LINE_CHARS = 65_536
_MAX_PIECE_CHARS = 512  # SentencePiece's limit
_REQUIRED_CHARS = 2, 36  # ModelProto.trainer_spec.required_chars in sentencepiece_model.proto

# Not the names of RESERVED_PIECES: such a model is read as one from elsewhere, which need not restore texts.
_FOLDED_PIECES = ('<unk>', '<s>', '</s>', '<pad>')
_FOLDED_SYMBOLS = ('<mask>', '<cls>', '<sep>')

MIN_COVERAGE = 0.98
"""SentencePiece's minimal character coverage."""


def train_tokenizer(
    texts: Iterable[str],
    path: str | Path,
    n_vocab: int = 4096,
    coverage: float = 0.9995,
    max_piece_chars: int = 16,
    split_by_script: bool = True,
    split_by_number: bool = True,
    split_by_whitespace: bool = True,
    split_digits: bool = True,
    whitespace_pieces: bool = True,
    fold_text: bool = False,
) -> Tokenizer:
    """Train a tokenizer on texts and write its model file; the same texts make the same file on any machine.

    Args:
        texts: Read once; held in memory by the trainer.
        path: The file to write; it must not exist.
        n_vocab: Size of the vocabulary, special tokens and the 256 bytes included.
        coverage: Share of the texts' characters that have a token of their own, from 0.98 to 1; the rarest are encoded
            as bytes. The space always has a token.
        max_piece_chars: Maximum length of a token in characters, 1 to 512.
        split_by_script: Whether a token stays within one script.
        split_by_number: Whether a token never joins digits to letters.
        split_by_whitespace: Whether a space can only begin a token.
        split_digits: Whether each digit is a token.
        whitespace_pieces: Whether runs of spaces become tokens.
        fold_text: Whether letters are read as lower case and in one form (NFKC), a line end and a run of spaces as one
            space, and a text as if a space came before it, so that a word is the same tokens wherever it stands. Such
            texts do not come back from their tokens as they were.

    Raises:
        FileExistsError: There is a file at path.
        ValueError: There is no text, or n_vocab does not fit it; the message says which size does.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(
            f'{path} exists, and a tokenizer is never overwritten; move it away, or name another path'
        )
    names = _FOLDED_PIECES if fold_text else RESERVED_PIECES[:4]
    symbols = list(_FOLDED_SYMBOLS if fold_text else RESERVED_PIECES[4:])
    n_fixed = len(names) + len(symbols) + 256
    if n_vocab <= n_fixed:
        raise SettingsError(f'n_vocab is {n_vocab}; special tokens and bytes take {n_fixed}, so give more than that')
    check_coverage(coverage, 'coverage')
    if not 1 <= max_piece_chars <= _MAX_PIECE_CHARS:
        raise SettingsError(f'max_piece_chars is {max_piece_chars}; it must be 1 to {_MAX_PIECE_CHARS}')
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = _Lines(texts)
    model = io.BytesIO()
    beside = contextlib.ExitStack()
    artifacts.sweep(path.parent, path.name)
    try:
        partial = beside.enter_context(artifacts.part(path))  # fails before training where it cannot be written
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type='bpe',
            vocab_size=n_vocab,
            hard_vocab_limit=True,
            byte_fallback=True,
            normalization_rule_name='nmt_nfkc_cf' if fold_text else 'identity',
            add_dummy_prefix=fold_text,
            remove_extra_whitespaces=fold_text,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_piece=names[0],
            bos_piece=names[1],
            eos_piece=names[2],
            pad_piece=names[3],
            control_symbols=symbols,
            character_coverage=coverage,
            required_chars=SPACE_MARK,  # else unknown, so lost, where spaces are rarer than 1 - coverage
            input_sentence_size=0,
            max_sentence_length=4 * _MAX_LINE_CHARS + 4,
            max_sentencepiece_length=max_piece_chars,
            split_by_unicode_script=split_by_script,
            split_by_number=split_by_number,
            split_by_whitespace=split_by_whitespace,
            split_digits=split_digits,
            allow_whitespace_only_pieces=whitespace_pieces,
            num_threads=1,  # the file records it, so it would differ between machines; more threads gain nothing
            minloglevel=2,
        )
        # required_chars is removed from the file: most texts have spaces, and their models stay unchanged.
        tokenizer = Tokenizer.from_bytes(without_field(model.getvalue(), *_REQUIRED_CHARS), f'tokenizer {path}')
        partial.write_bytes(tokenizer.data)
        artifacts.put(partial, path)
    except OSError as error:
        raise OSError(error.errno, f'the tokenizer could not be written ({error.strerror})', str(path)) from error
    except RuntimeError as error:
        if lines.error is not None:
            raise lines.error from None
        message = _explain(str(error), n_vocab, coverage, lines)
        if found := _TOO_MANY.search(str(error)):
            raise VocabularyError(message, int(found[1])) from error
        kind = ValueError if 'sentences_.empty()' in str(error) else SettingsError
        raise kind(message) from error
    finally:
        beside.close()
    return tokenizer


def check_coverage(coverage: float, name: str) -> None:
    """Raise ValueError unless SentencePiece accepts this coverage; name is its name in the message."""
    if not MIN_COVERAGE <= coverage <= 1:
        raise SettingsError(f'{name} is {coverage}; it is a share of the characters, from {MIN_COVERAGE} to 1')


class _Lines:
    """The trainer's input lines; keeps an exception of the texts, which the trainer would hide."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.n_texts = 0
        self.n_chars = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                refuse_surrogates(text, f'text {self.n_texts}')
                self.n_texts += 1
                self.n_chars += len(text)
                for line in _NEVER_LEARNED.split(text):
                    yield from _bisect(line)
        except BaseException as error:  # Ctrl-C too
            self.error = error
            raise


def _bisect(line: str) -> Iterator[str]:
    """Halve a long line at the last space before its middle, or in the middle where there is none."""
    if len(line) <= _MAX_LINE_CHARS:
        if line:
            yield line
        return
    middle = line.rfind(' ', 1, len(line) // 2)
    middle = middle if middle > 0 else len(line) // 2
    yield from _bisect(line[:middle])
    yield from _bisect(line[middle:])


def _explain(message: str, n_vocab: int, coverage: float, lines: _Lines) -> str:
    """Translate an error message of SentencePiece into the names of our arguments."""
    if found := _TOO_MANY.search(message):
        return (
            f'n_vocab is {n_vocab}, but the {lines.n_texts} texts have no more than {found[1]} pieces to learn; '
            f'set n_vocab to {found[1]} or less, or give more text'
        )
    if found := re.search(r'smaller than required_chars. \d+ vs (\d+)', message):
        lower = f', or coverage lower (it may be {MIN_COVERAGE})' if coverage > MIN_COVERAGE else ''
        return (
            f'n_vocab is {n_vocab}, but special tokens, bytes and the characters of the texts alone take {found[1]}; '
            f'set n_vocab to {found[1]} or more{lower}'
        )
    if 'sentences_.empty()' in message:
        what = 'line ends, NUL, U+2581 or U+2585, which are always bytes' if lines.n_chars else 'nothing'
        return (
            f'there is no text to train a tokenizer on: the {lines.n_texts} texts hold {what}; check the source and '
            'the splits'
        )
    return f'SentencePiece could not learn {n_vocab} tokens from {lines.n_texts} texts: {message}'
