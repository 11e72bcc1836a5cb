"""An evaluator that brings examples of its own is given them by the data module, behind those of the split."""

import functools
import json
import random

import lightning.pytorch as L
import pytest

from xlabml.data import Location
from xlabml.datamodules import XLabDataModule
from xlabml.evaluation import TokenEvaluator
from xlabml.models import XLabModel
from xlabml.tokenizer import train_tokenizer
from xlabml.transformer import Transformer


class OnTest(TokenEvaluator):
    """The figures of the test split, beside those of any other."""

    has_own_examples = True

    def names(self):
        return [f'on_test_{name}' for name in super().names()]

    def examples(self, data):
        return data.texts.open_examples('test', 'test')

    def result(self, gather):
        return {f'on_test_{name}': value for name, value in super().result(gather).items()}


class TwiceEvaluated(XLabModel):
    def __init__(self, n_vocab: int, max_len: int) -> None:
        super().__init__(n_vocab, max_len, functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2))
        self.evaluators.append(OnTest(self.figures))


def test_each_evaluator_reads_its_own_examples(tmp_path):
    draw = random.Random(0)
    texts = [f'{i}: ' + ' '.join(draw.choices(['one', 'two', 'three'], k=draw.randrange(1, 40))) for i in range(200)]
    (tmp_path / 'a.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    train_tokenizer(texts, tmp_path / 'tiny.model', 300)
    data = XLabDataModule(
        [Location(str(tmp_path / 'a.jsonl'))],
        splits={'train': 0.6, 'val': 0.2, 'test': 0.2},
        tokenizer_path=str(tmp_path / 'tiny.model'),
        n_vocab=300,
        max_len=16,
        batch_tokens=128,
    )
    model = TwiceEvaluated(300, 16)
    quiet = dict.fromkeys(('logger', 'enable_checkpointing', 'enable_progress_bar', 'enable_model_summary'), False)
    trainer = L.Trainer(accelerator='cpu', default_root_dir=tmp_path, **quiet)
    trainer.validate(model, datamodule=data, verbose=False)
    both = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert both['val_loss'] != both['val_on_test_loss']

    model.evaluators.pop()
    trainer.test(model, datamodule=data, verbose=False)
    assert both['val_on_test_loss'] == pytest.approx(float(trainer.callback_metrics['test_loss']))
