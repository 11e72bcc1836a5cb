"""Which documents of a split are examples, by their class: a few of each to train on, and none of an unknown one.

A draw of a few does not change where documents are added that are not drawn themselves.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from xlabml.artifacts.hashes import short_hash
from xlabml.data.corpus import Corpus
from xlabml.errors import SettingsError

from .records import GROUP

_MOST_NAMED = 5


def draw_per_class(
    corpus: Corpus, documents: Int64[np.ndarray, ' documents'], per_class: int, draw: int
) -> Int64[np.ndarray, ' few']:
    """At most `per_class` documents of each class: those with the smallest hash of their content and the draw.

    A draw of 8 is a part of that of 64, and the same for all formats that read the same texts and labels.

    Args:
        corpus: Has the class of each document.
        documents: Of the training split.
        per_class: How many of a class.
        draw: Another number is another draw.

    Raises:
        SettingsError: A document has no class.
    """
    by_class: dict[str, list[tuple[str, int]]] = {}
    words = corpus.words(documents)
    for document, word in zip(documents.tolist(), words.tolist()):
        group = corpus.columns(document)[GROUP] or {}
        if 'label' not in group:
            raise SettingsError(
                'data.examples.per_class draws from documents with one class each; name its column in '
                'data.examples.label, or leave per_class out'
            )
        by_class.setdefault(str(group['label']), []).append((short_hash([word, draw]), document))
    few = [f'{name!r} ({len(some)})' for name, some in sorted(by_class.items()) if len(some) < per_class]
    if few:
        warnings.warn(
            f'{len(few)} of {len(by_class)} classes have fewer than {per_class} training documents '
            f'(data.examples.per_class), and all of theirs are taken: {_name(few)}',
            stacklevel=2,
        )
    kept = [document for some in by_class.values() for _, document in sorted(some)[:per_class]]
    return np.array(sorted(kept), np.int64)


def of_classes(
    corpus: Corpus, documents: Int64[np.ndarray, ' e'], classes: Sequence[str], split: str
) -> Int64[np.ndarray, ' kept']:
    """The documents whose class is one of these; a warning names the others.

    Raises:
        SettingsError: There is none.
    """
    known = set(classes)
    unknown: Counter[str] = Counter()
    kept = []
    for document in documents.tolist():
        label = (corpus.columns(document)[GROUP] or {}).get('label')
        if label is None or str(label) in known:
            kept.append(document)
        else:
            unknown[str(label)] += 1
    if not unknown:
        return documents
    named = ', '.join(f'{name!r} ({n:,})' for name, n in unknown.most_common(_MOST_NAMED))
    if not kept:
        raise SettingsError(f'no document of the split {split} has a class of the training split; it has {named}')
    warnings.warn(
        f'{unknown.total():,} of {len(documents):,} documents of the split {split} are left out, since no training '
        f'document has their class: {named}{" …" if len(unknown) > _MOST_NAMED else ""}',
        stacklevel=2,
    )
    return np.array(kept, np.int64)


def check_per_class(per_class: int | None, draw: int, label: str | None) -> None:
    """See that a draw can be made; arguments as in `draw_per_class`, and the column of the class.

    Raises:
        SettingsError: It cannot.
    """
    if per_class is None:
        if draw:
            raise SettingsError(
                f'data.examples.draw is {draw}, but per_class is not set, so nothing is drawn; set it, or leave it out'
            )
        return
    if per_class < 1:
        raise SettingsError(f'data.examples.per_class is {per_class}; give 1 or more, or null for all')
    if label is None:
        raise SettingsError(
            'data.examples.per_class draws from documents with one class each; name its column in data.examples.label, '
            'or leave per_class out'
        )


def _name(some: Sequence[str]) -> str:
    return ', '.join(some[:_MOST_NAMED]) + (' …' if len(some) > _MOST_NAMED else '')
