"""The chunked cross-entropy equals its definition, and never holds the whole logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from xlabml.batches import IGNORED
from xlabml.losses import CrossEntropy, Loss, make_logits
from xlabml.losses.cross_entropy import _max, cross_entropy

OPTIONS = {
    'plain': {},
    'smoothed': {'label_smoothing': 0.1},
    'z-loss': {'z_loss': 1e-2},
    'capped': {'logit_cap': 3.0},
    'biased': {'with_bias': True},
    'all': {'label_smoothing': 0.2, 'z_loss': 1e-2, 'logit_cap': 2.0, 'with_bias': True},
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr('xlabml.losses.cross_entropy._CHUNK_ROWS', 64)


def make_case(n_tokens=150, n_vocab=50, d_model=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_tokens, d_model, generator=generator)
    weight, bias = torch.randn(n_vocab, d_model, generator=generator), torch.randn(n_vocab, generator=generator)
    targets = torch.randint(n_vocab, (n_tokens,), generator=generator)
    targets[::7] = IGNORED
    return *(part.to(dtype).requires_grad_() for part in (hidden, weight, bias)), targets


@pytest.mark.parametrize('name', OPTIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_chunks_equal_the_definition_in_value_and_gradient(name, dtype):
    options = dict(OPTIONS[name])
    cap = options.pop('logit_cap', None)
    hidden, weight, bias, targets = make_case(dtype=dtype)
    parts = (hidden, weight, bias) if options.pop('with_bias', False) else (hidden, weight)
    args = targets, (bias if len(parts) == 3 else None), cap
    ours, plain = CrossEntropy(**options)(hidden, weight, *args), cross_entropy(hidden, weight, *args, **options)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    # A gradient of any scale comes out, as a mean or a gradient scaler would ask for.
    ours_grads, grads = (torch.autograd.grad(sums.objective * 0.3, parts) for sums in (ours, plain))
    # bf16 keeps 8 bits, and its definition sums the head's gradient in one product, the chunks in float32.
    tolerance = {'rtol': 1e-4, 'atol': 1e-5} if dtype == torch.float32 else {'rtol': 2e-2, 'atol': 2e-2}
    torch.testing.assert_close(ours_grads, grads, **tolerance)


def test_autocast_multiplies_in_bf16_and_sums_in_float32():
    hidden, weight, _, targets = make_case()
    with torch.autocast('cpu', torch.bfloat16):
        ours, plain = CrossEntropy()(hidden, weight, targets), cross_entropy(hidden, weight, targets)
    assert ours.objective.dtype == torch.float32
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    grads = [torch.autograd.grad(sums.objective, (hidden, weight)) for sums in (ours, plain)]
    assert all(grad.dtype == torch.float32 for grad in grads[0])
    torch.testing.assert_close(*grads, rtol=2e-2, atol=2e-2)


def test_matches_torch_by_hand():
    hidden, weight, _, targets = make_case()
    sums = CrossEntropy()(hidden, weight, targets)
    logits, kept = hidden @ weight.T, targets != IGNORED
    assert sums.count == kept.sum()
    assert sums.correct == (logits.argmax(-1) == targets)[kept].sum()
    torch.testing.assert_close(sums.nats, F.cross_entropy(logits[kept], targets[kept], reduction='sum'))
    assert not sums.nats.requires_grad


def _count_correct(logits, targets, **options):
    """By the chunks and by the definition, of logits that are given: the head is the unit matrix."""
    args = logits, torch.eye(logits.size(1), dtype=logits.dtype), targets
    return tuple(int(loss(*args, **options).correct) for loss in (CrossEntropy(), cross_entropy))


@pytest.mark.parametrize('n_vocab', [1, 5, 127, 128, 129, 256, 300])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('options', [{}, {'logit_cap': 2.0}], ids=['plain', 'capped'])
def test_the_first_of_several_largest_logits_is_the_prediction(n_vocab, dtype, options):
    """Two and three entries that tie, within the blocks of the search for the largest and across them."""
    ends = sorted({i for i in (0, 1, 2, 63, 126, 127, 128, 129, 254, 255, 256, 298, 299) if i < n_vocab})
    ties = [(a, b) for a in ends for b in ends if a <= b]
    logits = torch.randn(len(ties), n_vocab, generator=torch.Generator().manual_seed(0)).clamp(max=3).to(dtype)
    for row, (a, b) in enumerate(ties):
        logits[row, [a, (a + b) // 2, b]] = 3.5
    first, last = (torch.tensor(ids) for ids in zip(*ties))
    assert _count_correct(logits, first, **options) == (len(ties), len(ties))
    assert _count_correct(logits, last, **options) == ((first == last).sum(), (first == last).sum())
    assert _count_correct(logits, torch.full_like(first, IGNORED), **options) == (0, 0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_ties_by_chance_count_as_argmax_has_them(dtype):
    """Logits of few values, so that most rows have ties."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 3, (500, 300), generator=generator).to(dtype)
    targets = torch.randint(12, (500,), generator=generator)
    targets[::7] = IGNORED
    expected = int((logits.argmax(dim=-1) == targets).sum())
    assert 0 < expected < ((logits.amax(dim=-1) == 2) & (targets != IGNORED)).sum()
    assert _count_correct(logits, targets) == (expected, expected)


def test_a_model_of_zeros_predicts_the_first_token_only():
    targets = torch.arange(150) % 50
    assert _count_correct(torch.zeros(150, 50), targets) == (3, 3)


@pytest.mark.parametrize('loss', [CrossEntropy(), cross_entropy])
@pytest.mark.parametrize('position', [0, 127, 128, 299])
def test_nothing_is_correct_where_a_logit_is_no_number(loss, position):
    """One row of hidden states is NaN, then one row of the head: whatever the target, the NaN itself too."""
    hidden, head = torch.eye(300), torch.eye(300)
    assert loss(hidden, head, torch.arange(300)).correct == 300
    hidden[position] = math.nan
    assert loss(hidden, head, torch.arange(300)).correct == 299
    assert loss(hidden, head, torch.zeros(300, dtype=torch.long)).correct == (position != 0)
    head[position] = math.nan
    assert loss(hidden, head, torch.arange(300)).correct == 0


@pytest.mark.parametrize('n_vocab', [1, 127, 128, 300])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_the_largest_logit_is_found_as_torch_finds_it(n_vocab, value):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 3, (200, n_vocab), generator=generator).float()
    logits[torch.rand(logits.shape, generator=generator) < 0.02] = value
    logits[0] = value
    for ours, expected in zip(_max(logits), logits.max(dim=-1, keepdim=True)):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def test_smoothing_and_z_loss_leave_the_nats_alone():
    hidden, weight, _, targets = make_case()
    plain, other = CrossEntropy()(hidden, weight, targets), CrossEntropy(0.3, 0.1)(hidden, weight, targets)
    torch.testing.assert_close(other.nats, plain.nats)
    assert other.objective > plain.objective + 1


@pytest.mark.parametrize('loss', [CrossEntropy(), CrossEntropy(0.1, 1e-3)])
def test_ignored_targets_cost_nothing(loss):
    hidden, weight, bias, targets = make_case()
    sums = loss(hidden, weight, torch.full_like(targets, IGNORED), bias)
    assert not any(part.item() for part in sums)
    for grad in torch.autograd.grad(sums.objective, (hidden, weight, bias)):
        assert not grad.any()
    kept = targets != IGNORED
    torch.testing.assert_close(loss(hidden, weight, targets), loss(hidden[kept], weight, targets[kept]))


def test_a_hopeless_target_costs_its_exact_nats():
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[200.0], [0.0], [-300.0]])
    sums = CrossEntropy()(hidden, weight, torch.tensor([2]))
    torch.testing.assert_close(sums.nats, torch.tensor(500.0))


def test_nats_are_those_of_each_target_and_carry_a_gradient():
    hidden, weight, bias, targets = make_case()
    nats = CrossEntropy(0.1, 0.1).nats(hidden, weight, targets, bias, 5.0)
    expected = F.cross_entropy(make_logits(hidden, weight, bias, 5.0), targets, reduction='none')
    torch.testing.assert_close(nats, expected)
    assert not nats[targets == IGNORED].any()
    grads = [torch.autograd.grad((part * torch.arange(150)).sum(), (hidden, weight)) for part in (nats, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(CrossEntropy().nats(hidden, weight, targets, bias, 5.0), expected)


def test_only_what_needs_a_gradient_gets_one():
    hidden, weight, _, targets = make_case()
    CrossEntropy()(hidden, weight.detach(), targets).objective.backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not CrossEntropy()(hidden, weight, targets).objective.requires_grad


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten.mm
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(('is_frozen', 'count'), [(False, 9), (True, 6)], ids=['trained', 'frozen'])
def test_a_frozen_head_costs_no_product_for_its_gradient(is_frozen, count):
    """In three chunks."""
    hidden, weight, _, targets = make_case()
    expected = torch.autograd.grad(CrossEntropy()(hidden, weight, targets).objective, hidden)
    with Products() as products:
        loss = CrossEntropy()(hidden, weight.detach() if is_frozen else weight, targets).objective
    assert products.count == count
    torch.testing.assert_close(torch.autograd.grad(loss, hidden), expected)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    n_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                self.n_elements = max(self.n_elements, part.numel())
        return result


@pytest.mark.parametrize('ask', [CrossEntropy().forward, CrossEntropy().nats])
def test_the_whole_logits_never_exist(ask):
    hidden, weight, _, targets = make_case(n_tokens=4_000)
    with Largest() as largest:
        result = ask(hidden, weight, targets)
        getattr(result, 'objective', result).sum().backward()
    assert largest.n_elements <= 4_000 * 16 < 4_000 * 50 / 2


def test_a_second_derivative_is_refused():
    hidden, weight, _, targets = make_case()
    with pytest.raises(RuntimeError, match='no second derivative'):
        torch.autograd.grad(CrossEntropy()(hidden, weight, targets).objective, hidden, create_graph=True)


@pytest.mark.parametrize(('options', 'message'), [
    ({'label_smoothing': 1.0}, 'label_smoothing is 1.0'),
    ({'label_smoothing': -0.1}, 'label_smoothing is -0.1'),
    ({'z_loss': -1.0}, 'z_loss is -1.0'),
])  # fmt: skip
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy(**options)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match='abstract'):
        Loss()
