"""Activation checkpointing: the same numbers to the last bit, and less that is kept."""

import inspect
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from trunks import gradients, make_ids, make_layout, make_trunk

from xlabml.transformer import Transformer

KINDS = ['full', 'selective']
LAYOUT = [5, 11, 16]


def run(kind, layout=None, **options):
    trunk = make_trunk(checkpointing=kind, n_layers=3, **options).train()
    torch.manual_seed(7)
    hidden = trunk(make_ids(32), layout)
    return hidden, gradients(trunk, hidden)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dropout', [0.0, 0.2])
@pytest.mark.parametrize('layout', [None, make_layout(LAYOUT)], ids=['rows', 'packed'])
@pytest.mark.parametrize('attention', ['auto', 'plain'])
def test_hidden_states_and_gradients_are_those_of_a_plain_pass_bit_for_bit(kind, dropout, layout, attention):
    """With dropout too: what is computed once more draws the same."""
    options = {'dropout': dropout, 'attention': attention}
    hidden, grads = run(kind, layout, **options)
    expected, expected_grads = run('none', layout, **options)
    assert torch.equal(hidden, expected)
    for grad, other in zip(grads, expected_grads):
        assert torch.equal(grad, other)


class Kept(TorchDispatchMode):
    """Bytes of all that was made within this and is still there."""

    def __init__(self):
        super().__init__()
        self.bytes = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self.bytes[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
        return made

    def total(self):
        return sum(self.bytes.values())


def kept_bytes(kind, layout):
    trunk = make_trunk(d_model=32, n_layers=4, checkpointing=kind).train()
    with Kept() as kept:
        hidden = trunk(make_ids(32), layout)
        total = kept.total()
    assert hidden.requires_grad
    return total


@pytest.mark.parametrize('layout', [None, make_layout(LAYOUT)], ids=['rows', 'packed'])
def test_full_keeps_little_and_selective_something_between(layout):
    none, selective, full = (kept_bytes(kind, layout) for kind in ('none', 'selective', 'full'))
    assert full < 0.5 * none
    assert full < selective < 0.8 * none


def test_with_full_each_layer_is_run_twice_and_without_a_gradient_once():
    trunk, n_calls = make_trunk(checkpointing='full', n_layers=2).train(), []
    for block in trunk.blocks:
        block.feed_forward.register_forward_pre_hook(lambda *_: n_calls.append(1))
    with torch.no_grad():
        trunk(make_ids(8))
    assert len(n_calls) == 2
    trunk(make_ids(8)).sum().backward()
    assert len(n_calls) == 6


@pytest.mark.parametrize('kind', KINDS)
def test_a_cache_works_as_ever(kind):
    trunk, plain = make_trunk(checkpointing=kind), make_trunk()
    ids = make_ids(6)
    cache = trunk.new_cache(1, 6)
    steps = torch.cat([trunk(ids[:, i : i + 1], cache=cache) for i in range(6)], dim=1)
    torch.testing.assert_close(steps, plain(ids))


def test_another_word_is_refused():
    build = inspect.unwrap(Transformer.__init__)  # without the check of types that tests run under
    with pytest.raises(ValueError, match=r"trunk\.checkpointing is 'half'; choose none, full or selective"):
        build(torch.nn.Module.__new__(Transformer), 50, 32, checkpointing='half')
