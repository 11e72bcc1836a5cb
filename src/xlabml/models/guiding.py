"""A guide model beside a task that learns vectors: its vectors of the texts of a batch."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xlabml.batches import ANCHOR, Batch, PairTargets
from xlabml.errors import SettingsError
from xlabml.losses import InfoNCE
from xlabml.pipelines.guide import Guide
from xlabml.plain import Plain
from xlabml.tokenizer import Tokenizer


def require_use(guide: str | None, objectives: Iterable[nn.Module]) -> None:
    """Refuse a guide that no objective reads.

    Raises:
        SettingsError: None of them has a guide_margin.
    """
    parts = [part for objective in objectives for part in objective.modules()]
    if guide is not None and not any(isinstance(part, InfoNCE) and part.guide_margin is not None for part in parts):
        raise SettingsError(
            f'model.guide is {guide}, but model.objective does not use it; set guide_margin of InfoNCE '
            '(0 leaves out what the guide finds nearer than the positive), or leave model.guide out'
        )


def require_same(guide: Guide, facts: Mapping[str, Plain]) -> None:
    """Refuse another guide than that of the run that is resumed.

    Args:
        facts: Those of its checkpoint.

    Raises:
        SettingsError: The file has another content.
    """
    saved = facts.get('guide')
    if isinstance(saved, dict) and saved.get('sha256') != guide.sha256:
        raise SettingsError(
            f'model.guide is {guide.path}, whose content is not that of the guide that the run began with '
            f'({saved.get("path")}, sha256 {str(saved.get("sha256"))[:12]}…); put that file back, or start a new run'
        )


def guide_vectors(guide: Guide, batch: Batch, tokenizer: Tokenizer) -> Float[Tensor, 's g']:
    """The guide's vector of each segment of a batch of groups; zero for padding.

    Texts are decoded, without their prompts, and tokenized as the guide needs them: it sees of a text as much as the
    model does.

    Args:
        tokenizer: That of the batch.
    """
    is_text = (batch.example >= 0).cpu()
    is_anchor = (batch.role == ANCHOR).cpu()
    texts = list(_texts(batch, tokenizer))
    # As wide on every rank, also where it has no text: ranks gather them.
    found = torch.zeros(len(texts), guide.embedder.model.d_vector, device=batch.ids.device)
    for prompt, chosen in (('query', is_text & is_anchor), ('document', is_text & ~is_anchor)):
        segments = chosen.nonzero()[:, 0]
        if len(segments):
            of_role = [texts[i] for i in segments.tolist()]
            found[segments.to(found.device)] = guide.vectors(of_role, prompt, found.device)
    return found


def _texts(batch: Batch, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each segment, without its prompt."""
    assert batch.layout is not None
    assert isinstance(batch.targets, PairTargets)
    ids = batch.ids.flatten().tolist()
    starts = batch.layout.starts.tolist()
    n_prompt = [0] * (len(starts) - 1) if batch.targets.n_prompt is None else batch.targets.n_prompt.tolist()
    for begin, end, skipped in zip(starts, starts[1:], n_prompt):
        yield tokenizer.decode(ids[begin + skipped : end])
