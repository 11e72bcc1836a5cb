"""What a classifier said of each example of a split, as a parquet file: what runs are compared by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from xlabml.errors import DataError, SettingsError

from .bootstrap import mean_interval
from .class_baselines import Outputs
from .class_table import example_losses, example_scores
from .classification import Labels

if TYPE_CHECKING:
    import pyarrow as pa

FILE = '{}-examples.parquet'
"""The file of the results of a split, in the folder of a run."""

_FORMAT = '1'


class ClassResults(NamedTuple):
    """A split with what is known of each of its examples.

    Args:
        task: As in SequenceClassifier.
        classes: Their names, in the order of the columns; () of a regression.
        ids: The name of each example, for people.
        keys: The hash of each example's content, and its number among those that have the same.
        labels: Of each example.
        groups: The group of each (`data.group`); None: there are none.
        systems: Calibrated outputs by the name of the system, the classifier first.
        texts: What each example says, the beginning of it; (): not known.
    """

    task: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    keys: tuple[str, ...]
    labels: Labels
    groups: Int[Tensor, ' e'] | None
    systems: Mapping[str, Outputs]
    texts: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file; the caller sees to it that this is atomic."""
        import pyarrow as pa
        from pyarrow import parquet

        columns = {'id': pa.array(self.ids), 'key': pa.array(self.keys), 'label': _as_column(self.labels)}
        if self.groups is not None:
            columns['group'] = pa.array(self.groups.tolist(), pa.int64())
        if self.texts:
            # Half a surrogate pair, which no encoding has, is shown as an escape.
            columns['text'] = pa.array([one.encode('utf-8', 'backslashreplace').decode() for one in self.texts])
        columns |= {f'output: {name}': _as_column(outputs) for name, outputs in self.systems.items()}
        known = {'xlabml.format': _FORMAT, 'xlabml.task': self.task, 'xlabml.classes': '\n'.join(self.classes)}
        parquet.write_table(pa.table(columns).replace_schema_metadata(known), path)

    @classmethod
    def read(cls, path: Path) -> 'ClassResults':
        """Read a file.

        Raises:
            DataError: It is none that `write` has written.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.read_table(path)
            known = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            names = [name for name in table.column_names if name.startswith('output: ')]
            groups = None
            if 'group' in table.column_names:
                groups = torch.from_numpy(table.column('group').to_numpy().astype(np.int64))
            found = cls(
                known['xlabml.task'],
                tuple(filter(None, known['xlabml.classes'].split('\n'))),
                tuple(table.column('id').to_pylist()),
                tuple(table.column('key').to_pylist()),
                _of_column(table.column('label')),
                groups,
                {name.removeprefix('output: '): _of_column(table.column(name)) for name in names},
                tuple(table.column('text').to_pylist()) if 'text' in table.column_names else (),
            )
        except (KeyError, ValueError, OSError, pa.ArrowException) as error:
            raise DataError(f'{path} holds no results of a classifier ({error}); run xlab test again') from error
        if known.get('xlabml.format') != _FORMAT or not found.systems:
            raise DataError(f'{path} holds no results of a classifier in this format; run xlab test again')
        return found

    @property
    def own(self) -> Outputs:
        """The outputs of the classifier itself."""
        return next(iter(self.systems.values()))

    def picked(self, places: Int[Tensor, ' p']) -> 'ClassResults':
        """Some of the examples, in the order of the places."""
        order = places.tolist()
        return self._replace(
            ids=tuple(self.ids[i] for i in order),
            keys=tuple(self.keys[i] for i in order),
            labels=self.labels[places],
            groups=None if self.groups is None else self.groups[places],
            systems={name: outputs[places] for name, outputs in self.systems.items()},
            texts=tuple(self.texts[i] for i in order) if self.texts else (),
        )


def find_results(folder: Path, splits: Sequence[str] = ('test', 'val')) -> tuple[ClassResults, str]:
    """The results in the folder of a run, of the first of some splits that it has, and which that is.

    Raises:
        SettingsError: There are none.
    """
    for split in splits:
        path = folder / FILE.format(split)
        if path.is_file():
            return ClassResults.read(path), split
    command = 'test --ckpt_path CKPT' if 'test' in splits else 'fit'
    raise SettingsError(
        f'{folder} has no {" or ".join(FILE.format(split) for split in splits)}, which xlab {command} writes for '
        'classifiers; run that first'
    )


def make_keys(hashes: list[str]) -> tuple[str, ...]:
    """Each hash with its number among its copies, so that no two examples have one key."""
    seen: Counter[str] = Counter()
    keys = []
    for one in hashes:
        keys.append(f'{one}-{seen[one]}' if seen[one] else one)
        seen[one] += 1
    return tuple(keys)


def pool(parts: list[ClassResults]) -> ClassResults:
    """The examples of several splits as one, in the order of their keys.

    Raises:
        DataError: An example is in two of them, or they have other classes.
    """
    first = parts[0]
    for part in parts[1:]:
        if (part.task, part.classes) != (first.task, first.classes):
            raise DataError(
                f'results have the classes {", ".join(first.classes)} and {", ".join(part.classes)}, which cannot be '
                'pooled; name the classes in data.examples.classes'
            )
    keys = [key for part in parts for key in part.keys]
    twice = [key for key, n in Counter(keys).items() if n > 1]
    if twice:
        place = keys.index(twice[0])
        name = [one for part in parts for one in part.ids][place]
        raise DataError(f'{len(twice)} examples are in two of the splits, the first of them {name}; set data.group')
    shared = [name for name in first.systems if all(name in part.systems for part in parts)]
    groups = [part.groups for part in parts if part.groups is not None]
    whole = first._replace(
        ids=tuple(one for part in parts for one in part.ids),
        keys=tuple(keys),
        labels=torch.cat([part.labels for part in parts]),
        groups=torch.cat(groups) if len(groups) == len(parts) else None,
        systems={name: torch.cat([part.systems[name] for part in parts]) for name in shared},
        texts=tuple(one for part in parts for one in part.texts) if all(part.texts for part in parts) else (),
    )
    return whole.picked(torch.tensor(sorted(range(len(keys)), key=keys.__getitem__)))


def describe_mean(results: Sequence[ClassResults]) -> list[str]:
    """The mean over several runs that were tested on the same examples; [] where they were not, or of one run."""
    first, *others = results
    if not others or any(other.keys != first.keys for other in others):
        return []
    losses = torch.stack([example_losses(one.own, first.labels, first.task) for one in results]).mean(0)
    loss = mean_interval(losses, first.groups)
    line = f'mean of {len(results)} seeds: loss {loss.value:.4f} [{loss.low:.4f}, {loss.high:.4f}]'
    if first.task != 'regression':
        scores = torch.stack([example_scores(one.own, first.labels, first.task) for one in results]).mean(0)
        score = mean_interval(scores, first.groups)
        line += f', accuracy {score.value:.1%} [{score.low:.1%}, {score.high:.1%}]'
    return [line]


def _as_column(values: Tensor) -> 'pa.Array':
    import pyarrow as pa

    if values.dim() == 1:
        return pa.array(values.numpy())
    kind = pa.list_(pa.from_numpy_dtype(values.numpy().dtype), values.size(1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().reshape(-1)), type=kind)


def _of_column(column: 'pa.ChunkedArray') -> Tensor:
    import pyarrow as pa

    whole = column.combine_chunks()
    if pa.types.is_fixed_size_list(whole.type):
        return torch.from_numpy(whole.values.to_numpy().reshape(-1, whole.type.list_size).copy())
    return torch.from_numpy(whole.to_numpy().copy())
