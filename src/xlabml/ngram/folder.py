"""The folder of counted n-grams: flat arrays, a manifest, and the gates that were fitted for some models."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Integer
from numpy.typing import DTypeLike

from xlabml.artifacts import manifests, write_text
from xlabml.errors import DataError, SettingsError

from .discounts import N_COUNTED, find_discounts
from .gate import Gate

FORMAT = 1
MAX_ORDER = 8
KEYS = np.dtype('<i8')
COUNTS = np.dtype('<u4')
FLOATS = np.dtype('<f8')


class Level(NamedTuple):
    """The n-grams of one order above 1, in the order of their keys: `context · n_vocab + token`.

    Contexts are the n-grams of the order below, by their numbers there; those of order 1 are the tokens themselves.

    Args:
        keys: Rising.
        counts: Of each n-gram: how often it occurs in the highest order, and where it begins with the start of a text;
            else how many tokens it is known to follow.
        totals: Of each context the sum of the counts of the n-grams that continue it; 0: none does.
        backoffs: Of each context the share of the probability that goes to the order below.
        discounts: What is taken off a count of 0, 1, 2, and of 3 or more.
    """

    keys: Integer[np.ndarray, ' n']
    counts: Integer[np.ndarray, ' n']
    totals: Integer[np.ndarray, ' contexts']
    backoffs: Float64[np.ndarray, ' contexts']
    discounts: Float64[np.ndarray, ' 4']


class HeldOut(NamedTuple):
    """Texts that were not counted, for fitting gates.

    Args:
        ids: The tokens of all of them, back to back.
        ends: Where each ends.
    """

    ids: Integer[np.ndarray, ' t']
    ends: Integer[np.ndarray, ' documents']

    def texts(self) -> list[Integer[np.ndarray, ' t']]:
        """The tokens of each text."""
        return np.split(self.ids, self.ends[:-1]) if len(self.ends) else []


class CountedNgrams(NamedTuple):
    """The content of a folder, mapped into memory.

    Args:
        folder: Where it is.
        order: The longest n-gram.
        n_vocab: How many tokens there are.
        sos: The token before a text.
        eos: The token behind it.
        tokenizer: The hash of the tokenizer.
        n_tokens: Tokens that were counted, ends of texts included.
        unigrams: How many tokens each token is known to follow.
        discounts: Those of the unigrams.
        levels: The n-grams of order 2, 3 …
        held_out: Texts that were not counted.
    """

    folder: Path
    order: int
    n_vocab: int
    sos: int
    eos: int
    tokenizer: str
    n_tokens: int
    unigrams: Integer[np.ndarray, ' v']
    discounts: Float64[np.ndarray, ' 4']
    levels: list[Level]
    held_out: HeldOut

    def check_tokenizer(self, tokenizer_hash: str, whose: str) -> None:
        """Raise SettingsError where the n-grams are of another tokenizer.

        Args:
            whose: Whose tokenizer has this hash, for the message.
        """
        if tokenizer_hash != self.tokenizer:
            raise SettingsError(
                f'{self.folder} was counted with another tokenizer than that of {whose}; count the texts anew with '
                f'that: xlab-manage ngram {whose} TEXTS --output FOLDER'
            )

    def read_gate(self, model: str) -> Gate | None:
        """The gate of a model, by its name; None: none was fitted.

        Raises:
            DataError: Its file is not as it was written.
        """
        path = _gate_path(self.folder, model)
        if not path.is_file():
            return None
        found = manifests.read_json(path, f'delete {path}, and it is fitted anew')
        forms = {'order': frozenset({self.order}), 'weights': list, 'constant': object, 'n_tokens': int}
        misfit = manifests.find_misfit(found, forms)
        if misfit is None:
            numbers = [found['constant'], *found['weights']]
            if len(found['weights']) != Gate.n_features(self.order):
                misfit = f'weights has {len(found["weights"])} numbers'
            elif not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
                misfit = 'weights and constant are not all finite numbers'
            elif not 0 <= found['constant'] <= 1:
                misfit = f'constant is {found["constant"]}'
        if misfit is not None:
            raise DataError(f'{path} was changed by hand or is broken: {misfit}; delete it, and it is fitted anew')
        return Gate(np.array(found['weights'], float), float(found['constant']), found['n_tokens'])

    def write_gate(self, model: str, gate: Gate) -> None:
        """Keep the gate of a model beside the counts."""
        content = {
            'order': self.order,
            'weights': gate.weights.tolist(),
            'constant': gate.constant,
            'n_tokens': gate.n_tokens,
        }
        write_text(_gate_path(self.folder, model), json.dumps(content, indent=1) + '\n')


def open_ngrams(folder: Path) -> CountedNgrams:
    """Open a folder of counted n-grams.

    Raises:
        FileNotFoundError: There is none.
        DataError: It is not as it was written.
    """
    order = _read_order(folder)
    manifest = manifests.read_manifest(folder, make_kind(order))
    n_vocab = manifest['n_vocab']
    arrays = {name: manifests.map_array(folder, name, manifest) for name in manifest['files']}
    for name in ('sos', 'eos'):
        if manifest[name] >= n_vocab:
            raise DataError(f'{folder}: {name} is {manifest[name]}, and there are {n_vocab} tokens; count anew')
    manifests.check_range(arrays['held_out_ids'], 0, n_vocab - 1, folder, 'held_out_ids')
    manifests.check_ends(
        arrays['held_out_ends'], len(arrays['held_out_ids']), folder, 'held_out_ends', in_full=True, begins=False
    )
    discounts = [find_discounts(counts) for counts in manifest['counts_of_counts']]
    levels = [
        Level(
            keys=arrays[f'keys_{n}'],
            counts=arrays[f'counts_{n}'],
            totals=arrays[f'totals_{n}'],
            backoffs=arrays[f'backoffs_{n}'],
            discounts=discounts[n - 1],
        )
        for n in range(2, order + 1)
    ]
    return CountedNgrams(
        folder,
        order,
        n_vocab,
        manifest['sos'],
        manifest['eos'],
        manifest['tokenizer'],
        manifest['n_tokens'],
        arrays['counts_1'],
        discounts[0],
        levels,
        HeldOut(arrays['held_out_ids'], arrays['held_out_ends']),
    )


def make_kind(order: int) -> manifests.Kind:
    """The form of the manifest of n-grams of an order."""
    dtypes: dict[str, tuple[DTypeLike, ...]] = {
        'counts_1': (COUNTS,),
        'held_out_ids': (COUNTS,),
        'held_out_ends': (KEYS,),
    }
    for n in range(2, order + 1):
        dtypes |= {f'keys_{n}': (KEYS,), f'counts_{n}': (COUNTS,), f'totals_{n}': (COUNTS,), f'backoffs_{n}': (FLOATS,)}

    def sizes(manifest: manifests.Manifest) -> dict[str, int]:
        found = {'counts_1': manifest['n_vocab']}
        for n in range(2, order + 1):
            n_contexts = manifest['n_vocab'] if n == 2 else manifests.count_values(manifest, f'keys_{n - 1}')
            found[f'counts_{n}'] = manifests.count_values(manifest, f'keys_{n}')
            found |= {f'totals_{n}': n_contexts, f'backoffs_{n}': n_contexts}
        return found

    values = {
        **dict.fromkeys(('n_vocab', 'sos', 'eos', 'n_tokens', 'n_documents'), int),
        'order': frozenset({order}),
        'tokenizer': str,
        'counts_of_counts': ((int,) * N_COUNTED,) * order,
    }
    return manifests.Kind(FORMAT, dtypes, values, sizes)


def _gate_path(folder: Path, model: str) -> Path:
    return folder / f'gate-{model}.json'


def _read_order(folder: Path) -> int:
    path = folder / manifests.MANIFEST
    if not path.is_file():
        what = 'it holds no n-grams' if folder.is_dir() else 'there is no such folder'
        raise FileNotFoundError(f'{folder}: {what}; make one: xlab-manage ngram CKPT TEXTS --output {folder}')
    manifest: Any = manifests.read_json(path, manifests.remedy(folder))
    order = manifest.get('order') if isinstance(manifest, dict) else None
    if type(order) is not int or not 2 <= order <= MAX_ORDER:
        raise DataError(f'{folder} holds no n-grams that xlabml counted (order: {order!r}); name another folder')
    return order
