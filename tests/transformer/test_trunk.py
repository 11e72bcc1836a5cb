"""The trunk: what a token sees, in every shape that text comes in, and what each option does."""

import functools
import inspect
import itertools

import pytest
import torch
from torch import nn
from trunks import MAX_LEN, N_VOCAB, copy_weights, gradients, make_ids, make_layout, make_trunk

from xlabml.batches import Layout
from xlabml.transformer import (
    ALiBi,
    Before,
    GeGLU,
    Learned,
    NoPositions,
    Positions,
    ReLU2,
    RMSNorm,
    Rotary,
    Shift,
    Sinusoidal,
    SwiGLU,
    Transformer,
)

POSITIONS = [NoPositions, Rotary, Sinusoidal, Learned, ALiBi]


@pytest.mark.parametrize('cut', range(1, 8))
@pytest.mark.parametrize('window', [None, 3])
def test_no_token_sees_the_future(cut, window):
    trunk, ids = make_trunk(window=window), make_ids(8)
    changed = torch.where(torch.arange(8) < cut, ids, (ids + 10) % N_VOCAB)
    before, after = trunk(ids), trunk(changed)
    torch.testing.assert_close(after[:, :cut], before[:, :cut])
    assert (after[:, cut:] - before[:, cut:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize('layout', [None, make_layout([3, 5])], ids=['row', 'packed'])
@pytest.mark.parametrize('causal', [True, False])
def test_only_an_encoder_shows_its_first_token_the_last(layout, causal):
    trunk, ids = make_trunk(causal=causal), make_ids(8)
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % N_VOCAB
    moved = (trunk(changed, layout) - trunk(ids, layout)).abs().amax(-1)[0] > 1e-4
    first = 0 if layout is None else 3
    assert moved[-1]
    assert moved[first] == (not causal)
    assert not moved[:first].any()


@pytest.mark.parametrize(
    ('causal', 'shift_width', 'expected'),
    [
        (True, 1, [4, 5, 6]),
        (True, 3, [4, 5, 6, 7, 8]),  # each value holds two tokens more
        (False, 1, [2, 3, 4, 5, 6]),
    ],
)
def test_a_window_reaches_so_many_tokens(causal, shift_width, expected):
    options = {'causal': causal, 'shift_width': shift_width}
    trunk = make_trunk(window=3, n_layers=1, positions=NoPositions, **options)
    ids = make_ids(10)
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % N_VOCAB
    moved = (trunk(changed) - trunk(ids)).abs().amax(-1)[0] > 1e-4
    assert moved.nonzero().flatten().tolist() == expected


def test_each_layer_may_have_a_window_of_its_own():
    ids = make_ids(9)
    trunk = make_trunk(window=[2, None])
    blocks = [make_trunk(window=window) for window in (2, None)]
    hidden = trunk.embedding(ids) * trunk.scale
    place, passes = trunk._open(ids, None, None)
    angles = trunk.positions.angles(place.position)
    for layer, one in enumerate(blocks):
        hidden = one.blocks[layer](hidden, angles, passes[layer])
    torch.testing.assert_close(trunk(ids), trunk.norm(hidden))
    assert (trunk(ids) - blocks[0](ids)).abs().max() > 1e-3


@pytest.mark.parametrize('layout', [None, make_layout([8]), make_layout([3, 5])], ids=['row', 'flat', 'packed'])
def test_a_trained_decoder_becomes_an_encoder_by_one_flag(layout):
    """The last token of a document changes the hidden state of its first one, in a batch of one row."""
    decoder, ids = make_trunk(), make_ids(8)
    encoder = copy_weights(decoder, causal=False)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % N_VOCAB
    first = 0 if layout is None else int(layout.starts[-2])
    assert torch.equal(decoder(changed, layout)[:, :-1], decoder(ids, layout)[:, :-1])
    moved = (encoder(changed, layout) - encoder(ids, layout)).abs().amax(-1)[0]
    assert (moved[first:] > 1e-4).all()
    assert (moved[:first] == 0).all()


@pytest.mark.parametrize('attention', ['plain', 'auto'])
def test_layers_with_a_window_may_rotate_by_a_base_of_their_own(attention):
    ids, layout = make_ids(9), make_layout([4, 5])
    both = functools.partial(Rotary, base=10_000.0, local_base=50.0)
    trunk = make_trunk(causal=False, window=[2, None], positions=both, attention=attention)
    hidden = trunk.embedding(ids) * trunk.scale
    place, passes = trunk._open(ids, layout, None)
    for block, base, one in zip(trunk.blocks, (50.0, 10_000.0), passes):
        hidden = block(hidden, Rotary(16, 4, MAX_LEN, base).angles(place.position), one)
    torch.testing.assert_close(trunk(ids, layout), trunk.norm(hidden))
    assert (trunk(ids, layout) - copy_weights(trunk, causal=False, window=[2, None])(ids, layout)).abs().max() > 1e-3


def test_a_cached_pass_rotates_by_the_base_of_each_layer():
    ids = make_ids(9)
    trunk = make_trunk(window=[3, None], positions=functools.partial(Rotary, local_base=50.0))
    cache = trunk.new_cache(1, 9)
    steps = [trunk(ids[:, :5], cache=cache), *(trunk(ids[:, i : i + 1], cache=cache) for i in range(5, 9))]
    torch.testing.assert_close(torch.cat(steps, dim=1), trunk(ids), rtol=1e-4, atol=1e-5)


def test_every_so_many_layers_one_is_global():
    trunk = make_trunk(n_layers=5, window=3, global_every=2, causal=False)
    assert [block.attention.rule.window for block in trunk.blocks] == [None, 3, None, 3, None]
    listed = copy_weights(trunk, n_layers=5, window=[None, 3, None, 3, None], causal=False)
    assert torch.equal(trunk(make_ids(9)), listed(make_ids(9)))


def test_without_positions_an_encoder_knows_no_order():
    trunk, ids = make_trunk(causal=False, positions=NoPositions), make_ids(8)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    torch.testing.assert_close(trunk(ids[:, order]), trunk(ids)[:, order], rtol=1e-4, atol=1e-5)
    for positions in (Rotary, Sinusoidal, Learned, ALiBi):
        other = make_trunk(causal=False, positions=positions)
        assert (other(ids[:, order]) - other(ids)[:, order]).abs().max() > 1e-2, positions


@pytest.mark.parametrize('positions', [Rotary, ALiBi, NoPositions])
def test_relative_positions_ignore_where_a_text_begins(positions):
    trunk, ids, place = make_trunk(positions=positions), make_ids(8), torch.arange(8)[None]
    shift = trunk.positions.angles(place + 5)
    _, passes = trunk._open(ids, None, None)
    hidden = trunk.embedding(ids) * trunk.scale
    for block, one in zip(trunk.blocks, passes):
        hidden = block(hidden, shift, one)
    torch.testing.assert_close(trunk.norm(hidden), trunk(ids), rtol=1e-4, atol=1e-4)


def test_sinusoids_by_hand():
    waves = Sinusoidal(4, 1, 2).embed(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 300]]))
    angle = torch.tensor([[0.0, 0.0], [1.0, 0.01], [300.0, 3.0]])
    expected = torch.stack((angle[:, 0].sin(), angle[:, 0].cos(), angle[:, 1].sin(), angle[:, 1].cos()), -1)
    torch.testing.assert_close(waves[0], expected, rtol=1e-4, atol=1e-4)


class HalfWay(Positions):
    """A user's own: adds the position to one channel."""

    def embed(self, hidden, position):
        """Add it."""
        return hidden + torch.nn.functional.one_hot(torch.tensor(1), hidden.size(-1)) * position[..., None] / 10


def test_users_write_their_own_positions():
    trunk, ids = make_trunk(positions=HalfWay, causal=False), make_ids(6)
    assert (trunk(ids.flip(1)).flip(1) - trunk(ids)).abs().max() > 1e-3
    lengths = [2, 4]
    alone = [trunk(part) for part in ids.split(lengths, dim=1)]
    torch.testing.assert_close(trunk(ids, make_layout(lengths)), torch.cat(alone, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('positions', POSITIONS)
@pytest.mark.parametrize('shape', [(1, 20), (2, 10)])
def test_a_document_is_the_same_packed_or_alone(positions, shape):
    trunk, ids = make_trunk(positions=positions), make_ids(20)
    lengths = [4, 6, 1, 9, 0, 0]
    packed = trunk(ids.view(shape), make_layout(lengths)).flatten(0, 1)
    for part, document in zip(packed.split(lengths), ids.split(lengths, dim=1)):
        if part.size(0):
            torch.testing.assert_close(part, trunk(document)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('attention', ['auto', 'plain'])
def test_padding_never_changes_anything(attention):
    trunk, ids = make_trunk(attention=attention), make_ids(20)
    layout = make_layout([6, 4, 7, 3], [True, False, True, False])
    is_text = torch.tensor([True] * 6 + [False] * 4 + [True] * 7 + [False] * 3)
    expected = trunk(ids, layout)
    got = trunk(torch.where(is_text, ids, 3), layout)
    torch.testing.assert_close(got[:, is_text], expected[:, is_text])
    assert got.isfinite().all()
    torch.testing.assert_close(got[0, 10:17], trunk(ids[:, 10:17])[0], rtol=1e-5, atol=1e-5)
    for grad in gradients(trunk, got):
        assert grad is None or grad.isfinite().all()


def test_post_norm_equals_torch():
    options = {'d_model': 16, 'n_heads': 4, 'd_ff': 24, 'n_layers': 1, 'bias': True, 'qk_norm': False, 'prenorm': False,
               'final_norm': False, 'positions': NoPositions, 'norm': nn.LayerNorm}  # fmt: skip
    for activation, name in ((nn.GELU, 'gelu'), (nn.ReLU, 'relu')):
        for prenorm in (False, True):
            trunk = make_trunk(**{**options, 'activation': activation, 'prenorm': prenorm})
            layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, name, batch_first=True, norm_first=prenorm)
            block = trunk.blocks[0]
            pairs = {
                layer.self_attn.in_proj_weight: block.attention.projection.weight,
                layer.self_attn.in_proj_bias: block.attention.projection.bias,
                layer.self_attn.out_proj.weight: block.attention.output.weight,
                layer.self_attn.out_proj.bias: block.attention.output.bias,
                layer.linear1.weight: block.feed_forward.input.weight,
                layer.linear1.bias: block.feed_forward.input.bias,
                layer.linear2.weight: block.feed_forward.output.weight,
                layer.linear2.bias: block.feed_forward.output.bias,
                layer.norm1.weight: block.attention_norm.weight,
                layer.norm1.bias: block.attention_norm.bias,
                layer.norm2.weight: block.feed_forward_norm.weight,
                layer.norm2.bias: block.feed_forward_norm.bias,
            }
            with torch.no_grad():
                for theirs, ours in pairs.items():
                    theirs.copy_(ours)
            ids = make_ids(9, batch=2)
            mask = nn.Transformer.generate_square_subsequent_mask(9)
            expected = layer(trunk.embedding(ids) * trunk.scale, src_mask=mask, is_causal=True)
            torch.testing.assert_close(trunk(ids), expected, rtol=1e-4, atol=1e-5)


def test_rms_norm_equals_torch_in_value_and_gradient():
    for weighted, shape in itertools.product([True, False], [(3, 5, 16), (16,)]):
        norm, x = RMSNorm(16, weighted=weighted), torch.randn(shape, requires_grad=True)
        if weighted:
            nn.init.normal_(norm.weight)
        pair = norm(x), nn.functional.rms_norm(x, (16,), norm.weight, norm.eps)
        torch.testing.assert_close(*pair)
        with torch.no_grad():
            torch.testing.assert_close(norm(x), pair[1])
        parts = [x, *norm.parameters()]
        grads = [torch.autograd.grad((y * torch.arange(16)).sum(), parts) for y in pair]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match='no second derivative'):
        torch.autograd.grad(norm(x).sum(), x, create_graph=True)


def test_activations_by_hand():
    x = torch.tensor([-1.0, 2.0, 3.0, -4.0], requires_grad=True)
    assert ReLU2()(x).tolist() == [0, 4, 9, 0]
    (grad,) = torch.autograd.grad(ReLU2()(x).sum(), x, create_graph=True)
    assert grad.tolist() == [0, 4, 6, 0]
    assert torch.autograd.grad(grad.sum(), x)[0].tolist() == [0, 2, 2, 0]
    for gated, gate in ((SwiGLU(), nn.functional.silu), (GeGLU(), nn.functional.gelu)):
        torch.testing.assert_close(gated(x), gate(x[:2]) * x[2:])


def test_gated_nets_have_as_many_parameters_as_plain_ones():
    plain, gated = (
        sum(
            p.numel() for p in Transformer(8, 8, d_model=192, activation=activation).blocks[0].feed_forward.parameters()
        )
        for activation in (ReLU2, SwiGLU)
    )
    assert gated == plain


def test_qk_norm_bounds_the_scores():
    ids = make_ids(8)
    for qk_norm in (True, False):
        trunk = make_trunk(qk_norm=qk_norm)
        before = trunk(ids)
        with torch.no_grad():
            for block in trunk.blocks:
                block.attention.projection.weight[:32] *= 3  # queries and keys
        moved = (trunk(ids) - before).abs().max()
        assert (moved > 1e-2) == (not qk_norm)


def test_embeddings_are_scaled_by_the_root_of_the_width():
    ids = make_ids(4)
    options = {'n_layers': 1, 'final_norm': False, 'positions': NoPositions}
    trunk = make_trunk(**options, scale_embedding=False)
    scaled = copy_weights(trunk, **options, scale_embedding=True)
    with torch.no_grad():
        trunk.embedding.weight *= 4
    torch.testing.assert_close(scaled(ids), trunk(ids))


def test_the_embedding_norm_is_first():
    trunk = make_trunk(embedding_norm=True, norm=nn.LayerNorm, positions=Learned, final_norm=False)
    ids = make_ids(7)
    hidden = trunk.embedding(ids) * trunk.scale + trunk.positions.embedding.weight[:7]
    seen = []
    trunk.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trunk(ids)
    torch.testing.assert_close(seen[0], trunk.embedding_norm(hidden))
    assert 'embedding_norm.weight' in trunk.state_dict()
    assert not any('embedding_norm' in name for name in make_trunk().state_dict())


def test_the_final_norm_is_last():
    ids = make_ids(4)
    trunk = make_trunk()
    bare = make_trunk(final_norm=False)
    bare.load_state_dict({name: x for name, x in trunk.state_dict().items() if not name.startswith('norm.')})
    torch.testing.assert_close(trunk(ids), trunk.norm(bare(ids)))


@pytest.mark.parametrize('layout', [None, make_layout([3, 5])], ids=['row', 'packed'])
@pytest.mark.parametrize('switch', ['pos_drop', 'attn_drop', 'ff_drop', 'block_drop'])
def test_each_dropout_switch_works_in_training_only(switch, layout):
    off = dict.fromkeys(['pos_drop', 'attn_drop', 'ff_drop', 'block_drop'], False)
    trunk, ids = make_trunk(dropout=0.5, **{**off, switch: True}), make_ids(8)
    plain = copy_weights(trunk)(ids, layout)
    torch.testing.assert_close(trunk(ids, layout), plain)
    trunk.train()
    assert (trunk(ids, layout) - plain).abs().max() > 1e-2


def test_dropout_keeps_attention_right_on_average():
    trunk, ids = make_trunk(dropout=0.3, n_layers=1, final_norm=False, pos_drop=False, ff_drop=False), make_ids(6)
    attention, hidden = trunk.blocks[0].attention.train(), torch.randn(1, 6, 16)
    for layout in (None, make_layout([6])):
        place, (dropping,) = trunk._open(ids, layout, None)
        angles = trunk.positions.angles(place.position)
        with torch.no_grad():
            mean = torch.stack([attention(hidden, angles, dropping) for _ in range(600)]).mean(0)
            attention.eval()
            _, (whole,) = trunk._open(ids, layout, None)
            expected = attention(hidden, angles, whole)
        torch.testing.assert_close(mean, expected, rtol=0.2, atol=0.2)
        attention.train()


@pytest.mark.parametrize('layout', [None, make_layout([3, 5])], ids=['row', 'packed'])
def test_bf16_stays_close_to_float32(layout):
    trunk, ids = make_trunk(), make_ids(8)
    expected = trunk(ids, layout)
    with torch.autocast('cpu', torch.bfloat16):
        got = trunk(ids, layout)
    assert got.dtype == torch.float32
    assert (got - expected).abs().mean() < 0.03
    whole = trunk.bfloat16()(ids, layout)
    assert (whole.float() - expected).abs().mean() < 0.05


def peak_elements(n, lengths):
    """The most elements that tensors held at once in a step on a packed row, and the largest tensor."""
    import gc
    import weakref

    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        now = peak = largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for part in result if isinstance(result, tuple | list) else [result]:
                if isinstance(part, torch.Tensor) and part.untyped_storage().data_ptr() not in seen:
                    storage = part.untyped_storage()
                    seen.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    self.largest = max(self.largest, part.numel())
                    weakref.finalize(storage, self.drop, storage.data_ptr(), storage.nbytes())
            self.peak = max(self.peak, self.now)
            return result

        def drop(self, pointer, size):
            seen.discard(pointer)
            self.now -= size

    seen: set[int] = set()
    trunk, ids, layout = make_trunk(n_layers=1), make_ids(n), make_layout(lengths)
    gc.collect()
    with Count() as count:
        trunk(ids, layout).sum().backward()
    return count.peak, count.largest


def test_memory_of_a_packed_step_grows_with_its_length():
    (small, _), (big, largest) = (peak_elements(n, [128] * (n // 128)) for n in (2_048, 4_096))
    assert big <= 2.2 * small
    assert largest < 4_096 * 4_096 / 8


REFUSALS = {
    'd_model 16 is not a multiple of trunk.n_heads 3': {'n_heads': 3},
    'n_heads 4 is not a multiple of trunk.n_kv_heads 3': {'n_kv_heads': 3},
    'heads of 3 channels; Rotary': {'d_model': 12},
    'd_model is 15; Sinusoidal': {'d_model': 15, 'n_heads': 3, 'positions': Sinusoidal},
    'positions.base is 0': {'positions': functools.partial(Rotary, base=0.0)},
    'positions.local_base is -1': {'positions': functools.partial(Rotary, local_base=-1.0)},
    'window is 0': {'window': 0},
    'global_every is 0': {'window': 3, 'global_every': 0},
    'global_every is 2, but trunk.window is None': {'global_every': 2},
    'window is -1': {'window': [2, -1]},
    'lists 3 windows, but trunk.n_layers is 2': {'window': [1, 2, 3]},
    'score_cap is 0': {'score_cap': 0.0},
    'sdpa cannot cap scores': {'score_cap': 5.0, 'attention': 'sdpa'},
    'dropout is 1.0': {'dropout': 1.0},
    'are all off': {'dropout': 0.1, 'pos_drop': False, 'attn_drop': False, 'ff_drop': False, 'block_drop': False},
    'n_layers is 0': {'n_layers': 0},
    'd_ff is 0': {'d_ff': 0},
    'd_model is 0': {'d_model': 0},
    'n_kv_heads is -2': {'n_kv_heads': -2},
}


@pytest.mark.parametrize(('message', 'options'), REFUSALS.items(), ids=REFUSALS)
def test_refusals(message, options):
    with pytest.raises(ValueError, match=message):
        make_trunk(**options)


def test_learned_positions_end():
    trunk, ids = make_trunk(positions=Learned), make_ids(2 * MAX_LEN)
    with pytest.raises(ValueError, match=f'a document of {2 * MAX_LEN} tokens needs more positions than the {MAX_LEN}'):
        trunk(ids)
    assert trunk(ids, make_layout([MAX_LEN, MAX_LEN])).isfinite().all()
    for positions in (Rotary, Sinusoidal, ALiBi, NoPositions):
        assert make_trunk(positions=positions)(ids).isfinite().all()


@pytest.mark.parametrize(('starts', 'max_length', 'message'), [
    ([0, 3, 7], 8, 'from 0 to 7, but must rise from 0 to the 8'),
    ([1, 8], 8, 'from 1 to 8'),
    ([0, 5, 3, 8], 8, 'must rise'),
    ([0, 8], 7, 'a segment has 8 tokens, but layout.max_length is 7'),
])  # fmt: skip
def test_a_layout_that_does_not_fit_is_refused(starts, max_length, message):
    with pytest.raises(ValueError, match=message):
        make_trunk()(make_ids(8), Layout(torch.tensor(starts), max_length))


def test_embeddings_are_narrowed_to_a_power_of_two_of_channels_in_training_alone():
    ids = torch.arange(6)[None]
    trunk = Transformer(50, 16, d_model=24, n_layers=1, n_heads=2, narrow_ratio=0.75)
    seen = []
    trunk.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    torch.manual_seed(0)
    for _ in range(200):
        trunk(ids)
    widths = [int((hidden != 0).any(1).sum()) for hidden in seen]
    assert {*widths} == {8, 16, 24}
    assert all((hidden[..., width:] == 0).all() for hidden, width in zip(seen, widths))
    assert sum(width < 24 for width in widths) / 200 == pytest.approx(0.75, abs=0.1)
    assert widths.count(8) / widths.count(16) == pytest.approx(1, abs=0.4)
    seen.clear()
    trunk.eval()(ids)
    assert (seen[0] != 0).all()
    with pytest.raises(ValueError, match=r'trunk\.narrow_ratio is 0\.5, but trunk\.d_model is 8'):
        Transformer(50, 16, d_model=8, n_layers=1, n_heads=2, narrow_ratio=0.5)
    with pytest.raises(ValueError, match=r'trunk\.narrow_ratio is 2\.0; give a ratio'):
        Transformer(50, 16, narrow_ratio=2.0)


@pytest.mark.parametrize(
    ('places', 'sizes'),
    [
        (None, {'attention.shift': 48}),
        (['attention', 'feed_forward'], {'attention.input_shift': 16, 'feed_forward.input_shift': 16}),
        (['hidden'], {'feed_forward.shift': 128}),
        ([], {}),
    ],
    ids=str,
)
def test_shifts_begin_as_nothing(places, sizes):
    options = {'d_model': 16, 'n_layers': 1, 'n_heads': 2, 'activation': SwiGLU, 'd_ff': 64}
    plain = Transformer(50, 16, **options)
    shifting = Transformer(50, 16, **options, shift_width=3, shift_places=places)
    taps = {name: p.shape for name, p in shifting.blocks[0].named_parameters() if 'taps' in name}
    assert taps == {f'{name}.taps.{i}': (size,) for name, size in sizes.items() for i in (0, 1)}
    plain.load_state_dict(shifting.state_dict(), strict=False)
    torch.testing.assert_close(shifting(make_ids(9)), plain(make_ids(9)))


@pytest.mark.parametrize('position', [[0, 1, 0, 0, 1, 2, 3, 0], [0, 1, 2, 3]], ids=['documents', 'rows'])
def test_the_fast_shift_equals_the_general_one(monkeypatch, position):
    shift = Shift(5, 4, 0)
    for i, tap in enumerate(shift.taps):
        nn.init.normal_(tap, generator=torch.Generator().manual_seed(i))
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(9), requires_grad=True)
    layout = make_layout([2, 1, 4, 1]) if len(position) == 8 else None
    before = Before(torch.tensor(position).view(-1, 4), layout, None)
    fast = shift(x, before)
    assert type(fast.grad_fn).__name__ == '_MixBackward'
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    general = shift(x, before)
    torch.testing.assert_close(fast, general, rtol=0, atol=0)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(10))
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), [x, *shift.taps]) for y in (fast, general))):
        torch.testing.assert_close(one, other)


def test_a_shift_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match='shift_width is 0; give 1 or more'):
        Transformer(50, 16, shift_width=0)


def test_a_shift_at_an_unknown_place_is_refused():
    with pytest.raises(ValueError, match=r"trunk.shift_places holds 'values'; choose of attention, projections"):
        inspect.unwrap(Transformer.__init__)(nn.Module.__new__(Transformer), 50, 16, shift_places=['values'])
