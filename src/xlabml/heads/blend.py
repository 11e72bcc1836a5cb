"""A classifier mixed with a linear model of TF-IDF features: a weight for each, fitted with the calibration.

Source: stacking, Wolpert 1992, https://doi.org/10.1016/S0893-6080(05)80023-1, with weights that are not negative,
Breiman 1996, https://doi.org/10.1007/BF00117832; of classes the log-probabilities are added (a logarithmic pool).
Of preferences both models are exactly mirrored where the answers change places, and so is the mixture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.errors import CheckpointError
from xlabml.tfidf import PREFERENCE, LinearModel, TfidfPreference, model_of_arrays

from .mirror import mirrored_log_softmax

_MAX_ITERATIONS = 100
_LEAST = 10
"""Examples that weights are fitted on, at least."""
_WEIGHTS = 'weights'


class LinearBlend(nn.Module):
    """The linear model, and how much each of both counts.

    Both are saved with the network as plain arrays; the model has no buffers, so that nothing copies it at each step.
    Before anything is fitted the network stands alone.

    Args:
        task: What the outputs mean, as in SequenceClassifier, or preference.
        n_outputs: How many there are of an example.

    Attributes:
        model: The linear model; None: there is none yet.
        weights: Of the network, of the linear model, a number that is added, and of the network where it stands alone.
    """

    def __init__(self, task: str, n_outputs: int) -> None:
        super().__init__()
        self.task = task
        self.n_outputs = n_outputs
        self.model: LinearModel | None = None
        self.weights = _of_network_alone()

    def forward(self, logits: Float[Tensor, 'e k'], beside: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        """The outputs of both together, in the type of the first.

        Args:
            logits: Of the network.
            beside: Of the linear model.
        """
        own, linear, shift, _ = self.weights.tolist()
        mixed = own * self._parts(logits.double()) + linear * self._parts(beside.double().to(logits.device)) + shift
        return mixed.to(logits.dtype)

    def alone(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        """The outputs of the network alone, scaled as if there were no linear model."""
        return logits * float(self.weights[3])

    def beside(self, texts: Sequence[Sequence[str]]) -> Float[Tensor, 'e k']:
        """The outputs of the linear model for the texts of examples, in float64."""
        assert self.model is not None
        return torch.from_numpy(self.model.logits(texts))

    def mix_scores(self, scores: Float[Tensor, ' e'], answers: Sequence[str]) -> Float[Tensor, ' e']:
        """The scores of answers by both models, where the task is preference; the texts are those of the answers."""
        if not isinstance(self.model, TfidfPreference):
            return scores
        own, linear, _, _ = self.weights.tolist()
        return own * scores + linear * torch.from_numpy(self.model.scores(answers)).to(scores)

    @torch.no_grad()
    def fit(
        self,
        logits: Float[Tensor, 'e k'],
        beside: Float[Tensor, 'e k'],
        labels: Int[Tensor, ' e'] | Float[Tensor, 'e j'],
    ) -> None:
        """Find the weights of the smallest loss on examples that neither was trained on.

        Where there are few, or something is not finite, the network stands alone.

        Args:
            logits: Of the network.
            beside: Of the linear model.
            labels: Of each example its class, or a number for each column.
        """
        self.weights = _of_network_alone()
        both = [self._parts(some.detach().to('cpu', torch.float64)) for some in (logits, beside)]
        if len(logits) < _LEAST or not all(some.isfinite().all() for some in both):
            return
        known = self.soften(labels.detach().cpu())
        columns = torch.stack(both)  # 2 e k
        if self.task == 'regression':
            columns = torch.cat([columns, torch.ones_like(columns[:1])])
            found = _not_negative(columns, lambda some: _least_squares(some, known.double().view(-1, 1)))
            alone = 1.0
        else:
            found = _not_negative(columns, lambda some: self._smallest_loss(some, known))
            alone = float(self._smallest_loss(columns[:1], known).clamp(min=0))
        shift = float(found[2]) if self.task == 'regression' else 0.0
        self.weights = torch.tensor([float(found[0]), float(found[1]), shift, alone], dtype=torch.float64)

    def soften(self, labels: Int[Tensor, ' e'] | Float[Tensor, 'e j']) -> Int[Tensor, ' e'] | Float[Tensor, 'e j']:
        """Labels as they are fitted to: of n examples each class has one half of an example more in 1 + n / 2.

        Where a mixture is right on all examples, larger weights would always be better, and a mistake on others would
        cost without bound. Source: Platt 1999, section 2.2, whose targets for two classes these are.
        """
        if self.task == 'regression':
            return labels
        n = len(labels)
        wide = labels.double()
        if not labels.is_floating_point():
            wide = F.one_hot(labels.long(), self.n_outputs).double()
        even = 0.5 if self.task == 'multi-label' else 1 / wide.size(1)
        return (n * wide + 2 * even) / (n + 2)

    def _parts(self, logits: Float[Tensor, 'e k']) -> Float[Tensor, 'e k']:
        """What is added up: of classes the log-probabilities."""
        if self.task in ('multi-label', 'regression'):
            return logits
        return mirrored_log_softmax(logits) if self.task == PREFERENCE else logits.log_softmax(-1)

    def _loss(self, logits: Float[Tensor, 'e k'], labels: Tensor) -> Tensor:
        if self.task == 'multi-label':
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)

    def _smallest_loss(self, columns: Float[Tensor, 'p e k'], labels: Tensor) -> Float[Tensor, ' p']:
        """The weight of each part that together have the smallest loss: a convex problem."""
        weights = torch.full((len(columns),), 1 / len(columns), dtype=torch.float64)
        with torch.enable_grad():
            weights.requires_grad_(True)
            optimizer = torch.optim.LBFGS([weights], max_iter=_MAX_ITERATIONS, line_search_fn='strong_wolfe')

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = self._loss(torch.einsum('p,pek->ek', weights, columns), labels)
                loss.backward()
                return loss

            optimizer.step(closure)
        return weights.detach().nan_to_num(0.0)

    # Saved as arrays

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + _WEIGHTS] = self.weights.clone()
        for name, array in {} if self.model is None else self.model.arrays().items():
            destination[prefix + name] = torch.from_numpy(np.ascontiguousarray(array))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        own = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        self.prepare_load(own)

    def prepare_load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what was saved, whose sizes are known from it alone.

        Args:
            weights: By their names in this module; {}: there is nothing.

        Raises:
            CheckpointError: They do not fit each other.
        """
        if not weights:
            return
        arrays = {name: value.detach().cpu().numpy() for name, value in weights.items() if name != _WEIGHTS}
        found = weights.get(_WEIGHTS)
        if found is None or found.shape != (4,) or not found.isfinite().all():
            raise CheckpointError('the weights of the blend are not four finite numbers; copy the file again')
        self.weights = found.detach().cpu().double().clone()
        try:
            self.model = model_of_arrays(arrays) if arrays else None
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f'the linear model of the blend is broken ({error}); copy the file again') from error
        if self.model is not None and isinstance(self.model, TfidfPreference) != (self.task == PREFERENCE):
            raise CheckpointError(
                f'the linear model of the blend is a {type(self.model).__name__}, but the task is {self.task}; copy '
                'the file again'
            )
        if self.model is not None and self.model.n_outputs != self.n_outputs:
            raise CheckpointError(
                f'the linear model of the blend has {self.model.n_outputs} outputs, and the network '
                f'{self.n_outputs}; copy the file again'
            )


def _of_network_alone() -> Float[Tensor, ' 4']:
    return torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)


def _not_negative(columns: Tensor, solve: Any) -> Float[Tensor, ' p']:
    """The best weights, of which those of both models are not negative: what would be is left out."""
    found = solve(columns)
    for here in (0, 1):
        if found[here] < 0:
            kept = [i for i in range(len(columns)) if i != here]
            of_kept = solve(columns[kept])
            found = torch.zeros_like(found)
            found[kept] = of_kept
            found[:2] = found[:2].clamp(min=0)
            break
    return found


def _least_squares(columns: Float[Tensor, 'p e 1'], numbers: Float[Tensor, 'e 1']) -> Float[Tensor, ' p']:
    return torch.linalg.lstsq(columns[:, :, 0].T, numbers).solution[:, 0]
