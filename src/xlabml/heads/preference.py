"""Which of two answers is better, or a tie: classes `a`, `tie`, `b`, in this order.

`PreferenceModel` scores each answer on its own: u = f(prompt, A), v = f(prompt, B); what it says when A and B change
places is the same, mirrored. Where the data has the two texts of an example in an order of their own (that of their
hash), the mirror is exact to the last bit. `CrossPreferenceModel` reads prompt, A and B together, in both orders.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout
from xlabml.errors import SettingsError
from xlabml.transformer import Transformer, Trunk

from .calibration import Calibration
from .classifier import ExampleNetwork, Head, LinearHead
from .pooling import MeanPooling, Pooling

PREFERENCES = ('a', 'tie', 'b')


def mirrored_log_softmax(logits: Float[Tensor, 'e 3']) -> Float[Tensor, 'e 3']:
    """log_softmax over a, tie, b, whose result is mirrored to the last bit where the logits are.

    A sum of three depends on its order; that of a and b does not, and the tie is added to it.
    """
    a, tie, b = logits.unbind(1)
    return logits - torch.logaddexp(torch.logaddexp(a, b), tie)[:, None]


class Ties(nn.Module, ABC):
    """The difference of two scores -> logits of a, tie and b."""

    @abstractmethod
    def forward(self, difference: Float[Tensor, ' e']) -> Float[Tensor, 'e 3']:
        """Logits of u − v."""


class Davidson(Ties):
    """P(tie) is ν times the geometric mean of P(a) and P(b).

    Source: Davidson 1970, https://doi.org/10.1080/01621459.1970.10481082, eq. 2.2, with a score u for log π.

    Args:
        tie_ratio: ν at the start; 1: all three are alike where the scores are.

    Raises:
        ValueError: It is not positive.
    """

    def __init__(self, tie_ratio: float = 1.0) -> None:
        super().__init__()
        if not tie_ratio > 0:
            raise ValueError(f'ties.tie_ratio is {tie_ratio}; give a positive number')
        self.log_ratio = nn.Parameter(torch.tensor(math.log(tie_ratio)))

    def forward(self, difference: Float[Tensor, ' e']) -> Float[Tensor, 'e 3']:
        half = difference / 2
        return torch.stack([half, self.log_ratio.to(half.dtype).expand_as(half), -half], dim=1)


class RaoKupper(Ties):
    """A is better where its score leads by more than η, under logistic noise; a tie is what lies between.

    Source: Rao & Kupper 1967, https://doi.org/10.1080/01621459.1967.10482901, eq. 2.6, with θ = e^η.

    Args:
        margin: η at the start; log 2: all three are alike where the scores are.

    Raises:
        ValueError: It is not positive.
    """

    def __init__(self, margin: float = math.log(2)) -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f'ties.margin is {margin}; give a positive number')
        self.raw_margin = nn.Parameter(torch.tensor(margin + math.log(-math.expm1(-margin))))

    def forward(self, difference: Float[Tensor, ' e']) -> Float[Tensor, 'e 3']:
        eta = F.softplus(self.raw_margin).to(difference.dtype)
        not_a = F.softplus(eta - difference)
        not_b = F.softplus(eta + difference)
        # P(tie) = P(a) P(b) (θ² − 1)
        return torch.stack([-not_a, 2 * eta + torch.log(-torch.expm1(-2 * eta)) - (not_a + not_b), -not_b], dim=1)


class PreferenceModel(ExampleNetwork):
    """An order-free preference: the same scalar of each answer with its prompt, and a model of ties over both.

    An example has two texts: role 0 is the prompt with A, role 1 the prompt with B. `score` alone is a reward model.

    Args:
        trunk: Computes the hidden states.
        pooling: Makes a vector of those of a text.
        head: Makes one number of a vector.
        ties: Makes logits of the difference.
        calibration: Applied by `probabilities`; None: as it is with a temperature of 1.

    Raises:
        SettingsError: The calibration would treat A and B differently.
    """

    def __init__(
        self, trunk: Trunk, pooling: Pooling, head: Head, ties: Ties, calibration: Calibration | None = None
    ) -> None:
        super().__init__(trunk, pooling, n_texts=2)
        self.head = head
        self.ties = ties
        self.calibration = _check_calibration(calibration)

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        head: Callable[[int, int, int], Head] = LinearHead,
        ties: Callable[[], Ties] = Davidson,
        calibration: str = 'temperature',
        set_coverage: float = 0.9,
        answered: float = 0.8,
    ) -> 'PreferenceModel':
        """Build a preference model from settings; arguments as in SequenceClassifier.build.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest prompt with an answer, in tokens, with those around them.
            trunk: Makes the trunk.
            pooling: Makes the pooling.
            head: Makes the head.
            ties: Makes the model of ties.
            calibration: temperature or none.
            set_coverage: As in Calibration.
            answered: As in Calibration.
        """
        made = trunk(n_vocab, max_len)
        calibrated = Calibration(len(PREFERENCES), calibration, False, set_coverage, answered)
        return cls(made, pooling(made.d_model), head(made.d_model, 1, 1), ties(), calibrated)

    def score(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 2']:
        """The score of both answers of each example: the reward of each, whatever the other is."""
        vectors = self.vectors(ids, layout, example, role, n_examples)
        scores = self.head(vectors.flatten(0, 1)[:, None]).view(-1, 2)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 3']:
        """Log-probabilities of a, tie and b, before calibration; arguments as in `vectors`.

        The scores are computed where the texts stand, and change places as roles do.
        """
        u, v = self.score(ids, layout, example, role, n_examples).unbind(1)
        return mirrored_log_softmax(self.ties(u - v))

    def probabilities(self, logits: Float[Tensor, 'e 3']) -> Float[Tensor, 'e 3']:
        """Calibrated probabilities of logits."""
        calibrated = logits if self.calibration is None else self.calibration.logits(logits)
        return mirrored_log_softmax(calibrated).exp()


class CrossPreferenceModel(ExampleNetwork):
    """Prompt, A and B attend to one another, in both orders: the mean of what both say.

    An example has two texts: role 0 is prompt, A, B; role 1 is prompt, B, A. What stands first in a text is its first
    answer, so that of role 1 the classes a and b change places.

    Args:
        trunk: Computes the hidden states.
        pooling: Makes a vector of those of a text.
        head: Makes three logits of a vector: the first answer, a tie, the second.
        calibration: As in PreferenceModel.
    """

    def __init__(self, trunk: Trunk, pooling: Pooling, head: Head, calibration: Calibration | None = None) -> None:
        super().__init__(trunk, pooling, n_texts=2)
        self.head = head
        self.calibration = _check_calibration(calibration)

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        head: Callable[[int, int, int], Head] = LinearHead,
        calibration: str = 'temperature',
        set_coverage: float = 0.9,
        answered: float = 0.8,
    ) -> 'CrossPreferenceModel':
        """Build a cross-encoding preference model from settings; arguments as in PreferenceModel.build.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest prompt with both answers, in tokens, with those around them.
            trunk: Makes the trunk.
            pooling: Makes the pooling.
            head: Makes the head.
            calibration: temperature or none.
            set_coverage: As in Calibration.
            answered: As in Calibration.
        """
        made = trunk(n_vocab, max_len)
        calibrated = Calibration(len(PREFERENCES), calibration, False, set_coverage, answered)
        return cls(made, pooling(made.d_model), head(made.d_model, 1, len(PREFERENCES)), calibrated)

    def orders(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 2 3']:
        """Log-probabilities of a, tie and b by each order: they differ by the swap error of a single pass."""
        vectors = self.vectors(ids, layout, example, role, n_examples)
        logits = self.head(vectors.flatten(0, 1)[:, None])
        logits = mirrored_log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32))).unflatten(0, (-1, 2))
        return torch.stack([logits[:, 0], logits[:, 1].flip(-1)], dim=1)

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 3']:
        """The logarithm of the mean probability of both orders, before calibration; arguments as in `vectors`."""
        first, second = self.orders(ids, layout, example, role, n_examples).unbind(1)
        return torch.logaddexp(first, second) - math.log(2)

    def probabilities(self, logits: Float[Tensor, 'e 3']) -> Float[Tensor, 'e 3']:
        """Calibrated probabilities of logits."""
        calibrated = logits if self.calibration is None else self.calibration.logits(logits)
        return mirrored_log_softmax(calibrated).exp()


def _check_calibration(calibration: Calibration | None) -> Calibration | None:
    if calibration is not None and calibration.kind == 'vector':
        raise SettingsError(
            'model.calibration is vector, which would scale A and B differently; take temperature or none'
        )
    return calibration
