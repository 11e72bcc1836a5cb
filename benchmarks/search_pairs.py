"""Make the files of the retrieval runs in docs/log.md: pairs of a query and a text, as JSON lines.

    python benchmarks/search_pairs.py debian debian_descriptions.jsonl.xz FOLDER
    python benchmarks/search_pairs.py leads wiki_leads_en.jsonl.gz FOLDER
    python benchmarks/search_pairs.py crops TEXTS.jsonl FOLDER

debian: title, text, and group: the home page or, where a package has none, the stem of its name. No group is in two of
the files: train.jsonl has nine tenths of the groups; val.jsonl and test.jsonl have one record of each of their groups,
test.jsonl 2,000; families.jsonl has all records of about half of the groups of test.jsonl. random.jsonl has all
records. crops.jsonl, to begin with, has three spans of words of each text of train.jsonl in the place of the title: two
beside the text without the span, one beside the whole text.
leads: title, description, text, and masked: the text without the words of the title; in leads.jsonl. Articles without a
description, and those whose description another one has too, are left out. leads_train.jsonl, leads_val.jsonl and
leads_test.jsonl have 73, 5 and 22 of 100 of them, and leads_crops.jsonl spans of the texts of leads_train.jsonl, as
titles, beside the text without the span, as masked.
crops: crops.jsonl, spans of the texts of a file as of train.jsonl above: of all that is to be searched, for example,
which needs no titles. Records have a column text; of equal texts the first counts.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]
_OPEN = {'.xz': lzma.open, '.gz': gzip.open, '.bz2': bz2.open}


def read(path: Path) -> list[Record]:
    """The records of a file of JSON lines, compressed or not."""
    with _OPEN.get(path.suffix, open)(path, 'rt', encoding='utf-8') as file:
        return [json.loads(line) for line in file]


def debian(records: list[Record]) -> Iterator[Record]:
    """Titles and texts, with the group that a split must not divide."""
    for record in records:
        stem = re.sub(r'^lib|[\d.]+$', '', record['package'].split('-')[0])
        yield {'title': record['title'], 'text': record['text'], 'group': record['homepage'] or f'package {stem}'}


def leads(records: list[Record]) -> Iterator[Record]:
    """Articles with a description of their own."""
    counts = Counter(record['description'] for record in records)
    for record in records:
        if record['description'] and counts[record['description']] == 1:
            words = sorted(set(re.findall(r'\w+', record['title'])), key=len, reverse=True)
            masked = re.sub(rf'\b(?:{"|".join(map(re.escape, words))})\b', ' ', record['text'], flags=re.IGNORECASE)
            yield {name: record[name] for name in ('title', 'description', 'text')} | {
                'masked': re.sub(r'[ \t]+', ' ', masked).strip()
            }


def place(text: str) -> float:
    """A number from 0 to 1 that follows from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def one_a_group(records: Iterable[Record]) -> list[Record]:
    """The record of each group whose content has the smallest hash."""
    found: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: place(record['title'] + record['text'])):
        found.setdefault(record['group'], record)
    return sorted(found.values(), key=lambda record: place(record['group']))


def crops(records: Iterable[Record]) -> Iterator[Record]:
    """Spans of 4 to 12 words of the texts, and what is left of the text; texts of fewer than 16 words have none."""
    for record in records:
        words = record['text'].split()
        if len(words) < 16:
            continue
        for number in range(3):
            length = 4 + int(9 * place(f'length {number} {record["text"]}'))
            start = int((len(words) - length + 1) * place(f'start {number} {record["text"]}'))
            rest = words[:start] + words[start + length :] if number else words
            span = {'title': ' '.join(words[start : start + length]), 'text': ' '.join(rest)}
            yield {**span, 'group': record['group']} if 'group' in record else span


def debian_files(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each file."""
    of_group = {record['group']: place(record['group']) for record in records}

    def between(low: float, high: float) -> list[Record]:
        return [record for record in records if low <= of_group[record['group']] < high]

    train = between(0, 0.9)
    return {
        'train': train,
        'crops': list(crops(train)),
        'val': one_a_group(between(0.9, 0.93)),
        'test': one_a_group(between(0.93, 1))[:2000],
        'families': between(0.93, 0.966),
        'random': records,
    }


def lead_files(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each file."""
    parts: dict[str, list[Record]] = {'leads': records, 'leads_train': [], 'leads_val': [], 'leads_test': []}
    for record in records:
        where = place(record['title'])
        parts['leads_train' if where < 0.73 else 'leads_val' if where < 0.78 else 'leads_test'].append(record)
    spans = crops(parts['leads_train'])
    parts['leads_crops'] = [{'title': one['title'], 'masked': one['text']} for one in spans]
    return parts


def crop_files(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each file."""
    texts = dict.fromkeys(record['text'] for record in records)
    return {'crops': list(crops({'text': text} for text in texts))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=['debian', 'leads', 'crops'])
    parser.add_argument('source', type=Path)
    parser.add_argument('folder', type=Path)
    arguments = parser.parse_args()
    make: dict[str, Callable[[list[Record]], dict[str, list[Record]]]] = {
        'debian': lambda records: debian_files(list(debian(records))),
        'leads': lambda records: lead_files(list(leads(records))),
        'crops': crop_files,
    }
    files = make[arguments.kind](read(arguments.source))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, some in files.items():
        with (arguments.folder / f'{name}.jsonl').open('w', encoding='utf-8') as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + '\n' for record in some)
        print(f'{name}.jsonl: {len(some):,} records')


if __name__ == '__main__':
    main()
