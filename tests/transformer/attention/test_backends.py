"""Every backend gives what the definition gives, in all that it supports; all else is refused by its name."""

import inspect
import itertools
import sys
import types

import pytest
import torch
from trunks import copy_weights, gradients, make_ids, make_layout, make_trunk

from xlabml.transformer import ALiBi, attend
from xlabml.transformer.attention import Documents, Rule, backends, choice, kernels, make_masks
from xlabml.transformer.attention.backends import BACKENDS, VERSIONS, Ask, objection
from xlabml.transformer.attention.choice import choose, make_pass, take
from xlabml.transformer.attention.compiled_documents import _attend_documents
from xlabml.transformer.attention.masked import attend_fused

FEATURES = ('causal', 'window', 'slopes', 'score_cap', 'grouped', 'documents')
CASES = [dict(zip(FEATURES, flags)) for flags in itertools.product([True, False], repeat=len(FEATURES))]
LENGTHS, TEXTS = [9, 1, 14, 6, 10, 0, 0, 40], [True, True, True, False, True, True, True, True]
"""Two rows of 40 tokens, as in a plan: padding in the first, empty segments behind it."""
N_ROWS, N = 2, 40
# By hand, so that a slip in the table fails.
REFUSED = {
    'plain': set(),
    'sdpa': {'score_cap'},
    'varlen': {'score_cap', 'slopes', 'dropout', 'cache'},
    'flash_attn': {'cache'},
    'flash3': {'score_cap', 'slopes', 'dropout', 'cache'},
    'flash4': {'score_cap', 'slopes', 'dropout', 'cache'},
    'flex': {'dropout', 'cache'},
}
# torch 2.13 warns itself while it compiles a block mask.
ignores_torch = pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')
NAMES = [*(name for name in BACKENDS if name != 'flash'), *VERSIONS]
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]


def name_case(case):
    return ' '.join(name for name, flag in case.items() if flag) or 'bidirectional'


def make_ask(**asked):
    """A causal layer that asks for nothing else."""
    off = dict.fromkeys(['window', 'slopes', 'score_cap', 'grouped', 'dropout'], False)
    return Ask(**{**off, 'causal': True, 'd_head': 16, **asked})


def make_rule(case, device='cpu'):
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.1], device=device) if case['slopes'] else None
    return Rule(case['causal'], 5 if case['window'] else None, slopes, 1.5 if case['score_cap'] else None)


def make_documents(device='cpu', is_read=True):
    starts = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32, device=device)
    index = torch.repeat_interleave(starts.diff(), output_size=N_ROWS * N).view(N_ROWS, N)
    texts = torch.tensor(TEXTS, device=device)
    return Documents(starts, N, texts, index, list(zip(LENGTHS, TEXTS)) if is_read else None)


def make_parts(case, device='cpu', dtype=torch.float32, d_head=16):
    """Queries, keys and values: b n h c."""
    generator = torch.Generator().manual_seed(0)
    heads = [4, *[2 if case['grouped'] else 4] * 2]
    parts = [torch.randn(N_ROWS, N, h, d_head, generator=generator) for h in heads]
    return [part.to(device, dtype).requires_grad_() for part in parts]


def define(parts, rule, documents):
    """What the definition gives, document by document in float32: b n h c; zeros where nothing is defined."""
    parts = [part.float() for part in parts]
    lengths, texts = ([N] * N_ROWS, [True] * N_ROWS) if documents is None else (LENGTHS, TEXTS)
    rows = [part.flatten(0, 1).transpose(0, 1)[None].split(lengths, dim=2) for part in parts]
    mixed = []
    for length, is_text, q, k, v in zip(lengths, texts, *rows):
        place = torch.arange(length, device=q.device)
        visible, bias = make_masks(place[None], place, rule)
        part = attend(q, k, v, visible, bias, rule.score_cap) if is_text and length else torch.zeros_like(q)
        mixed.append(part[0].transpose(0, 1))
    return torch.cat(mixed).unflatten(0, (N_ROWS, N))


def compute(name, q, k, v, rule, documents):
    return make_pass(name, rule, documents, (N_ROWS, N), q.device).attend(q, k, v)


def assert_same(got, parts, rule, documents, tolerance=1e-5, with_gradient=True):
    """Equal where there is text, finite elsewhere."""
    expected = define(parts, rule, documents)
    is_text = torch.ones(N_ROWS, N, dtype=torch.bool, device=got.device)
    if documents is not None:
        is_text = documents.is_text[documents.segment.long()]
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(got.device)
    weight = weight * is_text[..., None, None]
    assert got.isfinite().all()
    close = {'rtol': tolerance, 'atol': tolerance}
    torch.testing.assert_close(got.float() * is_text[..., None, None], expected, **close)
    if with_gradient:
        grads, expected_grads = (torch.autograd.grad((x * weight).sum(), parts) for x in (got.float(), expected))
        torch.testing.assert_close(grads, expected_grads, **close)


@ignores_torch
@pytest.mark.parametrize('case', CASES, ids=name_case)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=['fp32', 'bf16'])
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', NAMES)
def test_a_backend_gives_what_the_definition_gives(name, device, dtype, case):
    ask = make_ask(**case, gradient=True, device=device, dtype=dtype)
    if objection(name, ask):
        with pytest.raises(ValueError, match=f'trunk.attention {name} '):
            choose(name, ask)
        return
    if name == 'flex':
        torch._dynamo.reset()  # each case is compiled anew, and only so many are in a process
    rule, documents = make_rule(case, device), make_documents(device) if case['documents'] else None
    parts = make_parts(case, device, dtype)
    if device == 'cuda' and documents is not None:
        documents = documents._replace(segments=None)
    got = compute(take(name, *ask), *parts, rule, documents)
    assert_same(got, parts, rule, documents, 1e-5 if (dtype, device) == (torch.float32, 'cpu') else 2e-2)


@pytest.mark.parametrize('is_plain', [True, False], ids=['plain', 'sdpa'])
@pytest.mark.parametrize('case', [case for case in CASES if case['documents']], ids=name_case)
def test_masks_of_packed_rows_give_what_the_definition_gives(case, is_plain, monkeypatch):
    """What other devices do with a layout that is not read."""
    monkeypatch.setattr('xlabml.transformer.attention.masked._BLOCK', 16)
    rule, documents, parts = make_rule(case), make_documents(is_read=False), make_parts(case)
    if rule.score_cap and not is_plain:
        assert 'cannot cap scores' in objection('sdpa', make_ask(**case))
        return
    heads = (part.transpose(1, 2) for part in parts)
    got = attend_fused(*heads, rule, documents=documents._replace(max_length=40), is_plain=is_plain).transpose(1, 2)
    assert_same(got, parts, rule, documents)


@pytest.mark.parametrize('longest', [8, 1024], ids=['head by head', 'all heads'])
@pytest.mark.parametrize('case', [case for case in CASES if case['documents'] and not case['score_cap']], ids=name_case)
def test_the_operator_gives_what_the_definition_gives(case, longest, monkeypatch):
    monkeypatch.setattr('xlabml.transformer.attention.documents._LONGEST', longest)
    monkeypatch.setattr('xlabml.transformer.attention.compiled_documents._PLANS', {})
    rule, documents, parts = make_rule(case), make_documents(is_read=False), make_parts(case)
    assert_same(compute('sdpa', *parts, rule, documents), parts, rule, documents)


def test_the_operator_keeps_the_rules_of_operators():
    documents = make_documents()
    for slopes, is_text in ((None, documents.is_text), (torch.rand(4), None)):
        q, k, v = (part.detach().flatten(0, 1).requires_grad_() for part in make_parts({'grouped': False}))
        torch.library.opcheck(_attend_documents, (q, k, v, documents.starts, is_text, N, True, 5, slopes))


def fake_varlen(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):
    """What torch documents of varlen_attn, for a CPU."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or q.size(1) == k.size(1)
    return fake_flash(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)


def fake_flash(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
):  # fmt: skip
    """What flash-attn documents of flash_attn_varlen_func, for a CPU: the window counts tokens left and right."""
    assert isinstance(max_seqlen_q, int)
    assert dropout_p == 0
    left, right = window_size
    mixed = []
    for start, end in itertools.pairwise(cu_seqlens_q.tolist()):
        assert end - start <= max_seqlen_q == max_seqlen_k
        part = [x[start:end].transpose(0, 1)[None] for x in (q, k, v)]
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        visible = torch.ones_like(distance, dtype=torch.bool)
        if left >= 0:
            visible &= distance <= left
        if right >= 0 or causal:
            visible &= distance >= -max(0, right)
        bias = None if alibi_slopes is None else (-alibi_slopes[:, None, None] * distance.abs())[None]
        mixed.append(attend(*part, visible[None, None], bias, softcap or None)[0].transpose(0, 1))
    return torch.cat(mixed)


@pytest.mark.parametrize('has_groups', [True, False], ids=['torch 2.12', 'torch 2.11'])
@pytest.mark.parametrize('name', ['varlen', 'flash_attn'])
@pytest.mark.parametrize('case', CASES, ids=name_case)
def test_flash_attention_is_told_what_it_documents(case, name, has_groups, monkeypatch):
    monkeypatch.setattr(kernels, 'find_varlen', lambda: backends.Varlen(fake_varlen, has_groups))
    monkeypatch.setitem(sys.modules, 'flash_attn', types.SimpleNamespace(flash_attn_varlen_func=fake_flash))
    if objection(name, make_ask(**case)):
        assert any(case[feature] for feature in REFUSED[name] if feature in case)
        return
    rule, documents = make_rule(case), make_documents(is_read=False) if case['documents'] else None
    parts = make_parts(case)
    assert_same(compute(name, *parts, rule, documents), parts, rule, documents)


def test_this_torch_has_the_varlen_that_we_call():
    varlen = backends.find_varlen()
    known = inspect.signature(varlen.function).parameters
    names = ['query', 'key', 'value', 'cu_seq_q', 'cu_seq_k', 'max_q', 'max_k']
    assert list(known)[:7] == names
    assert known['window_size'].default == (-1, -1)
    assert varlen.has_groups == ('enable_gqa' in known)


@pytest.mark.parametrize('feature', ['score_cap', 'slopes', 'dropout', 'window', 'grouped', 'documents', 'causal'])
@pytest.mark.parametrize('name', NAMES)
def test_what_a_backend_cannot_do_is_refused_by_its_name(name, feature):
    ask = make_ask(**{feature: True})
    if feature not in REFUSED[name]:
        assert objection(name, ask) is None
        assert choose(name, ask).name == name
        return
    said = {'score_cap': 'trunk.score_cap', 'slopes': 'ALiBi', 'dropout': 'trunk.dropout'}[feature]
    with pytest.raises(ValueError, match=rf'^trunk.attention {name} .*{said}.*; set trunk.attention to auto'):
        choose(name, ask)


def test_flash_attn_does_not_cap_and_drop_at_once():
    assert objection('flash_attn', make_ask(score_cap=True)) is None
    assert objection('flash_attn', make_ask(dropout=True)) is None
    assert 'at once' in objection('flash_attn', make_ask(score_cap=True, dropout=True))


@pytest.fixture
def with_gpu(monkeypatch):
    """A machine on which nothing is missing, but what a test takes away."""

    def pretend(capability=(9, 0), missing=()):
        choice._choose.cache_clear()
        monkeypatch.setattr(backends, '_capability', lambda: capability)
        for table in (BACKENDS, VERSIONS):
            for name, backend in table.items():
                lack = 'it is not installed' if name in missing else None
                monkeypatch.setitem(table, name, backend._replace(missing=lambda device, lack=lack: lack))

    yield pretend
    choice._choose.cache_clear()


BF16 = {'device': 'cuda', 'dtype': torch.bfloat16, 'gradient': True}
AUTO = {
    'packed': ({'documents': True, **BF16}, (), 'varlen', 'packed rows, bf16, torch'),
    'rows': (BF16, (), 'sdpa', 'rows, bf16'),
    'window': ({'window': True, **BF16}, (), 'varlen', 'rows, bf16'),
    'packed, fp32': (
        {'documents': True, **BF16, 'dtype': torch.float32},
        (),
        'flex',
        'varlen computes in bf16 or fp16',
    ),
    'packed, no varlen': ({'documents': True, **BF16}, ('varlen',), 'flash_attn', 'varlen it is not installed'),
    'packed, no flash': ({'documents': True, **BF16}, ('varlen', 'flash_attn'), 'flex', 'FlexAttention'),
    'packed, bare': ({'documents': True, **BF16}, ('varlen', 'flash_attn', 'flex'), 'sdpa', 'flex it is not installed'),
    'capped, bare': ({'score_cap': True, **BF16}, ('flash_attn', 'flex'), 'plain', 'sdpa cannot cap scores'),
    'alibi': ({'slopes': True, **BF16}, (), 'flash_attn', 'varlen does not support slopes'),
    'dropout': ({'documents': True, 'dropout': True, **BF16}, ('flash_attn',), 'sdpa', 'flex has no dropout'),
    'capped and dropped': ({'score_cap': True, 'dropout': True, **BF16}, (), 'plain', 'at once'),
    'cached': ({'documents': True, 'cache': True, **BF16, 'gradient': False}, (), 'sdpa', 'bf16'),
    'cached, capped': ({'cache': True, 'score_cap': True, **BF16, 'gradient': False}, (), 'plain', 'cannot cap'),
    'odd heads': ({'documents': True, 'd_head': 12, **BF16}, (), 'sdpa', 'multiples of 8, not of 12'),
    'cpu': ({'documents': True, **BF16, 'device': 'cpu'}, (), 'sdpa', 'packed rows, bf16'),
    'cpu, capped': ({'score_cap': True, **BF16, 'device': 'cpu'}, (), 'plain', 'sdpa cannot cap scores'),
    'mps': ({'documents': True, **BF16, 'device': 'mps'}, (), 'sdpa', 'packed rows'),
}


@pytest.mark.parametrize('case', AUTO)
def test_auto_takes_the_fastest_that_can_and_says_why(case, with_gpu):
    asked, missing, name, reason = AUTO[case]
    with_gpu(missing=missing)
    choice = choose('auto', make_ask(**asked))
    assert choice.name == name
    assert reason in choice.reason


def test_old_gpus_get_no_flash_attention(with_gpu):
    with_gpu(capability=(7, 5))
    ask = make_ask(documents=True, **BF16)
    assert choose('auto', ask).name == 'flex'
    with pytest.raises(ValueError, match=r'needs a GPU of compute capability 8.x, not 7.5'):
        choose('varlen', ask)


@pytest.mark.parametrize(('name', 'asked', 'message'), [
    ('varlen', {'device': 'cpu'}, 'runs on cuda only, not on cpu'),
    ('varlen', {'dtype': torch.float32}, r'computes in bf16 or fp16, not in fp32 \(trainer.precision\)'),
    ('flex', {'device': 'cpu'}, 'has no gradient on cpu'),
    ('flex', {'dtype': torch.float64}, 'not in fp64'),
    ('flex', {'d_head': 8}, 'takes heads of 16 to 256 channels'),
    ('flash_attn', {'d_head': 264}, 'takes heads of 8 to 256 channels'),
    ('flash3', {'capability': (10, 0)}, 'compute capability 9.x, not 10.0'),
    ('flash4', {'capability': (8, 0)}, 'compute capability 9.x to 10.x, not 8.0'),
    ('flash4', {'missing': ('flash4',)}, 'trunk.attention flash4 it is not installed'),
])  # fmt: skip
def test_what_a_machine_lacks_is_refused_with_the_reason(name, asked, message, with_gpu):
    with_gpu(capability=asked.pop('capability', (9, 0)), missing=asked.pop('missing', ()))
    with pytest.raises(ValueError, match=message):
        choose(name, make_ask(**{'documents': True, **BF16, **asked}))


def test_what_is_missing_is_looked_for(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'pip install xlabml[flash]' in BACKENDS['flash_attn'].missing('cuda')
    assert 'flash_attn_interface of FA3 is not installed' in VERSIONS['flash3'].missing('cuda')
    assert 'triton is not installed' in BACKENDS['flex'].missing('cuda')
    monkeypatch.setattr('shutil.which', lambda name: None)
    assert 'no C++ compiler' in BACKENDS['flex'].missing('cpu')
    monkeypatch.delattr('torch.nn.attention.activate_flash_attention_impl')
    assert 'this torch cannot activate FA4' in VERSIONS['flash4'].missing('cuda')
    monkeypatch.setattr(backends, '_varlen', [])
    monkeypatch.setitem(sys.modules, 'torch.nn.attention.varlen', None)
    assert 'torch has no torch.nn.attention.varlen' in BACKENDS['varlen'].missing('cuda')


def test_flash_attention_3_and_4_are_activated_once(with_gpu, monkeypatch):
    with_gpu()
    active = []
    monkeypatch.setattr('torch.nn.attention.current_flash_attention_impl', lambda: active[-1] if active else None)
    monkeypatch.setattr('torch.nn.attention.activate_flash_attention_impl', active.append)
    for name in ('flash3', 'flash3', 'flash4', 'flash4'):
        assert take(name, *make_ask(documents=True, **BF16)) == name
    assert active == ['FA3', 'FA4']
    choice._choose.cache_clear()
    assert 'FA4, activated in torch' in choose('auto', make_ask(documents=True, **BF16)).reason


def test_flash_takes_the_first_version_that_can_and_says_which(with_gpu):
    ask = make_ask(documents=True, **BF16)
    with_gpu()
    assert choose('flash', ask) == ('flash3', 'packed rows, bf16, FlashAttention-3, activated in torch')
    with_gpu(missing=('flash3',))
    name, reason = choose('flash', ask)
    assert name == 'flash4'
    assert reason == 'packed rows, bf16, FlashAttention-4, activated in torch; flash3 it is not installed'
    with_gpu(capability=(10, 0))
    assert choose('flash', ask).name == 'flash4'
    with_gpu(missing=('flash3', 'flash4'))
    with pytest.raises(ValueError, match=r'trunk.attention flash it is not installed; set'):
        choose('flash', ask)
    with_gpu(capability=(8, 0))
    said = (
        r'flash has no version that supports this: flash3 needs .* 9.x, not 8.0, flash4 needs .* 9.x to 10.x, not 8.0'
    )
    with pytest.raises(ValueError, match=said):
        choose('flash', ask)
    with pytest.raises(ValueError, match=r'trunk.attention flash does not support slopes'):
        make_trunk(attention='flash', positions=ALiBi)


def test_a_trunk_refuses_what_its_settings_forbid_when_it_is_built():
    with pytest.raises(ValueError, match=r'trunk.attention varlen cannot cap scores \(trunk.score_cap\)'):
        make_trunk(attention='varlen', score_cap=5.0)
    with pytest.raises(ValueError, match=r'trunk.attention flash3 does not support slopes'):
        make_trunk(attention='flash3', positions=ALiBi)
    with pytest.raises(ValueError, match=r'trunk.attention flex has no dropout'):
        make_trunk(attention='flex', dropout=0.1)
    make_trunk(attention='flex', dropout=0.1, attn_drop=False)
    with pytest.raises(ValueError, match=r"trunk.attention is 'fast'; choose one of auto, plain, sdpa, varlen"):
        choice.check('fast', make_ask())


@pytest.mark.parametrize('layout', [None, make_layout([3, 5])], ids=['row', 'packed'])
def test_a_trunk_refuses_at_the_first_pass_what_the_machine_lacks_and_still_decodes(layout):
    """A checkpoint from a machine with a GPU opens on any other."""
    trunk, ids = make_trunk(attention='varlen'), make_ids(8)
    with pytest.raises(ValueError, match=r'trunk.attention varlen runs on cuda only, not on cpu; set'):
        trunk(ids, layout)
    with pytest.raises(ValueError, match='runs on cuda only'):
        trunk.describe_attention('cpu', torch.float32)
    auto = copy_weights(trunk)
    rows = 1 if layout is None else 2
    torch.testing.assert_close(trunk(ids, layout, trunk.new_cache(rows, 8)), auto(ids, layout), rtol=1e-4, atol=1e-5)


def test_a_line_says_how_and_why():
    said = make_trunk().describe_attention('cpu', torch.bfloat16)
    assert said == "attention: sdpa (packed rows, bf16, torch's scaled_dot_product_attention)"
    said = make_trunk(score_cap=5.0).describe_attention('cpu', torch.float32, documents=False)
    assert said == 'attention: plain (rows, fp32, the definition; sdpa cannot cap scores (trunk.score_cap))'


def test_a_line_tells_layers_apart(with_gpu):
    with_gpu()
    said = make_trunk(window=[3, None, None], n_layers=3, n_heads=2).describe_attention(
        'cuda', torch.bfloat16, documents=False
    )
    assert 'varlen (rows, bf16' in said
    assert 'in 1 of 3 layers' in said
    assert 'sdpa (rows, bf16' in said
    assert 'in 2 of 3 layers' in said


@pytest.mark.parametrize('attention', ['plain', 'sdpa'])
@pytest.mark.parametrize('positions', [ALiBi, None])
def test_a_packed_step_asks_a_device_for_nothing(attention, positions):
    """The meta device has no numbers to give: reading one raises."""
    options = {} if positions is None else {'positions': positions}
    trunk = make_trunk(attention=attention, window=[3, None], **options).to('meta').train()
    layout = make_layout([3, 5, 8], [True, False, True])
    layout = layout._replace(starts=layout.starts.int().to('meta'), is_text=layout.is_text.to('meta'))
    hidden = trunk(make_ids(16).to('meta'), layout)
    hidden.sum().backward()
    assert hidden.shape == (1, 16, 16)
    with pytest.raises(RuntimeError, match='meta'):
        layout.starts.tolist()


@pytest.mark.parametrize('name', ['varlen', 'flash_attn'])
def test_flash_attention_asks_a_device_for_nothing(name, monkeypatch):
    def run(q, *args, **options):
        return torch.empty_like(q)

    monkeypatch.setattr(kernels, 'find_varlen', lambda: backends.Varlen(run, True))
    monkeypatch.setitem(sys.modules, 'flash_attn', types.SimpleNamespace(flash_attn_varlen_func=run))
    documents = make_documents(is_read=False)
    documents = documents._replace(starts=documents.starts.to('meta'), segment=documents.segment.to('meta'))
    q, k, v = (part.to('meta') for part in make_parts(CASES[0]))
    for one in (documents, None):
        assert compute(name, q, k, v, Rule(), one).shape == q.shape


@pytest.mark.parametrize('wanted', [True, False])
def test_flash_attn_is_told_whether_its_gradient_has_to_be_deterministic(wanted, monkeypatch):
    told = []

    def run(q, *args, deterministic, **options):
        told.append(deterministic)
        return torch.empty_like(q)

    monkeypatch.setitem(sys.modules, 'flash_attn', types.SimpleNamespace(flash_attn_varlen_func=run))
    torch.use_deterministic_algorithms(wanted)
    try:
        compute('flash_attn', *make_parts(CASES[0]), Rule(), None)
    finally:
        torch.use_deterministic_algorithms(False)
    assert told == [wanted]


def test_dropout_in_packed_rows_is_right_on_average():
    documents, case = make_documents(is_read=False), dict.fromkeys(FEATURES, False) | {'documents': True}
    parts = [part.detach() for part in make_parts(case)]
    rule = Rule(dropout=0.3)
    torch.manual_seed(0)
    mean = torch.stack([compute('sdpa', *parts, rule, documents) for _ in range(300)]).mean(0)
    is_text = documents.is_text[documents.segment.long()][..., None, None]
    expected = define(parts, rule, documents)
    torch.testing.assert_close(mean * is_text, expected, rtol=0.2, atol=0.25)


@ignores_torch
@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=['fp32', 'bf16'])
@pytest.mark.parametrize('name', ['auto', *NAMES])
def test_a_packed_step_on_a_gpu_never_waits_and_equals_the_cpu(name, dtype):
    options = {'d_model': 64, 'n_kv_heads': 2}
    known = {'documents': True, 'gradient': True, 'device': 'cuda', 'dtype': dtype}
    if name != 'auto' and objection(name, make_ask(**known)):
        pytest.skip(objection(name, make_ask(**known)))
    trunk = make_trunk(attention=name, **options).cuda().train()
    layout = make_layout([9, 7, 16], [True, False, True])
    there = layout._replace(starts=layout.starts.int().cuda(), is_text=layout.is_text.cuda())
    ids = make_ids(32)
    with torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
        trunk(ids.cuda(), there).sum().backward()  # compiles what compiles
        torch.cuda.set_sync_debug_mode('error')
        try:
            hidden = trunk(ids.cuda(non_blocking=True), there)
            hidden.sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    here = copy_weights(trunk.cpu(), **options, attention='plain')
    is_text = torch.tensor([True] * 9 + [False] * 7 + [True] * 16)
    tolerance = 1e-2 if dtype == torch.float32 else 0.15
    expected = here(ids, layout)
    torch.testing.assert_close(hidden.float().cpu()[:, is_text], expected[:, is_text], rtol=tolerance, atol=tolerance)
    assert hidden.isfinite().all()
    assert all(grad is None or grad.isfinite().all() for grad in gradients(here, expected))
