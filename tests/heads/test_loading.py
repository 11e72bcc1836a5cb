"""A network from a checkpoint, without its task."""

import pytest
import torch
from torch import nn

from xlabml import settings
from xlabml.checkpoints import Contents, Part
from xlabml.heads import LanguageModel, language_model
from xlabml.heads.loading import describe_head, load_network, network_weights
from xlabml.models import XLabModel

TRUNK = {'class_path': 'xlabml.transformer.Transformer', 'init_args': {'d_model': 16, 'n_layers': 1, 'n_heads': 2}}


@pytest.fixture
def contents():
    """As of a task with a weight of its own, and a loss with one."""
    torch.manual_seed(0)
    task = XLabModel(**settings.build_arguments(XLabModel, {'n_vocab': 20, 'max_len': 8, 'trunk': TRUNK}))
    weights = {**task.state_dict(), 'network.loss.margin': torch.ones(1), 'probe.weight': torch.ones(3)}
    return Contents.of({'state_dict': weights, 'hyper_parameters': dict(task.hparams)})._replace(
        network=task.describe_network()
    )


def test_the_network_that_was_saved_is_the_one_that_is_built(contents):
    network = load_network(contents, 'x.ckpt', LanguageModel)
    ids = torch.arange(8)[None]
    task = XLabModel(**settings.build_arguments(XLabModel, {'n_vocab': 20, 'max_len': 8, 'trunk': TRUNK}))
    task.load_state_dict({name: contents.weights[name] for name in task.state_dict()})
    assert torch.equal(network(ids), task(ids))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_task_says_how_its_network_is_built_in_plain_values(contents):
    assert contents.network.class_path == 'xlabml.heads.LanguageModel'
    known = contents.network.arguments
    assert set(known) == {'n_vocab', 'max_len', 'trunk', 'tied', 'head_bias', 'logit_cap'}
    assert known['trunk']['init_args']['d_model'] == 16


def test_weights_go_by_their_names_in_the_network(contents):
    assert set(network_weights(contents.weights)) == set(language_model(20, 8).state_dict()) - {
        name for name in language_model(20, 8).state_dict() if name.startswith('trunk.blocks.') and '.0.' not in name
    }


@pytest.mark.parametrize(('network', 'message'), [
    (None, r'x\.ckpt does not describe its network; load its task, xlabml\.models\.XLabModel'),
    (Part('torch.nn.Linear', {'in_features': 3}), r'x\.ckpt holds a torch\.nn\.Linear, not a LanguageModel'),
    (Part('os.system', {}), r'os\.system is not a class of xlabml'),
    (Part('xlabml.heads.LanguageModel', {'n_vocab': 20, 'max_len': 8, 'depth': 3}), r'model\.depth is not an argument'),
    (Part('xlabml.heads.LanguageModel', {'n_vocab': 21, 'max_len': 8, 'trunk': TRUNK}), 'do not fit its settings'),
])  # fmt: skip
def test_what_cannot_be_built_is_refused_by_the_files_name(contents, network, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_network(contents._replace(network=network), 'x.ckpt', LanguageModel)
    assert 'x.ckpt' in str(caught.value)


class Scorer(nn.Module):
    """A head of a user's, without `build`."""

    def __init__(self, width: int = 4, loss: str = 'none') -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)


def test_a_head_of_a_users_is_built_from_its_signature(monkeypatch):
    monkeypatch.setattr(settings, '_TRUSTED', {*settings._TRUSTED, __name__})
    part = describe_head(Scorer, {'width': 3, 'loss': 'mine', 'optimizer': 'other'})
    assert part == (f'{__name__}.Scorer', {'width': 3})
    weights = {f'network.{name}': tensor for name, tensor in Scorer(3).state_dict().items()}
    found = Contents.of({'state_dict': weights})._replace(network=part)
    assert torch.equal(load_network(found, 'x.ckpt', nn.Module).score.weight, weights['network.score.weight'])
