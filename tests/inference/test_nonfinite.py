"""Logits that are not finite end a generation with a message, whatever makes them and whatever chooses from them."""

import math

import pytest
import torch
from torch import nn
from toy_models import Fixed, tiny_language_model

from xlabml import inference
from xlabml.inference.sampling import draw, mark_unusable, truncate

BAD = [
    [math.nan] * 4,
    [0.0, math.nan, 1.0, 0.0],
    [0.0, math.inf, 1.0, 0.0],
    [math.inf] * 4,
    [-math.inf] * 4,
    [-math.inf, -math.inf, -math.inf, math.nan],
]
SEARCHES = {
    'greedy': inference.greedy_search,
    'sample': inference.sample,
    'top_k': lambda *args, **more: inference.sample(*args, top_k=2, **more),
    'top_p': lambda *args, **more: inference.sample(*args, top_p=0.9, **more),
    'both': lambda *args, **more: inference.sample(*args, top_k=3, top_p=0.9, temperature=0.01, **more),
    'beam': lambda model, x, length, size, **more: inference.beam_search(model, x, 3, length, size, **more),
    'beam of 1': lambda model, x, length, size, **more: inference.beam_search(model, x, 1, length, size, **more),
}


class Later(nn.Module):
    """Breaks where a row holds the id 3, or has a length."""

    def __init__(self, bad, n=None):
        super().__init__()
        self.bad, self.n = torch.tensor(bad), n

    def forward(self, ids):
        logits = torch.tensor([0.0, 1.0, 0.5, -1.0]).repeat(*ids.shape, 1)
        is_bad = (ids == 3).any(1) if self.n is None else torch.full((len(ids),), ids.size(1) >= self.n)
        logits[is_bad] = self.bad
        return logits


@pytest.mark.parametrize('bad', BAD, ids=str)
@pytest.mark.parametrize('search', SEARCHES)
def test_no_id_is_chosen_where_logits_say_nothing(search, bad):
    with pytest.raises(ValueError, match=r'the logits of row 0 are not finite after 0 new ids.*use another checkpoint'):
        SEARCHES[search](Fixed(bad), torch.tensor([1, 2]), 5, None)


@pytest.mark.parametrize('search', SEARCHES)
def test_the_step_is_said(search):
    with pytest.raises(ValueError, match='row 0 are not finite after 3 new ids'):
        SEARCHES[search](Later([math.nan] * 4, n=5), torch.tensor([1, 2]), 9, None, exclude_classes=[3])


@pytest.mark.parametrize('search', SEARCHES)
def test_the_rows_of_a_batch_are_named(search):
    prompts = [torch.tensor(ids) for ids in ([1], [3, 1], [2, 2], [3])]
    with pytest.raises(ValueError, match='row 1, 3 are not finite after 0 new ids'):
        SEARCHES[search](Later([0.0, math.inf, 0.0, 0.0]), prompts, 5, None)


@pytest.mark.parametrize('search', SEARCHES)
def test_rows_keep_their_numbers_when_others_have_ended(search):
    """Row 0 ends at once; row 1 goes on and breaks."""

    class Model(nn.Module):
        def forward(self, ids):
            logits = torch.full((*ids.shape, 4), -50.0)
            logits[..., 1] = 50
            logits[ids[:, 0] == 0] = torch.tensor([-50.0, -50.0, 50.0, -50.0])
            if ids.size(1) > 2:
                logits[ids[:, 0] == 1] = math.nan
            return logits

    prompts = [torch.tensor([0]), torch.tensor([1])]
    with pytest.raises(ValueError, match='row 1 are not finite after 2 new ids'):
        SEARCHES[search](Model(), prompts, 6, None, eos_class=2)


@pytest.mark.parametrize('search', SEARCHES)
def test_an_id_that_cannot_come_is_no_fault(search):
    """Minus infinity at some ids is how a model rules them out."""
    found = SEARCHES[search](Fixed([-math.inf, 2.0, -math.inf, 1.0]), torch.tensor([1]), 6, None)
    assert set(found.tolist()) <= {1, 3}
    assert len(found) == 6


@pytest.mark.parametrize('search', SEARCHES)
def test_excluding_all_that_a_model_allows_is_refused(search):
    with pytest.raises(ValueError, match='are not finite'):
        SEARCHES[search](Fixed([-math.inf, 2.0, -math.inf, -math.inf]), torch.tensor([1]), 6, None, exclude_classes=[1])


@pytest.mark.parametrize('search', SEARCHES)
def test_a_weight_that_is_no_number_ends_a_cached_generation(search):
    model = tiny_language_model(n_vocab=20)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if 'blocks.1' in name)[0] = math.nan
    with pytest.raises(ValueError, match='row 0, 1 are not finite'):
        SEARCHES[search](model, [torch.tensor([1, 2]), torch.tensor([3])], 5, 64)


def test_a_draw_stays_in_the_vocabulary():
    for top_k in (None, 2):
        probabilities, ids = truncate(torch.full((3, 5), math.nan), top_k, None)
        found = draw(probabilities, ids, torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64))
        assert ((found >= 0) & (found < 5)).all()


def test_good_rows_keep_their_ids():
    logits = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [-math.inf, 3.0]])
    assert mark_unusable(torch.tensor([1, 1, 1]), logits).tolist() == [1, -1, 1]
