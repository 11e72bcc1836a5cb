"""Batches of groups of texts, as a test writes them down."""

import torch

from xlabml.batches import Batch, Layout, PairTargets


def pair_batch(groups, row_slots=None, label=None, score=None, n_counted=None, seed=0, n_prompt=None):
    """Groups, each a list of texts, anchor, positive, negatives …, each a list of ids, as a batch.

    Args:
        row_slots: Slots of a row, and as many rows as it takes; None: one row.
        label: The class of each group.
        score: The score of each text, by group.
        n_prompt: Slots of each text's prompt, the same for all.
    """
    texts = [(ids, example, min(place, 2)) for example, group in enumerate(groups) for place, ids in enumerate(group)]
    rows = [[]]
    for text in texts:
        used = sum(len(ids) for ids, *_ in rows[-1])
        if row_slots is not None and used + len(text[0]) > row_slots:
            rows.append([])
        rows[-1].append(text)
    n = row_slots or sum(len(ids) for ids, *_ in texts) + 3
    n_segments = max(map(len, rows)) + 2
    ids = torch.full((len(rows), n), 3)
    sizes = torch.zeros(len(rows), n_segments, dtype=torch.long)
    example = torch.full((len(rows), n_segments), -1)
    role = torch.zeros(len(rows), n_segments, dtype=torch.long)
    for i, row in enumerate(rows):
        flat = [id for one, *_ in row for id in one]
        ids[i, : len(flat)] = torch.tensor(flat)
        sizes[i, : len(row)] = torch.tensor([len(one) for one, *_ in row])
        sizes[i, len(row)] = n - len(flat)
        example[i, : len(row)] = torch.tensor([number for _, number, _ in row])
        role[i, : len(row)] = torch.tensor([number for *_, number in row])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), sizes.flatten().cumsum(0)])
    is_text = (example >= 0).flatten()
    hashes = torch.zeros(is_text.numel(), dtype=torch.long)
    hashes[is_text] = torch.tensor([hash(tuple(one)) for one, *_ in texts])
    scores = None
    if score is not None:
        scores = torch.zeros(is_text.numel())
        scores[is_text] = torch.tensor([value for group in score for value in group])
    prompts = None if n_prompt is None else torch.where(is_text, n_prompt, 0)
    targets = PairTargets(scores, None if label is None else torch.tensor(label), None, hashes, 0, prompts)
    longest = max(int(sizes.max()), 1)
    layout = Layout(starts.int(), longest, is_text)
    documents = example.flatten().clone()
    counted = float(len(groups)) if n_counted is None else n_counted
    return Batch(ids, layout, documents, example.flatten(), role.flatten(), targets, counted, seed)


def random_groups(n_groups, n_texts=3, n_vocab=50, longest=9, seed=0):
    """Groups of random texts of mixed length."""
    draw = torch.Generator().manual_seed(seed)

    def text():
        n = int(torch.randint(2, longest + 1, (1,), generator=draw))
        return torch.randint(4, n_vocab, (n,), generator=draw).tolist()

    return [[text() for _ in range(n_texts)] for _ in range(n_groups)]
