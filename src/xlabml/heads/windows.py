"""What the windows of a long text say of it together: the mean, the largest, or a vote of their outputs.

The result is logits again, before calibration: of one window alone they mean what its own logits do.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from xlabml.errors import SettingsError

WAYS = ('mean', 'max', 'vote')


def check_windows(windows: str, max_windows: int, task: str, n_texts: int) -> None:
    """See that a way of combining windows goes with a task.

    Args:
        windows: One of WAYS.
        max_windows: Windows of a text, at most; 1: there are none.
        task: Of the classifier.
        n_texts: Texts of an example that are encoded apart.

    Raises:
        SettingsError: It does not.
    """
    if windows not in WAYS:
        raise SettingsError(f'model.windows is {windows!r}; choose one of {", ".join(WAYS)}')
    if max_windows < 1:
        raise SettingsError(f'model.max_windows is {max_windows}; give 1 or more')
    if max_windows == 1 and windows != WAYS[0]:
        raise SettingsError(
            f'model.windows is {windows}, but texts are read in one window; set data.examples.max_windows, or leave it '
            'out'
        )
    if max_windows > 1 and n_texts > 1:
        raise SettingsError(
            f'model.max_windows is {max_windows}, but an example has {n_texts} texts; only one text can have windows'
        )
    if windows == 'vote' and task == 'regression':
        raise SettingsError('model.windows is vote, but a regression has no classes to vote for; take mean or max')


def combine_windows(
    logits: Float[Tensor, 'e w k'], is_there: Bool[Tensor, 'e w'], windows: str, task: str
) -> Float[Tensor, 'e k']:
    """The logits of texts from those of their windows.

    mean: of the probabilities; max: the largest probability of each class; vote: each window has one for its most
    probable class (with several labels an example: for each class above a half), and one vote more is shared by all, so
    that no probability is 0. Of a regression, the mean or the largest number.

    Args:
        logits: Of each window; what stands where there is none does not matter.
        is_there: Which windows each text has: one at least.
        windows: One of WAYS.
        task: Of the classifier.
    """
    there = is_there[:, :, None]
    n = there.sum(1).to(logits.dtype)  # e 1
    if task == 'regression':
        if windows == 'max':
            return logits.masked_fill(~there, -torch.inf).amax(1)
        return logits.masked_fill(~there, 0.0).sum(1) / n
    if task == 'multi-label':
        if windows == 'max':
            return logits.masked_fill(~there, -torch.inf).amax(1)
        if windows == 'vote':
            share = (((logits > 0) & there).sum(1) + 0.5) / (n + 1)
            return share.log() - (1 - share).log()
        yes, no = (F.logsigmoid(some).masked_fill(~there, -torch.inf).logsumexp(1) for some in (logits, -logits))
        return yes - no
    log_probs = logits.log_softmax(-1).masked_fill(~there, -torch.inf)
    if windows == 'max':
        return log_probs.amax(1)
    if windows == 'vote':
        k = logits.size(-1)
        votes = (F.one_hot(logits.argmax(-1), k) * there).sum(1)
        return ((votes + 1 / k) / (n + 1)).log()
    return log_probs.logsumexp(1) - n.log()
