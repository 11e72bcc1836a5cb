"""Text in, text out: from either kind of file, streamed, batched, with the prompt decoded as part of it."""

import subprocess
import sys

import foreign
import pytest
import torch

from xlabml import checkpoints, inference, settings
from xlabml.heads import language_model
from xlabml.pipelines import TextGenerator
from xlabml.tokenizer import Tokenizer, train_tokenizer

N_VOCAB, MAX_LEN = 330, 24
TRUNK = {'class_path': 'xlabml.transformer.Transformer', 'init_args': {'d_model': 16, 'n_layers': 2, 'n_heads': 2}}
TEXTS = ['the quick brown fox jumps over the lazy dog; ', 'pack my box with five dozen liquor jugs. '] * 20


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp('tokenizer') / 't.model', N_VOCAB)


def write_checkpoint(path, tokenizer, weights=None, **values):
    hyper_parameters = {
        'n_vocab': N_VOCAB,
        'max_len': MAX_LEN,
        'trunk': TRUNK,
        'tied': False,
        'loss': {'class_path': 'mine.Loss'},  # not for generating: never built
        '_class_path': 'xlabml.models.XLabModel',
        **values,
    }
    torch.manual_seed(0)
    known = {name: hyper_parameters[name] for name in ('n_vocab', 'max_len', 'trunk', 'tied')}
    model = language_model(**settings.build_arguments(language_model, known)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    state = {f'network.{name}': tensor for name, tensor in model.state_dict().items()}
    data = torch.frombuffer(bytearray(tokenizer.data), dtype=torch.uint8)
    checkpoint = {
        'state_dict': {**state, 'network.loss.weight': torch.ones(3)} if weights is None else weights,
        'hyper_parameters': hyper_parameters,
        'network': {'class_path': 'xlabml.heads.LanguageModel', 'init_args': known},
        'datamodule_hyper_parameters': {},
        'XLabDataModule': {'tokenizer': data},
        'optimizer_states': [],
        'global_step': 1,
    }
    checkpoints.write(checkpoint, path)
    return model


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp('run') / 'logs' / 'version_0' / 'checkpoints' / 'a.ckpt'
    write_checkpoint(path, tokenizer)
    return path


@pytest.fixture(scope='module')
def generator(ckpt):
    return TextGenerator.load(ckpt, 'cpu')


def test_the_model_that_was_saved_is_the_model_that_speaks(tmp_path, tokenizer):
    model = write_checkpoint(tmp_path / 'x.ckpt', tokenizer)
    loaded = TextGenerator.load(tmp_path / 'x.ckpt', 'cpu')
    ids = torch.arange(20)[None]
    assert torch.equal(loaded.model(ids), model(ids))
    assert not loaded.model.training
    assert loaded.tokenizer.hash == tokenizer.hash


def test_an_exported_file_says_the_same(ckpt, generator, tmp_path):
    export = checkpoints.export(ckpt, tmp_path / 'model')
    assert TextGenerator.load(export.path, 'cpu').generate('the quick', seed=1) == generator.generate(
        'the quick', seed=1
    )


def test_the_newest_run_is_found_below_the_current_folder(ckpt, generator, monkeypatch):
    monkeypatch.chdir(ckpt.parents[3])
    assert TextGenerator.load('last', 'cpu').generate('the', greedy=True) == generator.generate('the', greedy=True)


@pytest.mark.parametrize(
    'options', [{'seed': 3}, {'greedy': True}, {'seed': 1, 'top_k': 40, 'top_p': 0.9, 'temperature': 2}]
)
def test_a_stream_joined_is_the_whole_text(generator, options):
    pieces = list(generator.stream('the lazy', n_tokens=60, **options))
    assert len(pieces) > 5
    assert ''.join(pieces) == generator.generate('the lazy', n_tokens=60, **options)


def test_ids_and_text_say_the_same(generator, tokenizer):
    prompt = torch.tensor([1, *tokenizer.encode('the lazy')])
    excluded = [i for i in tokenizer.reserved_ids if i != 2]
    ids = inference.greedy_search(generator.model, prompt, 30, MAX_LEN, 2, excluded)
    assert generator.generate('the lazy', n_tokens=30, greedy=True) == tokenizer.decode(ids.tolist())
    beam = inference.beam_search(generator.model, prompt, 3, 30, MAX_LEN, 2, excluded, 1)
    assert generator.beam('the lazy', 30, width=3, length_penalty=1) == tokenizer.decode(beam.tolist())


def test_several_prompts_go_in_one_batch(generator):
    prompts = ['the lazy', '', 'pack my box with']
    assert generator.generate(prompts, greedy=True) == [generator.generate(text, greedy=True) for text in prompts]
    assert generator.beam(prompts, 8, 3) == [generator.beam(text, 8, 3) for text in prompts]


def test_without_a_start_token_another_text_follows(generator):
    assert generator.generate('the', greedy=True, continued=True) != generator.generate('the', greedy=True)
    with pytest.raises(ValueError, match='the prompt is empty'):
        generator.generate('', continued=True)


def test_a_seed_repeats_a_text_and_none_does_not(generator):
    assert generator.generate('a', seed=1) == generator.generate('a', seed=1) != generator.generate('a', seed=2)
    assert generator.generate('a') != generator.generate('a')
    moving = torch.Generator().manual_seed(1)
    assert generator.generate('a', seed=moving) == generator.generate('a', seed=1)
    assert generator.generate('a', seed=moving) != generator.generate('a', seed=1)


def say(generator, monkeypatch, *new):
    """What is made of these ids."""
    monkeypatch.setattr(inference, 'stream', lambda *_, **__: iter([[item] for item in new]))
    return list(generator.stream('x'))


def test_a_character_is_never_split(generator, tokenizer, monkeypatch):
    bytes_of = tokenizer.encode('好🙂')
    assert len(bytes_of) == 7
    assert say(generator, monkeypatch, *bytes_of) == ['好', '🙂']
    assert say(generator, monkeypatch, *bytes_of[:-1]) == ['好', '\ufffd']


def test_reserved_tokens_never_come(generator, tokenizer):
    seen = []
    for step in inference.stream(
        generator.model, [torch.tensor([1])] * 200, 30, MAX_LEN, inference.Sampler(50.0), 2, generator._excluded
    ):
        seen += [item for item in step if item is not None]
    assert len(seen) > 1000
    assert not set(seen) & set(tokenizer.reserved_ids)


def test_a_prompt_longer_than_the_context_is_refused(generator):
    generator.generate('好' * 7 + 'x', 1)  # 1 + 21 + 1 tokens
    with pytest.raises(
        ValueError, match=f'the prompt has 25 tokens, but the model has a context of {MAX_LEN}; shorten'
    ):
        generator.stream('好' * 8)


@pytest.mark.parametrize('options', [{'temperature': 0}, {'top_k': 0}, {'top_p': 2}])
def test_values_out_of_range_are_refused_before_anything_is_made(generator, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        generator.stream('the', **options)


# What cannot be loaded


def test_a_tokenizer_of_another_size_is_refused(ckpt, tmp_path):
    other = tmp_path / 'other.model'
    train_tokenizer(TEXTS, other, N_VOCAB + 1)
    with pytest.raises(ValueError, match=f'the tokenizer has {N_VOCAB + 1} tokens, but the model has {N_VOCAB}'):
        TextGenerator.load(ckpt, 'cpu', tokenizer=other)


def test_a_tokenizer_may_be_given(ckpt, tokenizer, tmp_path):
    (tmp_path / 't.model').write_bytes(tokenizer.data)
    assert TextGenerator.load(ckpt, 'cpu', tmp_path / 't.model').tokenizer.hash == tokenizer.hash


def test_a_checkpoint_of_another_task_is_refused_by_name(tmp_path, tokenizer):
    write_checkpoint(tmp_path / 'x.ckpt', tokenizer, _class_path='xlabml.models.Embedder')
    with pytest.raises(ValueError, match=r'x\.ckpt holds a xlabml\.models\.Embedder, which is no language model'):
        TextGenerator.load(tmp_path / 'x.ckpt', 'cpu')


def test_a_class_that_nobody_trusts_is_not_imported(tmp_path, tokenizer):
    write_checkpoint(tmp_path / 'x.ckpt', tokenizer, _class_path='antigravity.Flight')
    with pytest.raises(ValueError, match='--import antigravity'):
        TextGenerator.load(tmp_path / 'x.ckpt', 'cpu')
    assert 'antigravity' not in sys.modules


def test_a_trusted_subclass_of_the_language_model_speaks(tmp_path, tokenizer, monkeypatch):
    base = "type('XLabModel', (), {'__module__': 'xlabml.models.xlab_model'})"
    (tmp_path / 'my_tasks.py').write_text(f'class Mine({base}): pass\nclass Other: pass\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(settings, '_TRUSTED', {*settings._TRUSTED})
    settings.trust('my_tasks')
    write_checkpoint(tmp_path / 'x.ckpt', tokenizer, _class_path='my_tasks.Mine')
    assert TextGenerator.load(tmp_path / 'x.ckpt', 'cpu').generate('the', 3)
    model = write_checkpoint(tmp_path / 'x.ckpt', tokenizer, _class_path='my_tasks.Mine')
    weights = {f'network.{name}': tensor for name, tensor in model.state_dict().items()} | {
        'probe.weight': torch.ones(3)
    }
    write_checkpoint(tmp_path / 'x.ckpt', tokenizer, weights, _class_path='my_tasks.Mine')
    assert TextGenerator.load(tmp_path / 'x.ckpt', 'cpu').generate('the', 3)
    write_checkpoint(tmp_path / 'x.ckpt', tokenizer, _class_path='my_tasks.Other')
    with pytest.raises(ValueError, match=r'holds a my_tasks\.Other, which is no language model'):
        TextGenerator.load(tmp_path / 'x.ckpt', 'cpu')


def test_weights_that_do_not_fit_are_refused(tmp_path, tokenizer):
    write_checkpoint(tmp_path / 'x.ckpt', tokenizer, weights={'network.nothing': torch.zeros(1)})
    with pytest.raises(ValueError, match=r'the weights in .*x\.ckpt do not fit its settings'):
        TextGenerator.load(tmp_path / 'x.ckpt', 'cpu')


@pytest.mark.parametrize('device', ['cuda:99', 'toaster'])
def test_an_absent_device_is_refused(ckpt, device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here"):
        TextGenerator.load(ckpt, device)


def test_no_lightning_is_loaded():
    code = 'import sys, xlabml.pipelines; print([m for m in sys.modules if "lightning" in m or "jsonargparse" in m])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


@pytest.mark.parametrize('kind', ['byte_fallback', 'unigram_bytes', 'byte_level', 'word_piece', 'unigram_json'])
@pytest.mark.parametrize('prompt', ['the cat', 'a \u4e16', '\u4e16\u754c', 'a\ufffd'])
def test_a_prompt_is_never_part_of_its_continuation(tmp_path, kind, prompt):
    tokenizer = Tokenizer.load(foreign.KINDS[kind](tmp_path))
    n = len(tokenizer)
    trunk = settings.build_arguments(language_model, {'n_vocab': n, 'max_len': MAX_LEN, 'trunk': TRUNK})
    generator = TextGenerator(language_model(**trunk).eval(), tokenizer)
    before = tokenizer.encode(prompt)
    for more in ('cat', ' a \u4e16 b', '\u754c!', ''):
        new = tokenizer.encode(more)
        whole, start = tokenizer.decode([*before, *new]), tokenizer.decode(before)
        if whole.startswith(start):
            assert generator._decode(torch.tensor(before), new) == whole[len(start) :]
