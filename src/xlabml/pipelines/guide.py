"""A second embedder that tells, while another is trained, which candidates are likely false negatives.

Source: GISTEmbed, Solatorio 2024, https://arxiv.org/abs/2402.16829.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from xlabml.artifacts.hashes import hash_file
from xlabml.errors import SettingsError

from .embedder import TextEmbedder
from .reranking import require_one_vector


class Guide:
    """An embedder of ours, read from its file; it has a tokenizer and prompts of its own, and is not trained.

    Args:
        path: A checkpoint or an exported file: an encoder, or a table of token vectors (`manage.py distill`).
        name: What the path is called, for messages.

    Attributes:
        path: The file, without `..` and links.
        sha256: Hash of its content, in hex.

    Raises:
        SettingsError: There is no such file, or it holds no embedder whose vectors are compared by their cosine.
        CheckpointError: It cannot be read.
    """

    def __init__(self, path: str | Path, name: str = 'model.guide') -> None:
        file = Path(path)
        if not file.is_file():
            what = 'is a folder' if file.is_dir() else 'is not there'
            raise SettingsError(
                f'{name} is {path}, which {what}; give the file of a checkpoint or of an exported embedder'
            )
        try:
            self.embedder = TextEmbedder.load(file, 'cpu')
        except SettingsError as error:
            raise SettingsError(f'{name}: {error}') from error
        require_one_vector(self.embedder, f'{name} is {path}, which')
        self.path = file.resolve()
        self.sha256 = hash_file(file)
        self._plans = {
            prompt: self.embedder.plan(prompt if prompt in self.embedder.model.prompts else None, normalize=True)
            for prompt in ('query', 'document')
        }

    def vectors(self, texts: Sequence[str], prompt: str, device: torch.device) -> Float32[Tensor, 's g']:
        """The vectors of texts at length 1, on the device, where they are computed as well.

        Args:
            prompt: The prompt that is put before each, where the embedder has it: query or document.
        """
        if self.embedder.device != device:
            self.embedder.model.to(device)
        found, _ = self.embedder.encode_chunk(list(texts), self._plans[prompt])
        return torch.from_numpy(found).to(device)
