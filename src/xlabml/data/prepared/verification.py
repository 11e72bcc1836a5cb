"""What lies in the cache for the texts of a data module, compared with the hashes of what was written."""

from collections.abc import Iterator

from xlabml import paths
from xlabml.data.corpus import Corpus, small_splits, split_names, verify_copies, verify_near_duplicates, verify_splits
from xlabml.data.mixed import FormatMixture
from xlabml.data.rows import Format, RowFormat, verify_plan
from xlabml.data.store import TokenStore, describe_changed

from .texts import Texts


def verify(texts: Texts) -> Iterator[str]:
    """Read the stores that are there, and the copies, near-duplicates, splits and plans that were made of them.

    Yields:
        A line for people on each store and plan.

    Raises:
        ValueError: One of them is not as it was written; it is named.
    """
    for store in texts.stores():
        store.verify()
        yield f'store: {store.folder} is as it was written ({len(store):,} documents)'
        if changed := describe_changed(store.manifest):
            yield f'  {changed}'
    stores = texts.corpus_stores()
    corpus = _verify_corpus(texts, stores) if stores else None
    form = texts.examples
    if corpus is None:
        return
    if isinstance(form, FormatMixture):
        for part, some in zip(form.parts, form.reads):
            yield from _verify_examples(texts, part, corpus.of_stores(some))
    else:
        yield from _verify_examples(texts, form, corpus)


def _verify_examples(texts: Texts, form: Format, corpus: Corpus) -> Iterator[str]:
    """What was laid out of a corpus for the examples of a format."""
    reading = texts.reading()
    lines = form.verify(corpus, reading)
    yield from lines or []
    if lines is None or not isinstance(form, RowFormat):
        return
    for split in split_names:
        for stage in ('train', 'val'):
            view = form.view(corpus, stage, 0, reading)
            plan = verify_plan(texts.plan, corpus, split, stage != 'train', reading.folder, view)
            if plan is not None:
                yield f'plan: {plan.folder} is as it was written ({len(plan):,} rows of {split})'


def _verify_corpus(texts: Texts, stores: list[TokenStore]) -> Corpus | None:
    """The corpus of these stores; None where something that it needs was not made yet: there are no rows then."""
    copies = near = drawn = None
    if texts.drop_duplicates:
        copies = verify_copies(stores, texts.copies_folder)
    if texts.near_duplicates is not None:
        near = verify_near_duplicates(stores, texts.near_duplicates, texts.drop_duplicates, paths.near_duplicates())
    drops_near = texts.near_duplicates is not None and texts.near_duplicates.action == 'drop'
    if (texts.drop_duplicates and copies is None) or (drops_near and near is None):
        return None
    if texts.splitting.is_plain:
        drawn = small_splits(stores, texts.splitting.ratios)
    else:
        drawn = verify_splits(stores, texts.splitting, texts.splits_folder)
        if drawn is None:
            return None
    return Corpus(stores, texts.splitting.ratios, copies, near if drops_near else None, drawn)
