"""Texts that are asked for by metadata: the prefix of a prompt, guidance, and what is refused."""

import math

import pytest
import torch

from xlabml.commands import infer
from xlabml.commands.errors import UsageError
from xlabml.errors import RequestError
from xlabml.heads import language_model
from xlabml.inference import Greedy, Guided, Sampler
from xlabml.metadata import Entity, KeyValue, Paragraph, Prefix, Timestamp, Title, Topic
from xlabml.pipelines import TextGenerator
from xlabml.pipelines.conditioning import Conditioning
from xlabml.tokenizer import train_tokenizer

TYPES = [Title(), Timestamp(), Topic(after=True), Entity(control='entity'), Paragraph()]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    texts = [f'Title: the {i} cat sat ||| on a mat | Year: {1900 + i} entity' for i in range(100)]
    return train_tokenizer(texts, tmp_path_factory.mktemp('tokenizer') / 'one.model', 330)


@pytest.fixture(scope='module')
def generator(tokenizer):
    torch.manual_seed(0)
    model = language_model(len(tokenizer), 96).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return TextGenerator(model, tokenizer, Conditioning(Prefix(TYPES), tokenizer, 96))


def test_a_prefix_is_written_as_in_training_in_the_order_of_the_types():
    prefix = Prefix(TYPES)
    assert prefix.controls == ['title', 'timestamp', 'entity']
    asked = {'entity': '', 'timestamp': '2018', 'title': 'A'}
    assert prefix.pieces(asked) == ['Title: A', ' | ', 'Year: 2018', ' | ', 'entity', ' ||| ']
    assert prefix.pieces({}) == []


def test_a_text_that_is_asked_for_begins_with_its_metadata_which_is_not_part_of_it(generator, tokenizer):
    pieces = ['Title: cat', ' ||| ', 'the']
    ids = [tokenizer.special_ids['sos'], *(token for piece in pieces for token in tokenizer.encode(piece))]
    logits = generator.model(torch.tensor([ids]))[0, -1]
    logits[[item for item in tokenizer.reserved_ids if item != tokenizer.special_ids['eos']]] = -math.inf
    said = generator.generate('the', 1, greedy=True, meta={'title': 'cat'})
    assert said == tokenizer.decode([*tokenizer.encode('the'), int(logits.argmax())])[3:]
    assert generator.generate('the', 8, greedy=True, meta={'title': 'cat'}) != generator.generate('the', 8, greedy=True)
    assert generator.generate('the', 8, seed=3, meta={}) == generator.generate('the', 8, seed=3)
    assert (
        ''.join(generator.stream('the', 8, seed=3, meta={'title': 'cat'}))
        == generator.generate(['the'], 8, seed=3, meta={'title': 'cat'})[0]
    )


def test_guidance_of_1_is_the_conditional_model_and_of_0_the_plain_one(generator):
    meta = {'title': 'cat', 'timestamp': '1950'}
    options = {'greedy': True}
    conditional = generator.generate('the', 12, meta=meta, **options)
    plain = generator.generate('the', 12, **options)
    assert generator.generate('the', 12, meta=meta, guidance=1, **options) == conditional
    assert generator.generate('the', 12, meta=meta, guidance=0.0, **options) == plain
    one = {'title': 1.0, 'timestamp': 0.0}
    assert generator.generate('the', 12, meta=meta, guidance=one, **options) == generator.generate(
        'the', 12, meta={'title': 'cat'}, **options
    )
    assert generator.generate(['the', 'a cat'], 12, meta=meta, guidance=1, **options)[0] == conditional
    assert generator.generate('the', 12, meta=meta, guidance=5, seed=1) == generator.generate(
        'the', 12, meta=meta, guidance=5, seed=1
    )
    assert generator.beam('the', 4, 2, meta=meta) != generator.beam('the', 4, 2)


def test_guided_logits_are_those_of_the_formula():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [2.0, 0.0, -math.inf], [0.5, 0.5, -math.inf]])
    seen = []

    def choose(combined, rows, n_rows):
        seen.append((combined, rows, n_rows))
        return torch.tensor([1])

    assert Guided(choose, [2.0, 0.5])(logits, [0, 1, 2], 3).tolist() == [1, 1, 1]
    ((combined, rows, n_rows),) = seen
    p = logits.log_softmax(1)[:, :2]
    wanted = p[0] + 2 * (p[1] - p[0]) + 0.5 * (p[2] - p[0])
    torch.testing.assert_close(combined[0, :2], wanted)
    assert combined[0, 2] == -math.inf
    assert (rows, n_rows) == ([0], 1)
    assert isinstance(Guided(Greedy(), [1.0]).choose, Greedy)
    assert (
        Guided(Sampler(1.0, None, None, torch.Generator().manual_seed(0)), [1.0])(logits[:2], [0, 1], 2)
        .unique()
        .numel()
        == 1
    )


@pytest.mark.parametrize(
    ('asked', 'guidance', 'said'),
    [
        ({'url': 'x'}, None, "trained without the metadata 'url'; it knows title, timestamp, entity"),
        ({'topic': 'x'}, None, "without the metadata 'topic'"),
        ({'timestamp': 'soon'}, None, "timestamp='soon' says nothing"),
        ({'title': 'far ' * 60}, None, 'but of a context of 96 it gets half'),
        ({}, 2.0, 'guidance weighs metadata, and none is asked for'),
        ({'title': 'x'}, {'timestamp': 2.0}, "a weight of 'timestamp', which is not asked for"),
    ],
)
def test_what_the_model_does_not_know_is_refused(generator, asked, guidance, said):
    with pytest.raises(RequestError, match=said):
        generator.generate('the', 2, meta=asked, guidance=guidance)


def test_a_model_without_metadata_refuses_it(generator, tokenizer):
    plain = TextGenerator(generator.model, tokenizer)
    with pytest.raises(RequestError, match="trained without metadata, so that 'title' means nothing"):
        plain.generate('the', 2, meta={'title': 'x'})
    assert plain.generate('the', 5, seed=0) == generator.generate('the', 5, seed=0)
    assert KeyValue('a').render('b') == 'a: b'


def test_metadata_and_weights_are_read_from_the_command_line():
    options = infer.parse(['last', 'the', '--meta', 'title=a=b', '--meta', 'timestamp=2018', '--guidance', 'title=2'])
    assert options.meta == {'title': 'a=b', 'timestamp': '2018'}
    assert options.guidance == {'title': 2.0}
    assert infer.parse(['last', 'the', '--guidance', '1.5', '--meta', 'title=x']).guidance == 1.5
    plain = infer.parse(['last', 'the'])
    assert (plain.meta, plain.guidance) == ({}, None)
    for arguments, said in (
        (['--meta', 'title'], 'give it as KEY=VALUE'),
        (['--meta', 'a=1', '--meta', 'a=2'], 'has a twice'),
        (['--guidance', 'much'], 'give a number in -100..100'),
        (['--meta', 'a=1', '--guidance', '2', '-b'], 'beam search, -b, has none'),
    ):
        with pytest.raises(UsageError, match=said):
            infer.parse(['last', 'the', *arguments])
