"""What a language model has to beat, on the data module's split: Kneser-Ney over the tokens that the model reads, byte
n-grams with Witten-Bell interpolation, and xz.

The tokens are those of a tokenizer that is trained on the train split, as for a model; orders are counted as
`xlabml.ngram` does it, and the end of a text is a token like any other.

An order-n model sees the n - 1 bytes before. Its estimate of byte w after context c is mixed with the next shorter
one's: (count(c w) + types(c) · p(w | shorter c)) / (count(c) + types(c)), where types(c) says how many different bytes
followed c; below order 1 every symbol is as likely. The end of a text is a symbol like any byte, contexts stay inside
their text, and bits are over bytes of text, as in the bits per byte of our models.
Source: Witten and Bell 1991, https://doi.org/10.1109/18.87000, method C.
"""

import argparse
import lzma
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xlabml.data import Location, Source, StandardLibrary, WikipediaLeads, split_names
from xlabml.data.corpus import splits_of
from xlabml.data.sources.validation import utf8
from xlabml.data.store import content_hash, hash_words
from xlabml.datamodules import XLabDataModule
from xlabml.datamodules.xlab_data_module import DEFAULT_SPLITS
from xlabml.ngram import Documents, KneserNey, count_ngrams, open_ngrams

BITS = 9
"""Of a symbol: a byte, or the end of a text. Seven symbols fit a 64-bit key."""
END = 256


class Counts(NamedTuple):
    """What was seen of one order: contexts with their symbol, and contexts; keys rise."""

    grams: np.ndarray
    gram_counts: np.ndarray
    contexts: np.ndarray
    context_counts: np.ndarray
    context_types: np.ndarray


def read_texts(source: Source, splits: Mapping[str, float]) -> dict[str, list[bytes]]:
    """The valid documents of each split."""
    texts = [data for document in source.documents() if isinstance(data := utf8(document.text), bytes)]
    which = splits_of(hash_words(b''.join(map(content_hash, texts))), splits)
    return {name: [texts[i] for i in np.flatnonzero(which == index)] for index, name in enumerate(split_names)}


def make_keys(texts: list[bytes], order: int) -> np.ndarray:
    """A number for each symbol together with the `order - 1` before it; before a text there are only ends."""
    before, end = np.full(order - 1, END), np.array([END])
    parts = [part for text in texts for part in (before, np.frombuffer(text, np.uint8), end)]
    symbols = np.concatenate(parts).astype(np.int64)
    is_asked = np.concatenate([np.full(len(part), part is not before) for part in parts])[order - 1 :]
    keys = np.zeros(len(is_asked), np.int64)
    for i in range(order):
        keys = keys << BITS | symbols[i : i + len(keys)]
    return keys[is_asked]


def count(keys: np.ndarray, order: int) -> Counts:
    """Count the last `order` symbols of each key."""
    grams, gram_counts = np.unique(keys & ((1 << BITS * order) - 1), return_counts=True)
    contexts, first, types = np.unique(grams >> BITS, return_index=True, return_counts=True)
    return Counts(grams, gram_counts, contexts, np.add.reduceat(gram_counts, first), types)


def look_up(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each key; 0 where it is not known."""
    where = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[where] == keys, values[where], 0)


def measure_ngrams(train: list[bytes], test: list[bytes], max_order: int) -> list[float]:
    """Bits per byte on the test texts, of orders 1 to max_order."""
    n_bytes = sum(map(len, test))
    train_keys, keys = make_keys(train, max_order), np.sort(make_keys(test, max_order))
    probability, figures = np.full(len(keys), 1 / (END + 1)), []
    for order in range(1, max_order + 1):
        counts = count(train_keys, order)
        grams = keys & ((1 << BITS * order) - 1)
        types = look_up(grams >> BITS, counts.contexts, counts.context_types)
        seen = look_up(grams >> BITS, counts.contexts, counts.context_counts)
        hits = look_up(grams, counts.grams, counts.gram_counts)
        mixed = (hits + types * probability) / np.maximum(1, seen + types)
        probability = np.where(seen > 0, mixed, probability)
        figures.append(float(-np.log2(probability).sum() / n_bytes))
    return figures


def measure_xz(test: list[bytes]) -> float:
    """Bits per byte of `xz -9e`, the texts one after another."""
    data = b''.join(test)
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def measure_kneser_ney(source: Source, n_vocab: int, orders: list[int]) -> list[float]:
    """Bits per byte on the test texts, of orders over the tokens of a tokenizer of n_vocab."""
    data = XLabDataModule(sources=[source], n_vocab=n_vocab)
    data.prepare_data()
    corpus = data.texts.corpus
    ids = data.texts.tokenizer.special_ids
    test = corpus.documents('test')
    texts = [np.asarray(corpus.tokens(document), np.int64) for document in test.tolist()]
    inputs = np.concatenate([part for text in texts for part in ([ids['sos']], text)])
    targets = np.concatenate([part for text in texts for part in (text, [ids['eos']])])
    starts = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
    figures = []
    for order in orders:
        train = map(corpus.tokens, corpus.documents('train').tolist())
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / 'counted'
            documents = Documents(train, corpus.n_vocab, ids['sos'], ids['eos'], corpus.tokenizer_hash)
            count_ngrams(documents, place, order)
            found = KneserNey(open_ngrams(place)).score(inputs, targets, starts)
        figures.append(float(-np.log2(found.probability).sum() / corpus.n_bytes(test).sum()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--source', default='wiki', help='wiki, stdlib, or a path of files with texts (jsonl, parquet …)'
    )
    parser.add_argument('--language', default='en', choices=['en', 'fr', 'es'], help='of wiki')
    parser.add_argument('--max_order', type=int, default=6, choices=range(1, 8))
    parser.add_argument('--n_vocab', type=int, default=8192, help='tokens of the tokenizer')
    options = parser.parse_args()
    named = {'wiki': lambda: WikipediaLeads(options.language), 'stdlib': StandardLibrary}
    source = named[options.source]() if options.source in named else Location(options.source)
    begin = time.perf_counter()
    texts = read_texts(source, DEFAULT_SPLITS)
    for name in ('train', 'test'):
        print(f'{name}: {len(texts[name]):,} texts, {sum(map(len, texts[name])):,} bytes')
    print(f'xz -9e of the test texts   {measure_xz(texts["test"]):.3f} bits/byte')
    for order, figure in enumerate(measure_ngrams(texts['train'], texts['test'], options.max_order), 1):
        print(f'byte n-grams of order {order}    {figure:.3f} bits/byte')
    for order, figure in zip((3, 5), measure_kneser_ney(source, options.n_vocab, [3, 5])):
        print(f'Kneser-Ney of order {order}, {options.n_vocab:,} tokens    {figure:.3f} bits/byte')
    print(f'{time.perf_counter() - begin:.0f} s')


if __name__ == '__main__':
    main()
