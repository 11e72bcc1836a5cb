"""Preferences as a task of the classifier: exchanged answers on real batches, chunks, figures, predictions."""

import functools
import json
import random

import numpy as np
import pytest
import torch

from xlabml.batches import ClassTargets
from xlabml.data import Corpus, Location, Pack, Reading, prepare_store
from xlabml.data.groups import Preferences
from xlabml.data.order import example_keys
from xlabml.errors import SettingsError
from xlabml.heads import RaoKupper
from xlabml.models import Classifier
from xlabml.tfidf import Tfidf, TfidfPreference
from xlabml.tokenizer import train_tokenizer
from xlabml.transformer import Transformer


class Alone:
    """One rank."""

    def total(self, values):
        return values

    def everything(self, values):
        return [values]


WORDS = ['the', 'cat', 'sat', 'on', 'mat', 'a', 'dog', 'saw']
MIRRORED = {'a': 'b', 'b': 'a', 'tie': 'tie'}


def make_records(n, seed=0):
    """Records of mixed lengths; of every seventh both answers are the same, of every fifth one is empty."""
    draw = random.Random(seed)

    def text(least):
        return ' '.join(draw.choices(WORDS, k=draw.randint(least, 12)))

    records = []
    for i in range(n):
        a, b = text(1), text(1)
        record = {
            'prompt': f'{i} {text(0)}',
            'response_a': a,
            'response_b': b,
            'winner': draw.choice(['a', 'tie', 'b']),
        }
        if i % 7 == 3:
            record['response_b'] = a
        if i % 5 == 2:
            record['response_a'] = ''
        records.append(record)
    return records


def exchange(record):
    both = {'response_a': record['response_b'], 'response_b': record['response_a']}
    return {**record, **both, 'winner': MIRRORED[record['winner']]}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    texts = [' '.join(random.Random(i).choices(WORDS, k=9)) + f' {i}' for i in range(200)]
    return train_tokenizer(texts, tmp_path_factory.mktemp('tokenizer') / 'small.model', 300)


@pytest.fixture(scope='module')
def make_batches(tmp_path_factory, tokenizer):
    """Records -> the batch of all of them in their order, and the same with exchanged answers."""

    def make(n=23, device_tokens=None, **options):
        form = Preferences(label='winner', **options)
        found = []
        records = make_records(n)
        for some in (records, list(map(exchange, records))):
            folder = tmp_path_factory.mktemp('records')
            path = folder / 'records.jsonl'
            path.write_text('\n'.join(map(json.dumps, some)))
            store = prepare_store(form.source(Location(str(path))), tokenizer, folder / 'store', form.columns)
            reading = Reading(tokenizer, Pack(24), folder / 'plans', 0, n, device_tokens)
            groups = form.examples(Corpus([store], {'train': 1.0}), 'train', 'train', 0, reading)
            numbers = np.arange(n)
            found.append(groups.batch(numbers, example_keys(0, 0, numbers), float(n)))
        return found

    return make


def make_task(tokenizer, preference, noise=0.3, dtype=torch.float32, **options):
    torch.manual_seed(0)
    trunk = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=False)
    task = Classifier(
        len(tokenizer),
        24,
        classes=['a', 'tie', 'b'],
        class_counts=[1.0, 1.0, 1.0],
        preference=preference,
        trunk=trunk,
        **options,
    )
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    return task.to(dtype).eval()


@pytest.mark.parametrize('device_tokens', [None, 60])
@pytest.mark.parametrize(
    ('together', 'options'), [(False, {}), (False, {'ties': RaoKupper}), (True, {}), (True, {'second_pass': 0.7})]
)
def test_exchanged_answers_have_exchanged_probabilities_to_the_last_bit(
    make_batches, tokenizer, together, options, device_tokens
):
    here, there = make_batches(together=together, device_tokens=device_tokens)
    assert (len(here.ids) > 1) == (device_tokens is not None)
    task = make_task(tokenizer, 'together' if together else 'apart', **options)
    task.network.calibration.scale.fill_(1.37)
    with torch.no_grad():
        one, other = (task.predictions(batch) for batch in (here, there))
    probs, mirrored = (
        torch.stack([parts.values[f'probability_{i}'] for i in range(3)], dim=1) for parts in (one, other)
    )
    assert torch.equal(probs, mirrored.flip(-1))
    same = torch.tensor([i % 7 == 3 and i % 5 != 2 for i in range(23)])
    assert torch.equal(probs[same, 0], probs[same, 2])
    assert (probs[~same, 0] != probs[~same, 2]).all()
    assert task.loss(here).objective.item() == pytest.approx(task.loss(there).objective.item(), rel=1e-6)


@pytest.mark.parametrize('together', [True, False])
def test_chunks_have_the_loss_and_the_gradient_of_one_pass(make_batches, tokenizer, together):
    found = []
    for device_tokens in (None, 60):
        batch, _ = make_batches(together=together, device_tokens=device_tokens)
        task = make_task(tokenizer, 'together' if together else 'apart', dtype=torch.float64)
        sums = task.loss(batch)
        sums.objective.backward()
        found.append((sums.objective.item(), [p.grad for p in task.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    for one, other in zip(found[0][1], found[1][1]):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def evaluate(task, batch):
    task.evaluator.start()
    with torch.no_grad():
        task.evaluator.update(task.outputs(batch), batch)
    return task.evaluator.result(Alone())


def test_the_swap_error_is_0_apart_and_that_of_one_order_together(make_batches, tokenizer):
    batch, _ = make_batches(together=False)
    assert evaluate(make_task(tokenizer, 'apart'), batch)['swap_error'] == 0
    batch, exchanged = make_batches(together=True)
    task = make_task(tokenizer, 'together', second_pass=0.7)
    figures = evaluate(task, batch)
    with torch.no_grad():
        orders = task.network(*batch[:2], batch.example, batch.role, 23, by_order=True).softmax(-1).double()
    assert figures['swap_error'] == pytest.approx((orders[:, 0] - orders[:, 1]).abs().amax(-1).mean().item())
    assert figures['swap_error'] > 0.01
    same = torch.tensor([i % 7 == 3 and i % 5 != 2 for i in range(23)])
    alone = (orders[:, 0].amax(-1) >= 0.7) & ~same
    assert figures['one_order'] == pytest.approx(alone.double().mean().item())
    assert 0 < figures['one_order'] < 1
    assert figures['gated_loss'] != figures['loss']
    assert set(task.evaluator.names()) == set(figures)
    assert 'exchanging the answers moves' in task.evaluator.report(['a', 'tie', 'b'])[-1]
    of_tied_shares = ['majority_accuracy']  # classes of one share: the first is answered
    there = {name: value for name, value in evaluate(task, exchanged).items() if name not in of_tied_shares}
    assert there == pytest.approx({name: figures[name] for name in there})


@pytest.mark.parametrize('together', [False, True])
def test_mixed_with_a_linear_model_the_mirror_stays_exact(make_batches, tokenizer, together):
    here, there = make_batches(together=together)
    task = make_task(tokenizer, 'together' if together else 'apart', blend='tfidf')
    task.network.calibration.scale.fill_(1.37)
    records = make_records(23)
    tfidf = Tfidf.of([record['response_b'] for record in records])
    weights = np.random.default_rng(0).standard_normal(len(tfidf.idf)).astype(np.float32)
    task.blend.model = TfidfPreference(tfidf, weights, np.array([-0.5], np.float32))
    task.blend.weights = torch.tensor([0.6, 0.7, 0, 1], dtype=torch.float64)
    probs = []
    for batch, some in ((here, records), (there, list(map(exchange, records)))):
        task._beside = {}
        task.texts_of = lambda documents, some=some: [
            tuple(some[i][name] for name in ('prompt', 'response_a', 'response_b')) for i in documents
        ]
        with torch.no_grad():
            parts = task.predictions(batch)
        probs.append(torch.stack([parts.values[f'probability_{i}'] for i in range(3)], dim=1))
        swap_error = evaluate(task, batch)['swap_error']
        assert (swap_error == 0) if not together else (swap_error > 0)
        assert set(task.evaluator.parts) == {'network alone', 'TF-IDF alone'}
    assert torch.equal(probs[0], probs[1].flip(-1))
    task.blend.weights = torch.tensor([1.0, 0, 0, 1], dtype=torch.float64)
    with torch.no_grad():
        alone = task.predictions(there).values['probability_0']
    assert (alone - probs[1][:, 0]).abs().max() > 0.05


def test_predictions_say_of_which_both_orders_were_read(make_batches, tokenizer):
    batch, _ = make_batches(together=True)
    task = make_task(tokenizer, 'together', second_pass=0.7)
    parts = task.predictions(batch)
    lines = [task.merge({name: value[i].item() for name, value in parts.values.items()}) for i in range(23)]
    assert {line['both_orders'] for line in lines} == {True, False}
    assert list(lines[0]['probabilities']) == ['a', 'tie', 'b']


def test_soft_labels_are_learned_by_heart(make_batches, tokenizer):
    batch, _ = make_batches(n=4, together=False)
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.4, 0.2, 0.4]])
    batch = batch._replace(targets=ClassTargets(shares, torch.ones(4)))
    task = make_task(tokenizer, 'apart', noise=0.0)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.02)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        sums = task.loss(batch)
        sums.objective.backward()
        optimizer.step()
        losses.append(sums.objective.item())
    entropy = -(shares * shares.log()).sum().item()
    assert losses[0] == pytest.approx(4 * np.log(3), rel=1e-5)
    assert losses[-1] < entropy + 0.35 * (losses[0] - entropy)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'preference': 'sideways'}, r"model\.preference is 'sideways'"),
        ({'preference': 'together', 'ties': RaoKupper}, r'model\.ties goes with'),
        ({'preference': 'apart', 'second_pass': 0.5}, r'model\.second_pass goes with'),
        ({'preference': 'together', 'second_pass': 0.0}, r'model\.second_pass is 0'),
        ({'preference': 'together', 'second_pass': 0.5, 'blend': 'tfidf'}, 'both orders are read of all'),
        ({'preference': 'apart', 'classes': ['a', 'b']}, 'leave both out'),
        ({'preference': 'apart', 'task': 'ordinal'}, 'leave both out'),
        ({'preference': 'apart', 'calibration': 'noise'}, 'may treat A and B differently'),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        Classifier(
            50,
            24,
            **{'classes': ['a', 'tie', 'b'], 'trunk': functools.partial(Transformer, d_model=16, n_heads=2), **options},
        )
