"""Retrieval data sets in the layout of BEIR: a corpus, queries, and which documents are relevant to which query.

Source: Thakur et al. 2021, https://arxiv.org/abs/2104.08663. NanoBEIR's parquet folders have the same three parts.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from xlabml.errors import DataError, SettingsError

from .base import Document, Source, SplitName, check_columns
from .files import file_columns
from .location import Location

COLUMNS = ('query_id', 'query', 'positive', 'negatives')
_QRELS = {'query': ('query-id', 'query_id'), 'document': ('corpus-id', 'corpus_id'), 'score': ('score',)}


def read_corpus(folder: str | Path, only: Set[str] | None = None) -> Iterator[tuple[str, str]]:
    """The documents: (id, title and text, a blank between them).

    Args:
        folder: Of the data set.
        only: The ids of those that are wanted; None: all.

    Raises:
        ValueError: There is no corpus, or it lacks a column.
    """
    source = _open(folder, 'corpus')
    has_title = 'title' in _columns(source)
    for document in source.documents(['_id', *(['title'] if has_title else [])]):
        name = str(document.columns['_id'])
        if only is None or name in only:
            title = document.columns.get('title')
            text = '' if document.text is None else str(document.text)
            yield name, f'{title} {text}' if title else text


def read_queries(folder: str | Path) -> dict[str, str]:
    """The text of each query, by its id."""
    return {str(found.columns['_id']): str(found.text) for found in _open(folder, 'queries').documents(['_id'])}


def read_qrels(folder: str | Path, split: str = 'test') -> dict[str, dict[str, float]]:
    """How relevant documents are to queries: by the query's id, then by the document's; 0: looked at and not relevant.

    Args:
        folder: Of the data set.
        split: The name of the file in `qrels/`; where there is one file without splits, it is that.

    Raises:
        ValueError: There are no relevance judgements of this split, or they lack a column.
    """
    path = Path(folder) / 'qrels'
    file = path / f'{split}.tsv'
    source = Location(str(file), column='query-id') if file.is_file() else _open(folder, 'qrels')
    there = _columns(source)
    query, document, score = (next((name for name in names if name in there), names[0]) for names in _QRELS.values())
    found: dict[str, dict[str, float]] = defaultdict(dict)
    columns = [query, document, *([score] if score in there else [])]
    for row in source.of_columns(columns).documents(columns):
        value = row.columns.get(score, 1)
        try:
            relevance = float(value) if isinstance(value, int | float | str) else float('nan')
        except ValueError:
            relevance = float('nan')
        if not relevance >= 0:
            raise DataError(f'{source}, row {row.row}: the relevance {value!r} is no number of 0 or more')
        found[str(row.columns[query])][str(row.columns[document])] = relevance
    return dict(found)


class BeirFolder(Source):
    """The queries of a retrieval data set, each with the texts that were judged: columns for `TextGroups`.

    A folder with `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`, or with `corpus`, `queries` and `qrels` as
    folders or parquet files. Columns: query_id, query, positive (the relevant texts), negatives (those judged as not
    relevant); a query without a relevant text is left out.

    Args:
        path: The folder.
        split: The name of the file in `qrels/`.
        only: The split of ours that all of it is in; null: queries are divided as data.splits says.
    """

    def __init__(self, path: str, split: str = 'train', only: SplitName | None = None) -> None:
        self.path = path
        self.split = split
        self.only = only

    def __str__(self) -> str:
        return f'{self.path}[{self.split}]'

    def documents(self, columns: Sequence[str] = ()) -> Iterator[Document]:
        check_columns(columns, COLUMNS, f'source {self}')
        judged = read_qrels(self.path, self.split)
        texts = dict(read_corpus(self.path, {name for some in judged.values() for name in some}))
        row = 0
        for query_id, query in read_queries(self.path).items():
            some = judged.get(query_id, {})
            missing = [name for name in some if name not in texts]
            if missing:
                raise DataError(
                    f'{self}: document {missing[0]!r}, judged for query {query_id!r}, is not in the corpus; fetch the '
                    'data set again'
                )
            known: dict[str, object] = {
                'query_id': query_id,
                'query': query,
                'positive': [texts[name] for name, score in some.items() if score > 0],
                'negatives': [texts[name] for name, score in some.items() if score == 0],
            }
            if known['positive']:
                yield Document(row, query, {name: known[name] for name in columns})
                row += 1

    def fingerprint(self) -> dict[str, object]:
        files = [[file.name, file.stat().st_size] for file in self.files()]
        return {'class': 'BeirFolder', 'split': self.split, 'files': files}

    def files(self) -> list[Path]:
        qrels = Path(self.path) / 'qrels' / f'{self.split}.tsv'
        parts = [_open(self.path, name).files() for name in ('corpus', 'queries')]
        return [*parts[0], *parts[1], *([qrels] if qrels.is_file() else _open(self.path, 'qrels').files())]


def _open(folder: str | Path, name: str) -> Location:
    """One of the three parts."""
    column = {'qrels': 'query-id'}.get(name, 'text')
    for path in (Path(folder) / f'{name}{ending}' for ending in ('.jsonl', '.jsonl.gz', '', '.parquet')):
        if path.exists() and not (name == 'qrels' and any(path.glob('*.tsv'))):
            return Location(str(path), column=column)
    there = sorted(file.name for file in Path(folder).glob('*')) + sorted(
        f'qrels/{file.name}' for file in Path(folder).glob('qrels/*')
    )
    raise SettingsError(
        f'{folder} has no {name} as BEIR lays it out (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, or folders of '
        f'these names); there is {", ".join(there) or "nothing"}; check the path and the split'
    )


def _columns(source: Location) -> Sequence[str]:
    """The columns of the first file of a part."""
    return file_columns(source.files()[0])
