"""Files of rated movie snippets: their mean rating, pairs with the raters' probabilities, and pieces for a teacher.

    python benchmarks/snippets.py files movie_snippets.jsonl.gz FOLDER --more brown.jsonl.gz
    xlab fit -c conf/classify.yaml -c conf/extra/finetune.yaml --init_from ENCODER --model.task regression …
    infer.py RUN --classify --file FOLDER/pieces.csv --id id --output FOLDER/said.csv
    python benchmarks/snippets.py student FOLDER

`files` writes train, val and test (by the hash of the folded text), pairs_train, pairs_val and pairs_test, and
pieces.csv: halves and spans of the training snippets, halves of two together, and spans of other texts (`--more`).
`student` writes student.jsonl: training snippets with their ratings, and pieces with the predictions of the teacher.
"""

import argparse
import csv
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from search_pairs import Record, place, read

N_PAIRS = {'train': 9000, 'val': 3000, 'test': 6000}
N_MORE = 40_000
FEWEST_WORDS = 6
SCALE = 4.0
"""Ratings go from minus this to this."""


def write_rows(path: Path, rows: Iterable[Record]) -> None:
    """JSON lines."""
    with path.open('w', encoding='utf-8') as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


def split(snippets: Iterable[Record]) -> dict[str, list[Record]]:
    """Each text once, .9 of them for training."""
    found: dict[str, list[Record]] = {name: [] for name in N_PAIRS}
    seen: set[str] = set()
    for snippet in snippets:
        folded = snippet['text'].lower()
        if folded in seen:
            continue
        seen.add(folded)
        at = place(folded)
        found['train' if at < 0.9 else 'val' if at < 0.95 else 'test'].append(snippet)
    return found


def draw_pairs(snippets: list[Record], n: int, generator: np.random.Generator) -> list[Record]:
    """Pairs, with the probabilities that a rater of the first says more, the same, less than one of the second."""
    rows = []
    done = set()
    while len(rows) < n:
        i, j = generator.choice(len(snippets), 2, replace=False).tolist()
        if (min(i, j), max(i, j)) in done:
            continue
        done.add((min(i, j), max(i, j)))
        a, b = snippets[i], snippets[j]
        apart = np.array(a['ratings'])[:, None] - np.array(b['ratings'])[None]
        shares = {'p_a': (apart > 0).mean(), 'p_tie': (apart == 0).mean(), 'p_b': (apart < 0).mean()}
        rows.append(
            {'id': f'{a["id"]}-{b["id"]}', 'a': a['text'], 'b': b['text']}
            | {name: float(share) for name, share in shares.items()}
        )
    return rows


def span(words: list[str], n: int, draw: random.Random) -> str:
    """n words that stand together."""
    first = draw.randint(0, len(words) - n)
    return ' '.join(words[first : first + n])


def mixed(first: list[str], second: list[str]) -> str:
    """The first half of the words of a text, and the last half of those of another."""
    return ' '.join(first[: len(first) // 2] + second[len(second) // 2 :])


def make_pieces(texts: list[str], more: Iterable[str], rounds: int, draw: random.Random) -> list[str]:
    """Halves and two spans of each text, its first half with the last one of another, and spans of more texts.

    Each round after the first adds a span of any length and two more mixtures of halves for each text.
    """
    pieces = []
    for text in texts:
        words = text.split()
        n = len(words)
        if n >= FEWEST_WORDS:
            pieces += [' '.join(words[: n // 2]), ' '.join(words[n // 2 :])]
            pieces += [span(words, draw.randint(2, min(8, n - 1)), draw) for _ in range(2)]
        pieces.append(mixed(words, draw.choice(texts).split()))
    sentences = [words for text in more for line in text.split('\n') if len(words := line.split()) >= FEWEST_WORDS - 1]
    others = [span(words, min(len(words), draw.randint(4, 22)), draw) for words in sentences]
    draw.shuffle(others)
    pieces += others[:N_MORE]
    for text in texts * (rounds - 1):
        words = text.split()
        if len(words) >= FEWEST_WORDS:
            pieces.append(span(words, draw.randint(2, len(words) - 1), draw))
        pieces += [mixed(words, other.split()) for other in draw.choices(texts, k=2)]
    return list({piece.lower(): piece for piece in pieces if piece}.values())


def write_files(snippets: Path, more: Path | None, rounds: int, folder: Path) -> None:
    """All that there is before a teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = split(read(snippets))
    generator = np.random.default_rng(0)
    for name, rows in splits.items():
        numbers = ({'id': row['id'], 'text': row['text'], 'mean': float(np.mean(row['ratings']))} for row in rows)
        write_rows(folder / f'{name}.jsonl', numbers)
        write_rows(folder / f'pairs_{name}.jsonl', draw_pairs(rows, N_PAIRS[name], generator))
    others = [] if more is None else [row['text'] for row in read(more)]
    pieces = make_pieces([row['text'] for row in splits['train']], others, rounds, random.Random(0))
    with (folder / 'pieces.csv').open('w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([('id', 'text'), *((f'p{i}', piece) for i, piece in enumerate(pieces))])
    print({name: len(rows) for name, rows in splits.items()}, f'{len(pieces):,} pieces')


def write_student(folder: Path) -> None:
    """The training snippets, and the pieces with the numbers of the teacher."""
    rows = read(folder / 'train.jsonl')
    with (folder / 'pieces.csv').open(encoding='utf-8', newline='') as file:
        texts = {row['id']: row['text'] for row in csv.DictReader(file)}
    with (folder / 'said.csv').open(encoding='utf-8', newline='') as file:
        for row in csv.DictReader(file):
            number = min(SCALE, max(-SCALE, float(row['number'])))
            rows.append({'id': row['id'], 'text': texts[row['id']], 'mean': number})
    write_rows(folder / 'student.jsonl', rows)
    print(f'{len(rows):,} rows')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    files = commands.add_parser('files', help='snippets, pairs and pieces')
    files.add_argument('snippets', type=Path)
    files.add_argument('folder', type=Path)
    files.add_argument('--more', type=Path, help='JSON lines with more texts, whose spans are pieces too')
    files.add_argument('--rounds', type=int, default=1, help='how often pieces are drawn from each snippet')
    student = commands.add_parser('student', help='what a student learns from')
    student.add_argument('folder', type=Path)
    options = parser.parse_args()
    if options.command == 'files':
        write_files(options.snippets, options.more, options.rounds, options.folder)
    else:
        write_student(options.folder)


if __name__ == '__main__':
    main()
