"""Views of random groups for tests of objectives, in shuffled order: no objective may depend on how texts lie."""

import torch

from xlabml.batches import ANCHOR, NEGATIVE, POSITIVE
from xlabml.losses import Views


def columns_of(views):
    """The vectors by column, as other libraries take them: anchors, positives, first negatives …; (e, d) each."""
    n_columns = int(views.role.numel() / views.n_examples)
    order = torch.argsort(views.example * n_columns + views.role)
    return list(views.vectors[order].unflatten(0, (views.n_examples, n_columns)).unbind(1))


def random_views(n_examples=5, n_negatives=0, d=6, dtype=torch.float64, seed=0, has_positive=True, **targets):
    """Views of groups of one anchor, a positive and n_negatives negatives each, all texts different.

    Args:
        targets: Further fields; `score=True` draws scores from 0 to 1, `teacher=n` and `guide=n` vectors of width n,
            `label=n` classes of n, each of at least two examples if there is room.
    """
    generator = torch.Generator().manual_seed(seed)
    roles = [ANCHOR, *([POSITIVE] if has_positive else []), *(NEGATIVE + i for i in range(n_negatives))]
    role = torch.tensor(roles).repeat(n_examples)
    example = torch.arange(n_examples).repeat_interleave(len(roles))
    order = torch.randperm(len(role), generator=generator)

    def draw(width):
        return torch.randn(len(role), width, generator=generator, dtype=torch.float64).to(dtype)

    fields = dict(targets)
    for name in ('teacher', 'guide'):
        if isinstance(fields.get(name), int):
            fields[name] = draw(fields[name])
    if fields.get('score') is True:
        fields['score'] = torch.rand(len(role), generator=generator, dtype=torch.float64).to(dtype)
    if isinstance(fields.get('label'), int):
        fields['label'] = torch.arange(n_examples)[torch.randperm(n_examples, generator=generator)] % fields['label']
    return Views(
        vectors=draw(d).requires_grad_(),
        example=example[order],
        role=role[order],
        n_examples=n_examples,
        text_hash=torch.arange(len(role)),
        **fields,
    )


def hand_views(examples, **fields):
    """Views of written-out groups: for each example its vectors, anchor first, positive, negatives."""
    rows = [(i, min(place, NEGATIVE), vector) for i, group in enumerate(examples) for place, vector in enumerate(group)]
    return Views(
        vectors=torch.tensor([row[2] for row in rows], dtype=torch.float64).requires_grad_(),
        example=torch.tensor([row[0] for row in rows]),
        role=torch.tensor([row[1] for row in rows]),
        n_examples=len(examples),
        **fields,
    )
