"""A compiled language model is one graph for packed rows of any layout, and gives what an eager one does."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xlabml

FAST = ['default-train', 'default-eval', 'default-bf16', 'bent-train']
SLOW = ['bent-eval', 'bent-bf16', 'capped-train', 'encoder-train', 'dropout-train']
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get('CXX', 'g++')) is None, reason='torch.compile on a CPU needs a C++ compiler'
)


def run(backend, *cases):
    """See compiled.py."""
    paths = [str(Path(xlabml.__file__).parents[1]), str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / 'compiled.py'), backend, *cases],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def traced():
    """Without code generation: what is traced, and the operators' gradients."""
    return run('aot_eager', *FAST)


def check(found, case):
    assert found['breaks'] == 0
    assert found['graphs'] == [1] * 5
    if 'dropout' not in case:  # its draws differ
        assert found['distance'] < (2e-2 if case.endswith('bf16') else 1e-5)


@pytest.mark.parametrize('case', FAST)
def test_new_layouts_compile_nothing_anew(traced, case):
    check(traced[case], case)


@pytest.mark.slow
def test_new_layouts_compile_nothing_anew_whatever_the_layers():
    for case, one in run('aot_eager', *SLOW).items():
        check(one, case)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize('case', ['default-train', 'default-eval', 'default-bf16', 'bent-train'])
def test_generated_code_gives_what_eager_code_does(case):
    check(run('inductor', case)[case], case)


def check_flex(found):
    for case, one in found.items():
        assert one['distance'] < 1e-5, case
        assert one['graphs'] == [one['graphs'][0]] * 5, case


def test_flex_attention_gives_what_the_definition_does():
    check_flex(run('eager', 'flex-wacg', 'flex-mbw'))


@pytest.mark.slow
def test_flex_attention_gives_what_the_definition_does_in_every_combination():
    letters = [''.join(some) for n in range(6) for some in itertools.combinations('bwacg', n)]
    check_flex(run('eager', *(f'flex-{some}' for some in letters)))


@pytest.mark.slow
@needs_compiler
def test_compiled_flex_attention_gives_what_the_definition_does():
    check_flex(run('inductor', 'flex-wacg'))


def test_the_loss_operator_keeps_the_rules_of_operators():
    from xlabml.losses.cross_entropy import _chunked_op

    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (20, 12))
    targets = torch.randint(12, (20,), generator=generator)
    for bias, wants_grad in ((None, True), (torch.zeros(12, requires_grad=True), True), (None, False)):
        args = hidden, weight, bias, targets, 3.0, 0.1, 1e-3, wants_grad, wants_grad, torch.float32
        if not wants_grad:
            args = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in args)
        torch.library.opcheck(_chunked_op, args)
