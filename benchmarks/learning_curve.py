"""Draw the bits per byte of runs over their training: what the README shows. Needs the extra `plots`.

python benchmarks/learning_curve.py logs/version_0 --output docs/learning_curve.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a curve."""
    events = EventAccumulator(str(folder), purge_orphaned_data=True)
    events.Reload()
    points = events.Scalars(name)
    return [point.step for point in points], [point.value for point in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', nargs='+', type=Path, help='folders logs/version_N')
    parser.add_argument('--output', type=Path, default=Path('learning_curve.png'))
    parser.add_argument('--baseline', action='append', default=[], metavar='NAME=BITS', help='a line to compare with')
    options = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110, layout='constrained')
    for run in options.runs:
        label = f' {run}' if len(options.runs) > 1 else ''
        line = axes.plot(*read(run, 'train_bits_per_byte'), linewidth=0.8, alpha=0.5, label=f'train{label}')[0]
        axes.plot(*read(run, 'val_bits_per_byte'), 'o-', markersize=3, color=line.get_color(), label=f'val{label}')
    for text in options.baseline:
        name, _, bits = text.partition('=')
        axes.axhline(float(bits), linestyle=':', color='gray', linewidth=1)
        axes.text(axes.get_xlim()[1], float(bits), f'{name} ', ha='right', va='bottom', fontsize=8, color='gray')
    axes.set_xlabel('optimizer step')
    axes.set_ylabel('bits per byte')
    axes.set_ylim(1.4, 3.6)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(options.output)
    print(f'written: {options.output}')


if __name__ == '__main__':
    main()
