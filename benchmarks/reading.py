"""What comparing a file with its checksum costs: a checkpoint and an exported file, read and written with and without.

Cold: every page of the file is dropped from the system's cache before it is read (posix_fadvise; the disk's own cache,
or that of a virtual machine's host, is not). Warm: all of it is there. The two ways take turns, in one process.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

from xlabml import checkpoints, checksums

N_TENSORS = 64


def write_files(folder: Path, n_bytes: int) -> list[Path]:
    """A checkpoint of so many bytes of weights, and its export."""
    weights = {f'network.{i}': torch.randn(n_bytes // 4 // N_TENSORS) for i in range(N_TENSORS)}
    checkpoint = {
        'state_dict': weights,
        'hyper_parameters': {'_class_path': 'xlabml.models.XLabModel'},
        'XLabDataModule': {'tokenizer': torch.zeros(1000, dtype=torch.uint8)},
        'global_step': 1,
        'pytorch-lightning_version': '2.6.6',
    }
    checkpoints.write(checkpoint, folder / 'a.ckpt')
    return [folder / 'a.ckpt', checkpoints.export(folder / 'a.ckpt', folder / 'a.safetensors').path]


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Read and write as if there were no checksums."""
    with (
        mock.patch.object(checksums, 'compared', return_value=contextlib.nullcontext(True)),
        mock.patch.object(checksums, 'compare', return_value=True),
        mock.patch.object(checkpoints, 'dump', torch.save),
    ):
        yield


def drop(path: Path) -> None:
    """Take a file out of the system's cache."""
    with path.open('rb') as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes; what comes of it is let go afterwards."""
    begin = time.perf_counter()
    result = work()
    taken = time.perf_counter() - begin
    del result
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--gb', type=float, default=1.0, help='of weights')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--folder', help='where the files are written; default: a temporary one')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = write_files(Path(folder), int(options.gb * 1e9))
        for path in files:
            for state in ('cold', 'warm'):
                taken: dict[str, list[float]] = {'without': [], 'with': []}
                for _ in range(options.rounds):
                    for way, times in taken.items():
                        checkpoints.read(path) if state == 'warm' else drop(path)
                        with without() if way == 'without' else contextlib.nullcontext():
                            times.append(seconds(lambda path=path: checkpoints.read(path)))
                report(f'{state} read of {path.suffix}', taken)
        checkpoint, target = checkpoints.read(files[0]), Path(folder, 'b.ckpt')
        taken = {'without': [], 'with': []}
        for _ in range(options.rounds):
            for way, times in taken.items():
                with without() if way == 'without' else contextlib.nullcontext():
                    times.append(seconds(lambda: checkpoints.write(checkpoint, target)))
        report('write of .ckpt, to the disk', taken)


def report(what: str, taken: dict[str, list[float]]) -> None:
    """The medians, and what the checksum adds."""
    plain, compared = (statistics.median(times) for times in taken.values())
    ratios = sorted(b / a for a, b in zip(*taken.values()))
    print(
        f'{what}: {plain:.3f} s without, {compared:.3f} s with the checksum: {compared / plain:.3f} '
        f'(rounds {ratios[0]:.3f} to {ratios[-1]:.3f})',
        flush=True,
    )


if __name__ == '__main__':
    main()
