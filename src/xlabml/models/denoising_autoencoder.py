"""The denoising autoencoder as a task: an encoder of texts, from texts alone."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from xlabml.batches import Batch, ReconstructionTargets, check_ids, token_targets
from xlabml.checkpoints import Part
from xlabml.engine import DocumentParts
from xlabml.evaluation import Sums, TokenEvaluator, TokenOutputs, sum_segments
from xlabml.heads.denoising import DenoisingAutoencoder as Network
from xlabml.heads.loading import describe_head
from xlabml.heads.pooling import FirstPooling, Pooling
from xlabml.losses import CrossEntropy, Loss, LossSums
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Transformer

from .trunk_task import TrunkTask


class DenoisingAutoencoder(TrunkTask):
    """An encoder whose vector of a text without most of its tokens lets a decoder predict the text.

    It is trained on `data.examples: DenoisedTexts`, and is a start for an Embedder: `fit -c conf/embed.yaml
    --init_from RUN`, with the same trunk and pooling. The trunk has to be bidirectional: `model.trunk.causal: false`.
    Source: TSDAE, Wang et al. 2021, https://arxiv.org/abs/2104.06979.

    Args:
        n_vocab: The number of tokens of the tokenizer.
        max_len: The longest text that it reads, in tokens, with those around it.
        trunk: Makes the trunk, which is encoder and decoder.
        pooling: Makes what turns the hidden states of a noisy text into a vector.
        loss: Makes the loss of the tokens that is minimised.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        freeze: What stays as it is: none, bottom:n, gradual:n, as in Classifier.
        layer_decay: The factor on the learning rate from a block to the one below it, and to the embeddings; 1: all
            learn alike.
    """

    network: Network
    formats: ClassVar[tuple[type, ...]] = (ReconstructionTargets,)
    units: Mapping[str, str] = {'loss': 'nats/token', 'accuracy': '%'}

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Transformer] = Transformer,
        pooling: Callable[[int], Pooling] = FirstPooling,
        loss: Callable[[], Loss] = CrossEntropy,
        optimizer: Callable[[Iterable], Optimizer] = Muon,
        schedule: Callable[[int | None], Schedule] = WarmupLinear,
        clip: Callable[[], AdaptiveClip] | None = None,
        freeze: str = 'none',
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = Network.build(n_vocab, max_len, trunk, pooling, loss)
        self.tune_trunk(self.network.trunk, freeze, layer_decay)
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = None if clip is None else clip()
        self.evaluators = [TokenEvaluator(self.figures)]
        self.n_vocab = n_vocab

    def describe_network(self) -> Part:
        """Encoder and decoder, from the arguments of this task."""
        return describe_head(Network, Part.of(self.hparams).arguments)

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids that the vocabulary lacks."""
        check_ids(batch, self.n_vocab)

    def loss(self, batch: Batch) -> Sums:
        """The loss over the tokens of the texts."""
        sums: LossSums = self.network(batch.ids, batch.layout, token_targets(batch).ids)
        n_bytes = token_targets(batch).n_bytes.sum()
        return Sums(sums.objective, sums.count, {'nats': sums.nats, 'correct': sums.correct, 'n_bytes': n_bytes})

    def outputs(self, batch: Batch) -> TokenOutputs:
        """The sums of the loss."""
        return TokenOutputs(self.loss(batch))

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Loss and accuracy of the reconstruction."""
        count = sums['count'] or math.nan
        return {'loss': sums['nats'] / count, 'accuracy': sums['correct'] / count}

    def predictions(self, batch: Batch) -> DocumentParts:
        """The negative log-likelihood of each text after its vector."""
        assert batch.layout is not None
        targets = token_targets(batch).ids
        nats: Tensor = self.network(batch.ids, batch.layout, targets, each=True)
        counts, sums = sum_segments(nats, targets, batch.layout)
        return DocumentParts(batch.documents, {'count': counts, 'nats': sums})

    def merge(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """Tokens of a text, and what its reconstruction costs."""
        return {'tokens': int(totals['count']), 'nats': round(totals['nats'], 6)}
