"""The trunk with a pooling and a head: texts -> logits of classes, or a number, one row an example.

An example has one text or two, each a segment of the flat row; batch.example and batch.role say which. What a text is
scored with is computed for each on its own, so that no other example changes a logit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.anatomy import HEAD, Matrix
from xlabml.batches import Layout
from xlabml.checkpoints import Part
from xlabml.errors import SettingsError
from xlabml.transformer import Transformer, Trunk

from .blend import LinearBlend
from .calibration import Calibration
from .pooling import MeanPooling, Pooling
from .text_encoder import row_layout
from .windows import check_windows, combine_windows


class Head(nn.Module, ABC):
    """Pooled vectors -> outputs. The last layer begins at zero, so that training starts from equal probabilities.

    Args:
        d_vector: Width of a vector.
        n_texts: Vectors of an example.
        n_outputs: Numbers that it returns for an example.
    """

    def __init__(self, d_vector: int, n_texts: int, n_outputs: int) -> None:
        super().__init__()
        self.d_vector = d_vector
        self.n_texts = n_texts
        self.n_outputs = n_outputs

    @abstractmethod
    def forward(self, vectors: Float[Tensor, 'e t d']) -> Float[Tensor, 'e o']:
        """The outputs of each example."""


class LinearHead(Head):
    """One layer over the vectors of an example, side by side.

    Args:
        d_vector: As in the base, like the next two.
        n_texts: Vectors of an example.
        n_outputs: Numbers that it returns.
        dropout: Of the vectors.
    """

    def __init__(self, d_vector: int, n_texts: int, n_outputs: int, dropout: float = 0.1) -> None:
        super().__init__(d_vector, n_texts, n_outputs)
        self.dropout = nn.Dropout(dropout)
        self.output = _output(n_texts * d_vector, n_outputs)
        self.matrices = {'output.weight': HEAD}

    def forward(self, vectors: Float[Tensor, 'e t d']) -> Float[Tensor, 'e o']:
        """Project."""
        return self.output(self.dropout(vectors.flatten(1)))


class MLPHead(Head):
    """Layers over the vectors of an example, side by side, each with an activation and dropout.

    Of one text the widths are d, d / 2; so they are of two, whose vectors side by side have 2 d.

    Args:
        d_vector: As in the base, like the next two.
        n_texts: Vectors of an example.
        n_outputs: Numbers that it returns.
        widths: Of the layers; None: d_vector, d_vector // 2.
        activation: Makes the activation of a layer.
        dropout: Of the output of each layer.
    """

    def __init__(
        self,
        d_vector: int,
        n_texts: int,
        n_outputs: int,
        widths: list[int] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(d_vector, n_texts, n_outputs)
        found = [d_vector, max(1, d_vector // 2)] if widths is None else widths
        if any(width < 1 for width in found):
            raise ValueError(f'head.widths is {found}; each must be at least 1')
        self.layers = nn.ModuleList()
        width = n_texts * d_vector
        for next_width in found:
            self.layers.append(nn.Sequential(nn.Linear(width, next_width), activation(), nn.Dropout(dropout)))
            width = next_width
        self.output = _output(width, n_outputs)
        self.matrices: dict[str, Matrix] = {'output.weight': HEAD}
        self.matrices |= {f'layers.{i}.0.weight': HEAD for i in range(len(found))}

    def forward(self, vectors: Float[Tensor, 'e t d']) -> Float[Tensor, 'e o']:
        """Layer after layer."""
        hidden = vectors.flatten(1)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.output(hidden)


class PairHead(Head):
    """A layer over u, v, |u − v| and u · v of two texts.

    Source: InferSent, Conneau et al. 2017, https://arxiv.org/abs/1705.02364, section 3.1, with u and v themselves.

    Args:
        d_vector: As in the base, like the next two.
        n_texts: 2.
        n_outputs: Numbers that it returns.
        dropout: Of these features.

    Raises:
        SettingsError: An example has not two texts.
    """

    def __init__(self, d_vector: int, n_texts: int, n_outputs: int, dropout: float = 0.1) -> None:
        super().__init__(d_vector, n_texts, n_outputs)
        if n_texts != 2:
            raise SettingsError(
                f'model.head is PairHead, but an example has {n_texts} text; set data.examples.joined to false where '
                'it has two columns, or take LinearHead'
            )
        self.dropout = nn.Dropout(dropout)
        self.output = _output(4 * d_vector, n_outputs)
        self.matrices = {'output.weight': HEAD}

    def forward(self, vectors: Float[Tensor, 'e t d']) -> Float[Tensor, 'e o']:
        """Compare both, and project."""
        u, v = vectors.unbind(1)
        features = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
        return self.output(self.dropout(features))


class CumulativeLink(nn.Module):
    """A score and ordered thresholds -> log-probabilities of classes that have an order.

    P(class ≤ j) = σ(θ_j − score), where θ rises with j. Source: McCullagh 1980, the proportional odds model.

    Args:
        n_classes: At least 2.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        # Thresholds of equal probabilities at the score 0.
        shares = torch.arange(1, n_classes) / n_classes
        thresholds = shares.logit()
        self.first = nn.Parameter(thresholds[:1].clone())
        self.gaps = nn.Parameter(_inverse_softplus(thresholds.diff()))

    def thresholds(self) -> Float[Tensor, ' thresholds']:
        """θ, which rises."""
        gaps = F.softplus(self.gaps)
        if gaps.is_cuda and torch.are_deterministic_algorithms_enabled():  # torch refuses cumsum there
            sums = (gaps * gaps.new_ones(len(gaps), len(gaps)).tril()).sum(1)
        else:
            sums = gaps.cumsum(0)
        return torch.cat([self.first, self.first + sums])

    def forward(self, score: Float[Tensor, 'e 1']) -> Float[Tensor, 'e k']:
        """The log-probability of each class."""
        theta = self.thresholds().to(score.dtype)
        above = theta - score  # e k-1
        first = F.logsigmoid(above[:, :1])
        last = F.logsigmoid(-above[:, -1:])
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a)): no difference of numbers that are almost the same.
        gaps = torch.log(-torch.expm1(-theta.diff()))
        between = F.logsigmoid(above[:, 1:]) + F.logsigmoid(-above[:, :-1]) + gaps
        return torch.cat([first, between, last], dim=1)


class ExampleNetwork(nn.Module):
    """The base: a trunk and a pooling, and the vectors of each example's texts.

    Args:
        trunk: Computes the hidden states, as a decoder or an encoder.
        pooling: Makes a vector of those of a text.
        n_texts: Texts of an example; those of role r are its r-th.
    """

    def __init__(self, trunk: Trunk, pooling: Pooling, n_texts: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling
        self.n_texts = n_texts
        self.n_roles = n_texts  # segments of an example

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """The names of the weights that have a row a token: they mean nothing with another tokenizer."""
        return frozenset(f'trunk.{name}' for name in self.trunk.of_vocabulary)

    @property
    def max_len(self) -> int:
        """The longest text that it is built for, in tokens, with those around it."""
        return self.trunk.max_len

    def list_blocks(self) -> list[nn.Module]:
        """The blocks of the trunk, which a strategy that shards gathers one at a time."""
        return self.trunk.list_blocks()

    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None,
        example: Int[Tensor, ' s'] | None,
        role: Int[Tensor, ' s'] | None,
        n_examples: int | None,
    ) -> Float[Tensor, 'e t d']:
        """The vectors of each example's texts, by role; zero where it has no text of one.

        Args:
            layout: Where texts begin; None: every row is one.
            example: Of each segment its example, -1 for padding; None: each segment is one.
            role: Of each segment its place among the texts of its example; None: 0.
            n_examples: How many there are; None: as many as segments.
        """
        layout = row_layout(ids) if layout is None else layout
        pooled = self.pooling(self.trunk(ids, layout), layout)  # s d
        n_segments = pooled.size(0)
        at = torch.arange(n_segments, device=pooled.device) if example is None else example.long()
        if role is None:
            role = torch.zeros_like(at)
        n = n_segments if n_examples is None else n_examples
        # Each place has one text at most: a sum of one, whatever order a device adds in. Padding goes to a row that is
        # cut off, so that nothing waits for the device.
        is_text = (at >= 0) & (role >= 0) & (role < self.n_roles)
        place = torch.where(is_text, at * self.n_roles + role, n * self.n_roles)
        found = pooled.new_zeros(n * self.n_roles + 1, pooled.size(1)).index_add(0, place, pooled)
        return found[:-1].unflatten(0, (n, self.n_roles))

    def is_there(self, example: Int[Tensor, ' s'], role: Int[Tensor, ' s'], n_examples: int) -> Bool[Tensor, 'e r']:
        """Which segments each example has, by role; arguments as in `vectors`."""
        is_text = (example >= 0) & (role >= 0) & (role < self.n_roles)
        place = torch.where(is_text, example.long() * self.n_roles + role, n_examples * self.n_roles)
        found = torch.zeros(n_examples * self.n_roles + 1, dtype=torch.bool, device=example.device)
        return found.index_fill(0, place, True)[:-1].unflatten(0, (n_examples, self.n_roles))


class SequenceClassifier(ExampleNetwork):
    """A trunk, a pooling and a head, with the calibration of what it returns.

    Args:
        trunk: Computes the hidden states.
        pooling: Makes a vector of those of a text.
        head: Makes logits of the vectors of an example.
        link: Makes logits of the head's outputs; None: they are logits.
        calibration: Applied by `probabilities`; None: a regression, which has none.
        classes: Their names, in the order of the logits; () of a regression.
        task: What the logits mean, one of TASKS.
        blend: Mixes the logits with those of a linear model, before calibration; None: they stand alone.
        max_windows: The most windows that a text is read in; their number is the role of a segment. 1: there are none.
        windows: What the windows of a text say together, as in `combine_windows`.

    Attributes:
        of_outputs: What the names of weights begin with that are useless with other classes.
    """

    of_outputs = ('head.', 'link.', 'calibration.')

    def __init__(
        self,
        trunk: Trunk,
        pooling: Pooling,
        head: Head,
        link: nn.Module | None = None,
        calibration: Calibration | None = None,
        classes: Sequence[str] = (),
        task: str = 'single-label',
        blend: LinearBlend | None = None,
        max_windows: int = 1,
        windows: str = 'mean',
    ) -> None:
        super().__init__(trunk, pooling, head.n_texts)
        check_windows(windows, max_windows, task, head.n_texts)
        self.max_windows = max_windows
        self.windows = windows
        if max_windows > 1:
            self.n_roles = max_windows
        self.blend = blend
        self.head = head
        self.link = link
        self.calibration = calibration
        self.classes = tuple(classes)
        self.task = task

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        classes: list[str] | None = None,
        task: str = 'single-label',
        n_texts: int = 1,
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        head: Callable[[int, int, int], Head] = LinearHead,
        calibration: str = 'temperature',
        set_coverage: float = 0.9,
        answered: float = 0.8,
        blend: str | None = None,
        max_windows: int | None = None,
        windows: str = 'mean',
    ) -> 'SequenceClassifier':
        """Build a classifier from settings; the one place where that is done.

        Args:
            n_vocab: Tokens of the vocabulary.
            max_len: The longest text that it is built for, in tokens, with those around it.
            classes: Their names, in the order of the logits; None: a regression.
            task: single-label, multi-label, ordinal (classes in their order), or regression.
            n_texts: Texts of an example that are encoded apart.
            trunk: Makes the trunk from n_vocab, max_len.
            pooling: Makes the pooling from the width of the trunk.
            head: Makes the head from the width of a vector, n_texts and the number of its outputs.
            calibration: temperature, vector, noise, auto or none; see Calibration.
            set_coverage: As in Calibration.
            answered: As in Calibration.
            blend: tfidf: the logits are mixed with those of a linear model of TF-IDF features; None: they are not.
            max_windows: The most windows that a text is read in; None: 1.
            windows: mean, max or vote: what the windows of a text say together.

        Raises:
            SettingsError: The classes or the windows do not fit the task, or there is no such blend.
        """
        names = check_task(task, classes)
        n_outputs = len(names) if task in ('single-label', 'multi-label') else 1
        made = trunk(n_vocab, max_len)
        return cls(
            made,
            pooling(made.d_model),
            head(made.d_model, n_texts, n_outputs),
            CumulativeLink(len(names)) if task == 'ordinal' else None,
            None
            if task == 'regression'
            else Calibration(len(names), calibration, task == 'multi-label', set_coverage, answered),
            names,
            task,
            None if check_blend(blend) is None else LinearBlend(task, len(names) or 1),
            max_windows or 1,
            windows,
        )

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        example: Int[Tensor, ' s'] | None = None,
        role: Int[Tensor, ' s'] | None = None,
        n_examples: int | None = None,
        by_window: bool = False,
    ) -> Float[Tensor, 'e k'] | Float[Tensor, 'e w k']:
        """Logits of each example, before calibration, in float32 or wider; arguments as in `vectors`.

        Args:
            by_window: Whether those of each window are returned; where a text has fewer, they mean nothing.
        """
        vectors = self.vectors(ids, layout, example, role, n_examples)
        if self.max_windows == 1:
            logits = self._logits(vectors)
            return logits[:, None] if by_window else logits
        logits = self._logits(vectors.flatten(0, 1)[:, None]).unflatten(0, vectors.shape[:2])  # e w k
        if by_window:
            return logits
        n = len(vectors)
        at = torch.arange(n, device=ids.device) if example is None else example
        return self.combine(logits, self.is_there(at, torch.zeros_like(at) if role is None else role, n))

    def combine(self, logits: Float[Tensor, 'e w k'], is_there: Bool[Tensor, 'e w']) -> Float[Tensor, 'e k']:
        """The logits of texts from those of their windows; arguments as in `combine_windows`."""
        return combine_windows(logits, is_there, self.windows, self.task)

    def _logits(self, vectors: Float[Tensor, 'e t d']) -> Float[Tensor, 'e k']:
        outputs = self.head(vectors)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return outputs if self.link is None else self.link(outputs)

    def has_outputs_of(self, other: Part | None) -> bool:
        """Whether the logits of another classifier, as its checkpoint describes it, mean the same as these."""
        known = {} if other is None else other.arguments
        return (known.get('task', 'single-label'), known.get('classes') or []) == (self.task, list(self.classes))

    def probabilities(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        """Calibrated probabilities of logits; of a regression, the numbers as they are."""
        return logits if self.calibration is None else self.calibration(logits)


TASKS = ('single-label', 'multi-label', 'ordinal', 'regression')


def check_blend(blend: str | None) -> str | None:
    """The name of a blend.

    Raises:
        SettingsError: There is none of this name.
    """
    if blend not in (None, 'tfidf'):
        raise SettingsError(f'model.blend is {blend!r}; give tfidf, or leave it out')
    return blend


def check_task(task: str, classes: list[str] | None) -> list[str]:
    """The classes of a task.

    Raises:
        SettingsError: There is no such task, or the classes do not fit it.
    """
    if task not in TASKS:
        raise SettingsError(f'model.task is {task!r}; choose one of {", ".join(TASKS)}')
    if task == 'regression':
        if classes:
            raise SettingsError('model.task is regression, which has no model.classes; leave them out')
        return []
    names = [] if classes is None else classes
    least = 1 if task == 'multi-label' else 2
    if len(names) < least:
        raise SettingsError(
            f'model.classes has {len(names)} classes ({", ".join(names) or "none"}), but {task} classification needs '
            f'{least} or more; check the column of data.examples.label'
        )
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f'model.classes has {name!r} twice; name each class once')
    return list(names)


def _output(d_in: int, d_out: int) -> nn.Linear:
    layer = nn.Linear(d_in, d_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
