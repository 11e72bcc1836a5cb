"""Learn a vocabulary from texts: SentencePiece's byte-pair trainer, set up so that nothing of a text is ever lost."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from .tokenizer import RESERVED_PIECES, Tokenizer, refuse_surrogates

# Line ends are always bytes, so that a long line is not one word; the trainer keeps NUL, U+2581 and U+2585 to itself.
_NEVER_LEARNED = re.compile('[\n\0\u2581\u2585]')
_MAX_LINE_CHARS = 65_536


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
) -> Tokenizer:
    """Learn a tokenizer from texts and write its model file; the same texts give the same file on any machine.

    Args:
        texts: Read once; held in memory by the trainer.
        path: Where the file goes; nothing may be there.
        n_vocab: How many tokens, the special ones and the 256 bytes included.
        coverage: Share of the texts' characters that get a token of their own; the rarest are spelt in bytes.
        max_piece_chars: No token is longer.
        split_by_script: Whether a token stays within one script.
        split_by_number: Whether a token never joins digits to letters.
        split_by_whitespace: Whether a space can only begin a token.
        split_digits: Whether each digit is a token.
        whitespace_pieces: Whether runs of spaces become tokens.

    Raises:
        FileExistsError: There is a file at path.
        ValueError: There is no text, or n_vocab does not fit it; the message says what would.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(
            f'{path} exists, and a tokenizer is never overwritten; move it away, or name another path'
        )
    n_fixed = len(RESERVED_PIECES) + 256
    if n_vocab <= n_fixed:
        raise ValueError(f'n_vocab is {n_vocab}; special tokens and bytes take {n_fixed}, so give it more than that')
    if not 0 < coverage <= 1:
        raise ValueError(f'coverage is {coverage}; it is a share, above 0 and at most 1')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    lines = _Lines(texts)
    try:
        with partial.open('wb') as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=file,
                model_type='bpe',
                vocab_size=n_vocab,
                hard_vocab_limit=True,
                byte_fallback=True,
                normalization_rule_name='identity',
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=3,
                unk_piece=RESERVED_PIECES[0],
                bos_piece=RESERVED_PIECES[1],
                eos_piece=RESERVED_PIECES[2],
                pad_piece=RESERVED_PIECES[3],
                control_symbols=list(RESERVED_PIECES[4:]),
                character_coverage=coverage,
                input_sentence_size=0,
                max_sentence_length=4 * _MAX_LINE_CHARS + 4,
                max_sentencepiece_length=max_piece_chars,
                split_by_unicode_script=split_by_script,
                split_by_number=split_by_number,
                split_by_whitespace=split_by_whitespace,
                split_digits=split_digits,
                allow_whitespace_only_pieces=whitespace_pieces,
                num_threads=1,  # the file records it, and would be another on another machine; the gain is nil
                minloglevel=2,
            )
        tokenizer = Tokenizer.load(partial)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, f'the tokenizer could not be written ({error.strerror})', str(path)) from error
    except RuntimeError as error:
        if lines.error is not None:
            raise lines.error from None
        raise ValueError(_explain(str(error), n_vocab, lines.n_texts)) from error
    finally:
        partial.unlink(missing_ok=True)
    return Tokenizer(tokenizer.data, f'tokenizer {path}')


class _Lines:
    """The lines that the trainer sees; keeps what went wrong in the texts, which the trainer would hide.

    Args:
        texts: Any texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.n_texts = texts, 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                refuse_surrogates(text, f'text {self.n_texts}')
                self.n_texts += 1
                for line in _NEVER_LEARNED.split(text):
                    yield from _bisect(line)
        except BaseException as error:  # Ctrl-C too
            self.error = error
            raise


def _bisect(line: str) -> Iterator[str]:
    """A long line in halves, cut at the space nearest before the middle, or in the middle where there is none."""
    if len(line) <= _MAX_LINE_CHARS:
        if line:
            yield line
        return
    middle = line.rfind(' ', 1, len(line) // 2)
    middle = middle if middle > 0 else len(line) // 2
    yield from _bisect(line[:middle])
    yield from _bisect(line[middle:])


def _explain(message: str, n_vocab: int, n_texts: int) -> str:
    """Say in the caller's words what SentencePiece says in its own."""
    if found := re.search(r'too high \(\d+\).*<= (\d+)', message):
        return (
            f'n_vocab is {n_vocab}, but the {n_texts} texts have no more than {found[1]} pieces to learn; '
            f'set n_vocab to {found[1]} or less, or give more text'
        )
    if found := re.search(r'smaller than required_chars. \d+ vs (\d+)', message):
        return (
            f'n_vocab is {n_vocab}, but special tokens, bytes and the characters of the texts alone take {found[1]}; '
            'set n_vocab above that, or coverage lower'
        )
    if 'sentences_.empty()' in message:
        return f'there is no text to train a tokenizer on ({n_texts} texts, all empty); check the source and the splits'
    return f'SentencePiece could not learn {n_vocab} tokens from {n_texts} texts: {message}'
