"""Probabilities that mean what they say: logits are transformed by what was fitted on a validation split.

What was fitted lies in buffers, saved with the weights and applied by default. Beside it stand two thresholds: that of
the sets of classes that hold the true class at the coverage that is set, and that of the confidence below which no
answer is better than one.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.errors import SettingsError

KINDS = ('temperature', 'vector', 'noise', 'auto', 'none')

_MAX_ITERATIONS = 200
_LARGEST_SCALE = 100.0
_SMALLEST_SCALE = 0.01
_FIRST_NOISE = 0.05
_N_FOLDS = 5
_CHOSEN_ON = 2000
"""Examples that `auto` compares the kinds on, at most."""


class _Fitted(NamedTuple):
    """What a fit finds: for each class a scale, a shift, and the probability that is added whatever the logits say."""

    scale: Float[Tensor, ' k']
    shift: Float[Tensor, ' k']
    noise: Float[Tensor, ' k']


class Calibration(nn.Module):
    """Logits times a scale plus a shift, both one number a class.

    `temperature` is one scale for all classes (a temperature of 1 / scale) and no shift; it changes no prediction.
    `vector` has both for each class; a ridge of one example's weight holds them near 1 and 0, since a class without
    examples would go to minus infinity. With several labels an example each class is fitted on its own, and the scale
    of `temperature` is one a class. `noise` is `vector` with label noise, a share e of labels that do not depend on the
    text: probabilities are (1 - e) softmax(scale * logits + shift) + e q, and e and the distribution q are fitted with
    the rest, q held near the shares of the classes by the same ridge. `auto` is the one of the three (with several
    labels an example of the first two) whose loss is the least on examples left out of its fit, in five folds. Of
    mirrored classes (`a`, `tie`, `b`) the first and the last have one scale and one shift.
    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2; Platt 1999; a mixture with a fixed
    distribution, there the uniform one: Zhang et al. 2020, https://arxiv.org/abs/2003.07329, section 3.2.

    Args:
        n_classes: How many.
        kind: What is fitted: temperature, vector, noise, auto, or none: logits stay as they are, and only the
            thresholds are fitted.
        is_multi_label: Whether an example may have several classes.
        set_coverage: How often the set of an example is to hold its class, 0..1.
        answered: Of how many examples the answer is to be given, 0..1: of those of the largest confidence.
        is_mirrored: Whether the first classes are treated as the last ones; for temperature, vector and none.

    Raises:
        SettingsError: There is no such kind, it is not for several labels or mirrored classes, or a ratio does not lie
            in 0..1.
    """

    scale: Tensor
    shift: Tensor
    noise: Tensor | None
    set_threshold: Tensor
    answer_threshold: Tensor
    n_fitted: Tensor

    def __init__(
        self,
        n_classes: int,
        kind: str = 'temperature',
        is_multi_label: bool = False,
        set_coverage: float = 0.9,
        answered: float = 0.8,
        is_mirrored: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise SettingsError(f'model.calibration is {kind!r}; choose one of {", ".join(KINDS)}')
        if kind == 'noise' and is_multi_label:
            raise SettingsError(
                'model.calibration is noise, which is for one class an example; with several take temperature, vector '
                'or auto'
            )
        if kind in ('noise', 'auto') and is_mirrored:
            raise SettingsError(
                f'model.calibration is {kind}, which may treat A and B differently; take temperature, vector or none'
            )
        for name, ratio in (('set_coverage', set_coverage), ('answered', answered)):
            if not 0 < ratio <= 1:
                raise SettingsError(f'model.{name} is {ratio}; give a ratio above 0, at most 1')
        self.kind = kind
        self.is_multi_label = is_multi_label
        self.set_coverage = set_coverage
        self.answered = answered
        self.is_mirrored = is_mirrored
        self.register_buffer('scale', torch.ones(n_classes))
        self.register_buffer('shift', torch.zeros(n_classes))
        may_have_noise = kind in ('noise', 'auto') and not is_multi_label
        self.register_buffer('noise', torch.zeros(n_classes) if may_have_noise else None)
        self.register_buffer('set_threshold', torch.ones(()))
        self.register_buffer('answer_threshold', torch.zeros(()))
        self.register_buffer('n_fitted', torch.zeros((), dtype=torch.long))

    def logits(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        """Calibrated logits."""
        device = logits.device
        scaled = logits * self.scale.to(device, logits.dtype) + self.shift.to(device, logits.dtype)
        return scaled if self.noise is None else _add_noise(scaled, self.noise.to(device, logits.dtype))

    def forward(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        """Calibrated probabilities, in float32 or wider."""
        return self._probabilities(self.logits(logits.to(torch.promote_types(logits.dtype, torch.float32))))

    def sets(self, probs: Float[Tensor, 'e k']) -> Bool[Tensor, 'e k']:
        """For each example the classes that are in its set, the most probable one always.

        Source: split conformal prediction with the score 1 − p, Sadinle et al. 2019,
        https://arxiv.org/abs/1609.00451; Angelopoulos & Bates 2021, https://arxiv.org/abs/2107.07511, section 1. The
        coverage holds for examples that come from where those of the validation split come from, and for no others.
        """
        inside = 1 - probs <= self.set_threshold.to(probs.device, probs.dtype)
        return inside | F.one_hot(probs.argmax(-1), probs.size(1)).bool()

    def answers(self, probs: Float[Tensor, 'e k']) -> Bool[Tensor, ' e']:
        """For each example, whether its confidence is large enough for an answer."""
        return self._confidence(probs) >= self.answer_threshold.to(probs.device, probs.dtype)

    @torch.no_grad()
    def fit(self, logits: Float[Tensor, 'e k'], labels: Int[Tensor, ' e'] | Float[Tensor, 'e k']) -> None:
        """Fit all of it on examples that the network was not trained on.

        Where there are none, or a logit is not finite, everything is as before any fit.

        Args:
            logits: Of the network, uncalibrated.
            labels: The class of each example, or its share (its presence, with several labels) for each class.
        """
        wide = logits.detach().to('cpu', torch.float64)
        n, k = wide.shape
        known = labels.detach().cpu()
        shares = known.double() if known.is_floating_point() else F.one_hot(known.long(), k).double()
        self._forget()
        if not n or not wide.isfinite().all():
            return
        found = self._fit(self._choose(wide, shares), wide, shares)
        self.scale.copy_(found.scale)
        self.shift.copy_(found.shift)
        if self.noise is not None:
            self.noise.copy_(found.noise)
        self.n_fitted.fill_(n)
        probs = self._probabilities(self.logits(wide))
        # In the precision of the buffers: what is at the threshold has to stay there.
        ordered = self._confidence(probs).sort(descending=True).values
        self.answer_threshold.copy_(_round_down(ordered[min(n, math.ceil(n * self.answered)) - 1]))
        if not self.is_multi_label:
            scores = (1 - probs.gather(1, shares.argmax(-1, keepdim=True))[:, 0]).sort().values
            rank = math.ceil((n + 1) * self.set_coverage)
            self.set_threshold.copy_(-_round_down(-scores[rank - 1]) if rank <= n else torch.ones(()))

    def _choose(self, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> str:
        """The kind that is fitted: of `auto` that of the least loss on examples left out of the fit."""
        if self.kind != 'auto':
            return self.kind
        order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))[:_CHOSEN_ON]
        folds = [order[i::_N_FOLDS] for i in range(_N_FOLDS)]
        if not all(len(fold) for fold in folds):
            return 'temperature'
        kinds = ('temperature', 'vector') if self.is_multi_label else ('temperature', 'vector', 'noise')
        losses = dict.fromkeys(kinds, 0.0)
        for number, fold in enumerate(folds):
            others = torch.cat(folds[:number] + folds[number + 1 :])
            for kind in kinds:
                found = self._fit(kind, logits[others], shares[others])
                outputs = _add_noise(logits[fold] * found.scale + found.shift, found.noise)
                losses[kind] += float(self._loss(outputs, shares[fold])) * len(fold)
        return min(losses, key=lambda kind: losses[kind])

    def _fit(self, kind: str, logits: Float[Tensor, 'e k'], shares: Float[Tensor, 'e k']) -> _Fitted:
        """What has the smallest loss: a convex problem but for `noise`, which begins with little of it."""
        n, k = logits.shape
        own = torch.arange(k)
        shift_at = torch.minimum(own, own.flip(0)) if self.is_mirrored else own
        scale_at = torch.zeros_like(own) if kind == 'temperature' and not self.is_multi_label else shift_at
        scale = torch.ones(int(scale_at.max()) + 1, dtype=torch.float64)
        shift = torch.zeros(int(shift_at.max()) + 1, dtype=torch.float64)
        tilt = torch.zeros(k, dtype=torch.float64)
        odds = torch.tensor(_FIRST_NOISE, dtype=torch.float64).logit()
        if kind == 'none':
            return _Fitted(scale[scale_at], shift[shift_at], torch.zeros_like(tilt))
        fitted = {'temperature': [scale], 'vector': [scale, shift], 'noise': [scale, shift, tilt, odds]}[kind]
        # Logits of the order of 1, so that the first step is of the right size.
        size = logits.std(correction=0).clamp(min=1e-12)
        scale.mul_(size)
        class_logits = ((shares.sum(0) + 1) / (n + k)).log()

        def noise() -> Tensor:
            share = odds.sigmoid() if kind == 'noise' else torch.zeros_like(odds)
            return share * (class_logits + tilt).softmax(-1)

        with torch.enable_grad():
            for parameter in fitted:
                parameter.requires_grad_(True)
            optimizer = torch.optim.LBFGS(
                fitted, max_iter=_MAX_ITERATIONS, tolerance_grad=1e-9, line_search_fn='strong_wolfe'
            )

            def closure() -> Tensor:
                optimizer.zero_grad()
                scaled = logits / size * scale[scale_at] + shift[shift_at]
                loss = self._loss(_add_noise(scaled, noise()) if kind == 'noise' else scaled, shares)
                if kind != 'temperature':
                    away = (scale / size - 1).square().sum() + shift.square().sum() + tilt.square().sum()
                    loss = loss + away / (2 * n)
                loss.backward()
                return loss

            optimizer.step(closure)
        found = (scale.detach() / size).nan_to_num(1.0)[scale_at]
        low = _SMALLEST_SCALE if kind == 'temperature' else -_LARGEST_SCALE
        return _Fitted(
            found.clamp(low, _LARGEST_SCALE),
            shift.detach().nan_to_num(0.0)[shift_at],
            noise().detach().nan_to_num(0.0),
        )

    def _loss(self, logits: Tensor, shares: Tensor) -> Tensor:
        if self.is_multi_label:
            return F.binary_cross_entropy_with_logits(logits, shares, reduction='none').mean(0).sum()
        return -(shares * logits.log_softmax(-1)).sum(1).mean()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.is_multi_label else logits.softmax(-1)

    def _confidence(self, probs: Tensor) -> Tensor:
        """The probability of what is said; with several labels, of the class that is least certain."""
        return torch.maximum(probs, 1 - probs).min(-1).values if self.is_multi_label else probs.max(-1).values

    def _forget(self) -> None:
        self.scale.fill_(1)
        self.shift.fill_(0)
        if self.noise is not None:
            self.noise.fill_(0)
        self.set_threshold.fill_(1)
        self.answer_threshold.fill_(0)
        self.n_fitted.fill_(0)


def _add_noise(logits: Float[Tensor, 'e k'], noise: Float[Tensor, ' k']) -> Float[Tensor, 'e k']:
    """Logits of (1 - e) softmax(logits) + noise, where e is the sum of the noise; without any, those that are given."""
    if not noise.requires_grad and not noise.any():
        return logits
    return torch.logaddexp(logits.log_softmax(-1) + torch.log1p(-noise.sum()), noise.log())


def _round_down(value: Tensor) -> Tensor:
    """The largest float32 that is not above a float64."""
    rounded = value.float()
    return torch.where(rounded.double() > value, torch.nextafter(rounded, torch.tensor(-math.inf)), rounded)
