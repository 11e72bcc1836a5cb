"""Compiled models: the same names and numbers, recompiles counted and reported, a clear word where it cannot be."""

import functools
import inspect
import types
import warnings

import jaxtyping
import pytest
import torch
from token_batches import token_batch
from torch.utils.data import DataLoader

from xlabml.callbacks import Compiling, Progress, compiling
from xlabml.callbacks.compiling import eagerly, pays
from xlabml.commands.trainer import Trainer
from xlabml.models import XLabModel
from xlabml.transformer import Before, Transformer
from xlabml.transformer.attention.definition import Pass

pytestmark = [
    pytest.mark.filterwarnings('ignore:You defined a `validation_step`'),
    # torch makes an instance of each autograd function itself when it compiles one.
    pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning'),
]


def batches(sizes):
    for seed, n in enumerate(sizes):
        ids, targets = torch.randint(0, 20, (2, 2, n), generator=torch.Generator().manual_seed(seed))
        yield token_batch(ids, targets, seed)


def fit(folder, sizes, callbacks=(), val_sizes=None, **options):
    torch.manual_seed(0)
    model = XLabModel(20, 16, functools.partial(Transformer, d_model=8, n_layers=1, n_heads=1))
    trainer = Trainer(
        max_steps=len(sizes),
        accelerator='cpu',
        precision='32-true',
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Progress()],
        val_check_interval=1,
        num_sanity_val_steps=0,
        **options,
    )
    val = None if val_sizes is None else DataLoader(list(batches(val_sizes)), batch_size=None)
    trainer.fit(model, DataLoader(list(batches(sizes)), batch_size=None), val)
    return model


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    """Shapes are not checked here: torch cannot compile the checks, those of what is built while it traces included."""
    for cls in (Before, *Pass.__subclasses__()):
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            monkeypatch.setattr(cls, name, inspect.unwrap(method))
    was_off = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update('jaxtyping_disable', True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    jaxtyping.config.update('jaxtyping_disable', was_off)


class Double(torch.nn.Module):
    def forward(self, x):
        return x * 2


def test_a_compiled_run_has_the_names_and_numbers_of_a_plain_one_and_compiles_nothing_again(tmp_path, capsys):
    watch = Compiling('eager')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        warnings.filterwarnings('ignore', message='.*does not have many workers|.*validation_step')
        compiled = fit(tmp_path, [8] * 4, [watch], [8] * 2)
    plain = fit(tmp_path, [8] * 4, val_sizes=[8] * 2)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, msg=lambda text, name=name: f'{name}: {text}')
    assert watch.n_compiled > 0
    assert watch.n_recompiles == 0
    assert f'compiled {watch.n_compiled} code objects in' in capsys.readouterr().out
    assert compiled.network._compiled_call_impl is None


def test_what_is_compiled_again_is_counted_and_the_first_reported_with_its_reason(tmp_path):
    watch = Compiling('eager')
    with pytest.warns(UserWarning, match='recompiled at step 3: .*size') as caught:
        fit(tmp_path, [8, 8, 10, 12], [watch])
    assert len([one for one in caught if 'recompiled at' in str(one.message)]) == 1
    assert watch.n_recompiles >= 2


def test_calls_of_changing_shapes_can_pass_the_compiler_by():
    model = Double()
    assert model._compiled_call_impl is None
    shapes = []

    def backend(graph, inputs):
        shapes.append([tuple(one.shape) for one in inputs])
        return graph.forward

    model.compile(dynamic=False, backend=backend)
    with eagerly(model):
        for n in (1, 2, 3):
            model(torch.ones(n, 2))
    assert shapes == []
    model(torch.ones(1, 2))
    assert len(shapes) == 1


def test_without_a_compiler_compile_is_refused_by_name(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(ValueError, match=r'trainer\.compile is true, but there is no C\+\+ compiler: no-such-compiler'):
        Trainer(accelerator='cpu', logger=False, compile=True)


@pytest.mark.parametrize(
    ('max_steps', 'tokens', 'compiler', 'expected'),
    [
        (100, 10, 'python3', True),
        (99, 10, 'python3', False),
        (-1, 10, 'python3', False),
        (100, 10, 'none', False),
        (100, None, 'python3', False),
    ],
)
def test_auto_compiles_long_runs_where_there_is_a_compiler(
    monkeypatch, tmp_path, max_steps, tokens, compiler, expected
):
    """6 x parameters x tokens of all steps, against the least; without a length, or tokens of a step, it is unknown."""
    monkeypatch.setenv('CXX', compiler)
    model = XLabModel(20, 16, functools.partial(Transformer, d_model=8, n_layers=1, n_heads=1))
    n_parameters = sum(parameter.numel() for parameter in model.network.parameters())
    monkeypatch.setattr(compiling, '_LEAST_FLOPS', 6 * n_parameters * 10 * 100)
    trainer = Trainer(accelerator='cpu', logger=False, max_steps=max_steps, max_epochs=1, default_root_dir=tmp_path)
    if tokens is not None:
        monkeypatch.setattr(type(trainer.run), 'data', types.SimpleNamespace(batch_tokens=tokens))
    assert pays(trainer, model) == expected


def test_auto_compiles_what_pays_and_nothing_else(monkeypatch, tmp_path):
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda module, **_: compiled.append(module))
    fit(tmp_path, [8], compile='auto')
    assert not compiled
    monkeypatch.setattr(compiling, 'pays', lambda *_: True)
    model = fit(tmp_path, [8], compile='auto')
    assert compiled == [model.network]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*torch.jit.script_method:DeprecationWarning')  # its own import
def test_the_setting_compiles_with_torchs_own_backend(tmp_path):
    """Takes most of a minute: C++ is compiled."""
    try:
        Compiling()
    except ValueError as error:
        pytest.skip(str(error))
    compiled, plain = fit(tmp_path, [8] * 3, compile=True), fit(tmp_path, [8] * 3)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, msg=lambda text, name=name: f'{name}: {text}')
