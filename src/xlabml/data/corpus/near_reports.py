"""What near-duplicates there are, for people; and the refusal of those that train shares with another split."""

import numpy as np

from .corpus import Corpus
from .near_duplicates import NearPairs
from .splits import split_names


def shared_between_splits(corpus: Corpus, pairs: NearPairs) -> dict[tuple[str, str], int]:
    """How many documents of a split have a near-duplicate in another one.

    Returns:
        For (split, other split): the number of documents of the first that have one in the second.
    """
    later = corpus.splits(pairs.later)
    earlier = corpus.splits(pairs.earlier)
    found = {}
    for i, one in enumerate(split_names):
        for j, other in enumerate(split_names):
            documents = np.concatenate(
                [pairs.later[(later == i) & (earlier == j)], pairs.earlier[(earlier == i) & (later == j)]]
            )
            if i != j and len(documents):
                found[one, other] = len(np.unique(documents))
    return found


def describe_near_duplicates(corpus: Corpus, pairs: NearPairs) -> list[str]:
    """Lines for a terminal: how many there are, some of them by name, and what the splits share."""
    n = int(pairs.marks().sum(dtype=np.int64))
    dropped = ' and are dropped' if corpus.near is not None else ''
    lines = [f'{n:,} of {len(corpus):,} documents are near-duplicates of earlier ones{dropped}']
    lines += [f'  {line}' for line in _name(corpus, pairs, np.arange(len(pairs.later)))]
    for (one, other), count in shared_between_splits(corpus, pairs).items():
        lines.append(f'{count:,} documents of {one} have a near-duplicate in {other}')
    return lines


def check_near_duplicates(corpus: Corpus, pairs: NearPairs) -> None:
    """Raise ValueError if the train split has near-duplicates of documents of another split, and say which."""
    shared = {one: n for (one, other), n in shared_between_splits(corpus, pairs).items() if other == 'train'}
    if not shared:
        return
    later = corpus.splits(pairs.later)
    earlier = corpus.splits(pairs.earlier)
    train = split_names.index('train')
    apart = np.flatnonzero((later != earlier) & (later >= 0) & (earlier >= 0) & ((later == train) | (earlier == train)))
    named = _name(corpus, pairs, apart)
    more = ' …' if sum(shared.values()) > 5 else ''
    counts = ', '.join(f'{n:,} documents of {split}' for split, n in shared.items())
    raise ValueError(
        f'{counts} have near-duplicates in the train split: {"; ".join(named)}{more}; drop them with '
        '--data.near_duplicates.action drop, or accept them with report'
    )


def _name(corpus: Corpus, pairs: NearPairs, where: np.ndarray) -> list[str]:
    """The first few pairs, by their documents' names and splits."""
    lines = []
    for later, earlier, similarity in pairs.examples(where):
        splits = [
            split_names[split] if split >= 0 else 'no split' for split in corpus.splits(np.array([later, earlier]))
        ]
        lines.append(
            f'{corpus.name(later)} ({splits[0]}) is nearly {corpus.name(earlier)} ({splits[1]}), {similarity:.0%} alike'
        )
    return lines
