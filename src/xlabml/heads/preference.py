"""Which of two answers is better, or a tie: classes `a`, `tie`, `b`, in this order.

`PreferenceModel` scores each answer on its own: u = f(prompt, A), v = f(prompt, B); what it says when A and B change
places is the same, mirrored. `CrossPreferenceModel` reads prompt, A and B together, in both orders. Where the data has
the two texts of an example in an order of their own (that of the answers' hashes, whichever is A), the mirror is exact
to the last bit; an example of one text alone has two equal answers.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout
from xlabml.checkpoints import Part
from xlabml.errors import SettingsError
from xlabml.tfidf import PREFERENCE
from xlabml.transformer import Transformer, Trunk

from .blend import LinearBlend
from .calibration import Calibration
from .classifier import ExampleNetwork, Head, LinearHead, check_blend
from .mirror import mirrored_log_softmax
from .pooling import MeanPooling, Pooling
from .text_encoder import row_layout

PREFERENCES = ('a', 'tie', 'b')


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


class Standing(NamedTuple):
    """What the head returns for the texts of examples, in the order in which they stand.

    Args:
        outputs: For the first text of each example, and for the second; where there is one only, twice for that.
        first_role: The role of the first.
    """

    outputs: Float[Tensor, 'e 2 o']
    first_role: Int[Tensor, ' e']


class PreferenceNetwork(ExampleNetwork):
    """The base: two texts an example, and log-probabilities of a, tie, b.

    Args:
        trunk: Computes the hidden states.
        pooling: Makes a vector of those of a text.
        head: Makes the outputs of a text of its vector.
        calibration: Applied by `probabilities`; None: as it is with a temperature of 1.
        blend: Mixes the log-probabilities with those of a linear model, before calibration; None: they stand alone.

    Raises:
        SettingsError: The calibration would treat A and B differently.
    """

    task = 'single-label'
    classes = PREFERENCES
    of_outputs = ('head.', 'ties.', 'calibration.')

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        head: Head,
        calibration: Calibration | None = None,
        blend: LinearBlend | None = None,
    ) -> None:
        super().__init__(trunk, pooling, n_texts=2)
        self.blend = blend
        self.head = head
        self.calibration = _check_calibration(calibration)

    @abstractmethod
    def orders(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 2 3']:
        """Log-probabilities of a, tie and b by each order, that of the text that stands first before the other.

        Their difference is the swap error of one order alone. Arguments as in `vectors`.
        """

    @abstractmethod
    def combine(self, orders: Float[Tensor, 'e 2 3']) -> Float[Tensor, 'e 3']:
        """What both orders say together, before calibration."""

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
        by_order: bool = False,
    ) -> Float[Tensor, 'e 3'] | Float[Tensor, 'e 2 3']:
        """Log-probabilities of a, tie and b, before calibration; arguments as in `vectors`.

        Args:
            by_order: Whether those of each order are returned, as by `orders`.
        """
        orders = self.orders(ids, layout, example, role, n_examples)
        return orders if by_order else self.combine(orders)

    def has_outputs_of(self, other: Part | None) -> bool:
        """Whether the network of a checkpoint, as that describes it, has the same kind of head."""
        return other is not None and other.class_path.endswith(f'.{type(self).__name__}')

    def probabilities(self, logits: Float[Tensor, 'e 3']) -> Float[Tensor, 'e 3']:
        """Calibrated probabilities of logits."""
        calibrated = logits if self.calibration is None else self.calibration.logits(logits)
        # Class by class: a and b stand at equal places, so that vectorized code treats them alike.
        return torch.stack([some.exp() for some in mirrored_log_softmax(calibrated).unbind(1)], dim=1)

    def standing(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None,
        example: Int[Tensor, ' s'] | None,
        role: Int[Tensor, ' s'] | None,
        n_examples: int | None,
    ) -> Standing:
        """The head's outputs where the texts stand, in float32 or wider: equal tensors have equal outputs, to the last
        bit, whatever the roles are. Arguments as in `vectors`."""
        layout = row_layout(ids) if layout is None else layout
        n_segments = len(layout.starts) - 1
        at = torch.arange(n_segments, device=ids.device) if example is None else example.long()
        roles = torch.zeros_like(at) if role is None else role.long()
        n = n_segments if n_examples is None else n_examples
        is_second = torch.zeros_like(at, dtype=torch.bool)
        is_second[1:] = at[1:] == at[:-1]
        vectors = self.vectors(ids, layout, at, is_second.long(), n)
        outputs = self.head(vectors.flatten(0, 1)[:, None])
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).unflatten(0, (-1, 2))  # e 2 o

        place = torch.where(at >= 0, at, n)  # padding goes to a place that is cut off
        n_texts = at.new_zeros(n + 1).index_add(0, place, torch.ones_like(at))[:-1]
        first_role = at.new_zeros(n + 1).index_add(0, place, torch.where(is_second, 0, roles))[:-1]
        second = torch.where((n_texts < 2)[:, None], outputs[:, 0], outputs[:, 1])
        return Standing(torch.stack([outputs[:, 0], second], dim=1), first_role)


class PreferenceModel(PreferenceNetwork):
    """An order-free preference: the same scalar of each answer with its prompt, and a model of ties over both.

    An example has two texts: role 0 is the prompt with A, role 1 the prompt with B. `score` alone is a reward model.

    Args:
        trunk: As in the base, like the next two.
        pooling: Makes a vector of the hidden states of a text.
        head: Makes one number of a vector.
        ties: Makes logits of the difference.
        calibration: As in the base, like the next.
        blend: Mixes the log-probabilities with those of a linear model.
    """

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        head: Head,
        ties: Ties,
        calibration: Calibration | None = None,
        blend: LinearBlend | None = None,
    ) -> None:
        super().__init__(trunk, pooling, head, calibration, blend)
        self.ties = ties

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        head: Callable[[int, int, int], Head] = LinearHead,
        ties: Callable[[], Ties] | None = None,
        calibration: str = 'temperature',
        set_coverage: float = 0.9,
        answered: float = 0.8,
        blend: str | None = None,
    ) -> 'PreferenceModel':
        """Build a preference model from settings; arguments as in SequenceClassifier.build.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest prompt with an answer, in tokens, with those around them.
            trunk: Makes the trunk.
            pooling: Makes the pooling.
            head: Makes the head.
            ties: Makes the model of ties; None: Davidson.
            calibration: temperature, vector or none.
            set_coverage: As in Calibration.
            answered: As in Calibration.
            blend: As in SequenceClassifier.build.
        """
        made = trunk(n_vocab, max_len)
        calibrated = Calibration(len(PREFERENCES), calibration, False, set_coverage, answered, is_mirrored=True)
        of_ties = (Davidson if ties is None else ties)()
        return cls(made, pooling(made.d_model), head(made.d_model, 1, 1), of_ties, calibrated, _blend_of(blend))

    def score(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 2']:
        """The score of both answers of each example: the reward of each, whatever the other is."""
        outputs, first_role = self.standing(ids, layout, example, role, n_examples)
        scores = outputs[:, :, 0]
        return torch.where((first_role == 1)[:, None], scores.flip(-1), scores)

    def orders(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 2 3']:
        """Log-probabilities of a, tie and b by u − v, and by v − u: they are the same."""
        u, v = self.score(ids, layout, example, role, n_examples).unbind(1)
        return torch.stack(
            [mirrored_log_softmax(self.ties(u - v)), mirrored_log_softmax(self.ties(v - u)).flip(-1)], dim=1
        )

    def shared_outputs(self, other: Part | None) -> tuple[str, ...]:
        """What the names of outputs begin with that mean the same in another network: the number of a regression is a
        score."""
        is_number = other is not None and other.arguments.get('task') == 'regression'
        return ('head.',) if is_number else ()

    def combine(self, orders: Float[Tensor, 'e 2 3']) -> Float[Tensor, 'e 3']:
        """Those of one order, since they are the same."""
        return orders[:, 0]


class CrossPreferenceModel(PreferenceNetwork):
    """Prompt, A and B attend to one another, in both orders: the mean of what both say.

    An example has two texts: role 0 is prompt, A, B; role 1 is prompt, B, A. What stands first in a text is its first
    answer, so that of role 1 the classes a and b change places. The head makes three logits of a vector: the first
    answer, a tie, the second.
    """

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
        blend: str | None = None,
    ) -> 'CrossPreferenceModel':
        """Build a cross-encoding preference model from settings; arguments as in PreferenceModel.build.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest prompt with both answers, in tokens, with those around them.
            trunk: Makes the trunk.
            pooling: Makes the pooling.
            head: Makes the head.
            calibration: temperature, vector or none.
            set_coverage: As in Calibration.
            answered: As in Calibration.
            blend: As in SequenceClassifier.build.
        """
        made = trunk(n_vocab, max_len)
        calibrated = Calibration(len(PREFERENCES), calibration, False, set_coverage, answered, is_mirrored=True)
        return cls(made, pooling(made.d_model), head(made.d_model, 1, len(PREFERENCES)), calibrated, _blend_of(blend))

    def orders(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
    ) -> Float[Tensor, 'e 2 3']:
        """Log-probabilities of a, tie and b by each order."""
        outputs, first_role = self.standing(ids, layout, example, role, n_examples)
        first, second = (mirrored_log_softmax(outputs[:, i]) for i in range(2))
        is_exchanged = (first_role == 1)[:, None]
        return torch.stack(
            [torch.where(is_exchanged, first.flip(-1), first), torch.where(is_exchanged, second, second.flip(-1))],
            dim=1,
        )

    def combine(self, orders: Float[Tensor, 'e 2 3']) -> Float[Tensor, 'e 3']:
        """The logarithm of the mean probability of both orders."""
        return torch.logaddexp(orders[:, 0], orders[:, 1]) - math.log(2)

    def gated(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout,
        example: Int[Tensor, ' s'],
        role: Int[Tensor, ' s'],
        n_examples: int,
        confidence: float,
    ) -> tuple[Float[Tensor, 'e 3'], Bool[Tensor, ' e']]:
        """What the first order says alone, and both together where that is not certain: a second pass for these.

        Which order is the first follows from the texts, not from which answer is A.

        Args:
            ids: As in `vectors`, like the next four.
            layout: Where texts begin.
            example: Of each segment its example, -1 for padding.
            role: Of each segment 0 or 1.
            n_examples: How many there are.
            confidence: The calibrated probability of the first order's answer from which on it stands alone.

        Returns:
            Log-probabilities before calibration, and for which examples both orders were read.
        """
        is_second = torch.zeros_like(example, dtype=torch.bool)
        is_second[1:] = (example[1:] == example[:-1]) & (example[1:] >= 0)

        def read(keep: Tensor) -> Float[Tensor, 'e 2 3']:
            """What one text of each example says: by its own order, and by the other one if the answers were equal."""
            some, of_some = take_segments(ids, layout, keep)
            return self.orders(some, of_some, example[keep], role[keep], n_examples)

        first = read((example >= 0) & ~is_second)
        has_two = torch.zeros_like(first[:, 0, 0], dtype=torch.bool)
        has_two[example[is_second].long()] = True
        found = torch.where(has_two[:, None], first[:, 0], self.combine(first))
        is_unsure = (self.probabilities(found).max(-1).values < confidence) & has_two
        keep = is_second & is_unsure[example.long().clamp(min=0)]
        if keep.any():
            both = self.combine(torch.stack([found, read(keep)[:, 0]], dim=1))
            found = torch.where(is_unsure[:, None], both, found)
        return found, is_unsure


def take_segments(
    ids: Int[Tensor, 'b n'], layout: Layout, keep: Bool[Tensor, ' s']
) -> tuple[Int[Tensor, '1 m'], Layout]:
    """Some of the segments of a batch as one flat row."""
    lengths = layout.starts.long().diff()
    is_kept = keep.repeat_interleave(lengths)
    starts = torch.cat([lengths.new_zeros(1), lengths[keep].cumsum(0)])
    return ids.flatten()[is_kept][None], Layout(starts, layout.max_length)


def _blend_of(blend: str | None) -> LinearBlend | None:
    return None if check_blend(blend) is None else LinearBlend(PREFERENCE, len(PREFERENCES))


def _check_calibration(calibration: Calibration | None) -> Calibration | None:
    if calibration is not None and calibration.kind not in ('temperature', 'none') and not calibration.is_mirrored:
        raise SettingsError(f'{calibration.kind} may treat A and B differently; give Calibration is_mirrored=True')
    return calibration
