"""What a corpus looks like to a model: its vocabulary, how long its texts are, how well its rows are filled."""

from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Num

from xlabml.data.corpus import Corpus
from xlabml.data.order import permute
from xlabml.data.rows import PlanRows
from xlabml.tokenizer import Tokenizer

from .histograms import count_lengths, format_histogram


def compute_statistics(
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    plan: PlanRows,
    sample_size: int = 10_000,
    seed: int = 42,
    n_examples: int = 3,
) -> dict[str, object]:
    """Figures of a split.

    Args:
        plan: Its rows.
        sample_size: How many documents, drawn at random from all of the split, the lengths are taken from.
        seed: Of the draw.
        n_examples: How many texts of the sample are given as they are.

    Returns:
        Plain values: `vocabulary`, `rows` and `lengths` (first, last, count) exact, `characters` and `tokens` of the
        sample, `texts` counts, `examples` texts.

    Raises:
        ValueError: The sample is empty, or the split is.
    """
    if sample_size < 1:
        raise ValueError(f'sample_size is {sample_size}; it must be at least 1')
    documents = corpus.documents(split)
    n_sample = min(sample_size, len(documents))
    sample = documents[permute(np.arange(n_sample), len(documents), seed, 0)]
    _, lengths = corpus.token_spans(documents)
    _, tokens = corpus.token_spans(sample)
    characters = np.empty(n_sample, np.int64)
    n_byte_tokens = 0
    for i, document in enumerate(sample.tolist()):
        ids = corpus.tokens(document).tolist()
        characters[i] = len(tokenizer.decode(ids))
        n_byte_tokens += sum(map(tokenizer.is_byte, ids))
    n_bytes = int(corpus.n_bytes(sample).sum())
    piece_bytes = tokenizer.piece_bytes
    learned = [id for id in range(len(tokenizer)) if tokenizer.is_learned(id)]
    return {
        'split': split,
        'vocabulary': {
            'total': len(tokenizer),
            'learned': len(learned),
            'characters': sum(map(tokenizer.is_char, learned)),
            'non_ascii': sum(not piece_bytes[id].isascii() for id in learned),
        },
        'texts': {
            'documents': len(documents),
            'sample': n_sample,
            'tokens': int(lengths.sum()),
            'characters': round(int(lengths.sum()) * characters.sum() / tokens.sum()),
            'bytes': int(corpus.n_bytes(documents).sum()),
            'copies_in_sources': corpus.n_copies,
            'changed_in_sources': corpus.n_changed,
            'stored_in_sources': len(corpus),
            'invalid_in_sources': {
                reason: sum(store.manifest['invalid'].get(reason, {'count': 0})['count'] for store in corpus.stores)
                for reason in sorted({reason for store in corpus.stores for reason in store.manifest['invalid']})
            },
        },
        'lengths': count_lengths(lengths),
        'examples': [tokenizer.decode(corpus.tokens(i).tolist()) for i in sample[:n_examples].tolist()],
        'characters': _summary(characters),
        'tokens': _summary(tokens),
        'characters_per_token': float(characters.sum() / tokens.sum()),
        'bytes_per_token': float(n_bytes / tokens.sum()),
        'byte_fallback_ratio': float(n_byte_tokens / tokens.sum()),
        'rows': {
            'count': len(plan),
            'length': plan.length,
            'fill_ratio': plan.fill_ratio,
            'used': plan.n_used,
            'padded': plan.n_padded,
            'cut': plan.n_cut,
            'max_pieces': plan.max_pieces,
        },
    }


def format_statistics(statistics: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    vocabulary, texts, rows = (statistics[name] for name in ('vocabulary', 'texts', 'rows'))
    decoded = '' if texts['changed_in_sources'] is None else ' (as decoded)'
    lines = [
        ('vocabulary', f'{vocabulary["total"]:,} tokens: {vocabulary["learned"]:,} learned'),
        ('', f'{vocabulary["characters"]:,} of them single characters, {vocabulary["non_ascii"]:,} not ASCII'),
        ('split', f'{statistics["split"]}: {texts["documents"]:,} texts, {texts["bytes"]:,} bytes'),
        ('', f'{texts["tokens"]:,} tokens, about {texts["characters"]:,} characters{decoded}'),
        ('left out', _list_counts(texts['invalid_in_sources']) + ' (all splits)'),
        ('copies', f'{texts["copies_in_sources"]:,} texts dropped as exact copies of others (all splits)'),
        *([] if texts['changed_in_sources'] is None else [('changed', _format_changed(texts))]),
        ('sequences', f'{rows["count"]:,} of {rows["length"]:,} tokens, {rows["fill_ratio"]:.1%} filled'),
        ('', f'{rows["used"]:,} slots used, {rows["padded"]:,} padded'),
        ('', f'{rows["cut"]:,} tokens cut off from the beginning of their text'),
        ('', f'{rows["max_pieces"]} documents in one at most'),
        ('sample', f'{texts["sample"]:,} texts drawn at random; mean (median) ± standard deviation'),
        ('characters', _format_summary(statistics['characters']) + decoded),
        ('tokens', _format_summary(statistics['tokens'])),
        (
            'per token',
            f'{statistics["characters_per_token"]:.2f} characters, {statistics["bytes_per_token"]:.2f} bytes',
        ),
        ('bytes', f'{statistics["byte_fallback_ratio"]:.2%} of the tokens spell a character in bytes'),
    ]
    histogram = format_histogram(statistics['lengths'])
    lines += [('tokens of' if i == 0 else 'each text' if i == 1 else '', line) for i, line in enumerate(histogram)]
    examples = [f'{shorten(text, 80, placeholder=" …")!r}' for text in statistics['examples']]
    lines += [('examples' if i == 0 else '', example) for i, example in enumerate(examples)]
    return '\n'.join(f'{name:12}{value}' for name, value in lines)


def _format_changed(texts: dict[str, Any]) -> str:
    n = texts['changed_in_sources']
    n_all = texts['stored_in_sources']
    return f'{n:,} of {n_all:,} texts ({n / n_all:.2%}) do not come back as they were (all splits)'


def _summary(values: Num[np.ndarray, ' n']) -> dict[str, float]:
    return {'mean': float(values.mean()), 'median': float(np.median(values)), 'std': float(values.std())}


def _format_summary(summary: dict[str, float]) -> str:
    return f'{summary["mean"]:.1f} ({summary["median"]:.0f}) ± {summary["std"]:.1f}'


def _list_counts(counts: dict[str, int]) -> str:
    return ', '.join(f'{count:,} {reason}' for reason, count in counts.items()) or 'none'
