"""Generate text from a checkpoint and a prompt, streamed or whole. No Lightning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from xlabml import checkpoints, inference, settings
from xlabml.errors import RequestError, SettingsError
from xlabml.heads import LanguageModel
from xlabml.heads.loading import load_network, network_weights
from xlabml.ngram import Mixture
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.building import naming, try_out

from .conditioning import Conditioning
from .devices import find_device
from .mixing import Mixing, Report, name_model, open_mixture

LANGUAGE_MODEL = 'xlabml.models.XLabModel'
"""The task whose checkpoints generate text, like those of its subclasses."""

JOINT_MODEL = 'xlabml.models.JointModel'
"""A task whose checkpoints generate text and embed it."""

Text = TypeVar('Text', str, list[str])
"""A text, or several; the result has the same form."""


class TextGenerator:
    """Generates continuations of texts.

    Reserved tokens other than the end of text are never generated. A prompt and its continuation are decoded together.

    Args:
        model: The model, in evaluation mode, on its device.
        tokenizer: The tokenizer that the model was trained with.
        conditioning: The metadata that it knows; None: none.
        mixing: The n-grams that its predictions are mixed with; None: none.

    Attributes:
        name: A name of its weights, which gates of n-grams are kept under.

    Raises:
        ValueError: Model and tokenizer have different numbers of tokens.
    """

    name: str = ''

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        conditioning: Conditioning | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        n_vocab = model.trunk.embedding.num_embeddings
        if len(tokenizer) != n_vocab:
            raise SettingsError(
                f'the tokenizer has {len(tokenizer)} tokens, but the model has {n_vocab}; '
                'use the tokenizer that it was trained with (its checkpoint contains it)'
            )
        self.model = model
        self.tokenizer = tokenizer
        self.conditioning = conditioning or Conditioning(None, tokenizer, model.max_len)
        self.mixing = mixing
        self._eos = tokenizer.special_ids['eos']
        self._excluded = [item for item in tokenizer.reserved_ids if item != self._eos]

    @classmethod
    def load(cls, ckpt: str | Path, device: str = 'auto', tokenizer: str | Path | None = None) -> 'TextGenerator':
        """Build the model of a training checkpoint or an exported file.

        Args:
            ckpt: The file; `last`, `best`: of the newest run below the current folder.
            device: `cpu`, `cuda`, `cuda:1`, …; `auto`: a GPU if there is one.
            tokenizer: A tokenizer's file, to use instead of the one in the checkpoint.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: It is no checkpoint of a language model of ours, its weights are NaN or infinite, or the device
                cannot be used.
        """
        where = find_device(device)
        path = checkpoints.find(str(ckpt), Path(), (LANGUAGE_MODEL, JOINT_MODEL))
        with checkpoints.naming_another(str(ckpt), path):
            contents = checkpoints.load(path)
        with naming(path):
            _require_language_model(contents.task.class_path, path)
        if tokenizer is None:
            with naming(path):
                loaded = Tokenizer.from_bytes(contents.tokenizer_bytes())
        else:
            loaded = Tokenizer.load(tokenizer)
        model = load_network(contents, path, LanguageModel)
        try_out(
            path, contents.network and contents.network.arguments, lambda: model(torch.zeros(1, 1, dtype=torch.long))
        )
        with naming(path):
            found = cls(model.to(where), loaded, Conditioning.load(contents, path, loaded, model.max_len))
        found.name = name_model(network_weights(contents.weights))
        return found

    def mix_with(
        self,
        folders: Sequence[Path],
        whose: str = 'the model',
        say: Callable[[str], None] = print,
        report: Report | None = None,
    ) -> list[Mixture]:
        """Mix predictions with counted n-grams from now on; those of the second folder with what the first makes.

        Args:
            folders: As `xlab-manage ngram` writes them.
            whose: The checkpoint's file, for messages.
            say: Told when a gate is fitted, which takes a while.
            report: Told how far that is.

        Returns:
            The n-grams of each folder, with their gates.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It is damaged, or of another tokenizer.
        """
        known = (self.model, self.name, self.tokenizer.hash, whose, say, report)
        self.mixing = Mixing([open_mixture(folder, *known) for folder in folders])
        return self.mixing.mixtures

    def stream(
        self,
        prompt: str,
        n_tokens: int = 100,
        temperature: float | int = 1,
        top_k: int | None = None,
        top_p: float | int | None = None,
        seed: int | torch.Generator | None = None,
        greedy: bool = False,
        continued: bool = False,
        meta: Mapping[str, str] | None = None,
        guidance: float | int | Mapping[str, float] | None = None,
    ) -> Iterator[str]:
        """Generate the continuation of a text, streamed.

        Args:
            prompt: The beginning of the text.
            n_tokens: Maximum number of new tokens.
            temperature: Divides the logits: below 1 sharpens the distribution, above 1 flattens it.
            top_k: Sample from the top_k most probable tokens only; None: all.
            top_p: Sample from the fewest most probable tokens whose probabilities sum to top_p; None: all.
            seed: An equal seed generates an equal text; a generator continues from its state; None: a random seed.
            greedy: Always take the most probable token; the four arguments above have no effect then.
            continued: The prompt is the middle of a text: no start token before it.
            meta: What is known of the text, by the keys that the model was trained with; None: nothing.
            guidance: How much that counts: 1 as in training, more exaggerates; a number, or one for each key. None: as
                in training, and the text is computed once.

        Returns:
            Parts of the continuation as they are generated, each of whole characters.

        Raises:
            ValueError: A value is out of range, the prompt has no tokens or does not fit the model's context, or the
                model's logits are not finite.
        """
        choose = inference.Greedy() if greedy else inference.Sampler(temperature, top_k, top_p, _generator(seed))
        prompts, weights = self._variants(prompt, continued, meta, guidance)
        return self._pieces(prompts[0], self._steps(prompts, n_tokens, choose, weights))

    def generate(
        self,
        prompt: Text,
        n_tokens: int = 100,
        temperature: float | int = 1,
        top_k: int | None = None,
        top_p: float | int | None = None,
        seed: int | torch.Generator | None = None,
        greedy: bool = False,
        continued: bool = False,
        meta: Mapping[str, str] | None = None,
        guidance: float | int | Mapping[str, float] | None = None,
    ) -> Text:
        """Generate the continuation of a text, or of several in one batch; arguments and errors as in `stream`."""
        some = [
            self._variants(text, continued, meta, guidance)
            for text in ([prompt] if isinstance(prompt, str) else prompt)
        ]
        prompts = [variants[0] for variants, _ in some]
        choose = inference.Greedy() if greedy else inference.Sampler(temperature, top_k, top_p, _generator(seed))
        made: list[list[int]] = [[] for _ in prompts]
        weights = some[0][1] if some else []
        for step in self._steps([ids for variants, _ in some for ids in variants], n_tokens, choose, weights):
            for ids, value in zip(made, step[:: 1 + len(weights)]):
                if value is not None:
                    ids.append(value)
        texts = [self._decode(ids, new) for ids, new in zip(prompts, made)]
        return texts[0] if isinstance(prompt, str) else texts

    def beam(
        self,
        prompt: Text,
        n_tokens: int = 100,
        width: int = 10,
        length_penalty: float | int = 0,
        continued: bool = False,
        meta: Mapping[str, str] | None = None,
    ) -> Text:
        """The most probable continuation that beam search finds, of a text or of several.

        Args:
            prompt: The beginning of the text.
            n_tokens: Maximum number of new tokens.
            width: Number of hypotheses.
            length_penalty: Above 0 favours long texts, below 0 short ones.
            continued: The prompt is the middle of a text: no start token before it.

        Raises:
            ValueError: As in `stream`.
        """
        texts_in = [prompt] if isinstance(prompt, str) else prompt
        prompts = [self._variants(text, continued, meta, None)[0][0] for text in texts_in]
        found = inference.beam_search(
            self.model,
            prompts,
            width,
            n_tokens,
            self.model.max_len,
            self._eos,
            self._excluded,
            length_penalty,
            adjust=self.mixing,
        )
        texts = [self._decode(ids, new.tolist()) for ids, new in zip(prompts, found)]
        return texts[0] if isinstance(prompt, str) else texts

    def _variants(
        self,
        prompt: str,
        continued: bool,
        meta: Mapping[str, str] | None,
        guidance: float | int | Mapping[str, float] | None,
    ) -> tuple[list[Tensor], list[float]]:
        """A prompt behind each of the prefixes that it is continued with, and the weights of all but the first."""
        prefixes, weights = self.conditioning.variants(meta or {}, guidance)
        return [self._encode(prompt, continued, prefix) for prefix in prefixes], weights

    def _encode(self, prompt: str, continued: bool, prefix: list[int]) -> Tensor:
        try:
            ids = self.tokenizer.encode(prompt)
        except ValueError as error:
            raise RequestError(f'the prompt cannot be tokenized: {error}') from error
        # Of a text that is continued in its middle, a later window begins with its prefix, without a start token.
        ids = [*prefix, *ids] if continued else [self.tokenizer.special_ids['sos'], *prefix, *ids]
        if not ids:
            raise RequestError(
                'the prompt is empty, and without a start token there is nothing to continue; give a text'
            )
        if len(ids) > self.model.max_len:
            raise RequestError(
                f'the prompt has {len(ids)} tokens, but the model has a context of {self.model.max_len}; shorten it'
            )
        return torch.tensor(ids, device=next(self.model.parameters()).device)

    def _steps(
        self,
        prompts: list[Tensor],
        n_tokens: int,
        choose: inference.Sampler | inference.Greedy,
        weights: list[float],
    ) -> Iterator[list[int | None]]:
        block_size = self.model.max_len
        chosen = inference.Guided(choose, weights) if weights else choose
        return inference.stream(
            self.model, prompts, n_tokens, block_size, chosen, self._eos, self._excluded, adjust=self.mixing
        )

    def _pieces(self, prompt: Tensor, steps: Iterator[list[int | None]]) -> Iterator[str]:
        decoder = self.tokenizer.stream()
        pushed = ''.join(map(decoder.push, prompt.tolist()))
        held = self.tokenizer.decode(prompt.tolist())[len(pushed) :]  # the prompt's text that a later token can change
        for step in steps:
            assert step[0] is not None
            if text := decoder.push(step[0]):
                if new := text.removeprefix(held):
                    yield new
                held = ''
        if text := decoder.close().removeprefix(held):
            yield text

    def _decode(self, prompt: Tensor, new: list[int]) -> str:
        return ''.join(self._pieces(prompt, ([item] for item in new)))


def is_language_model(class_path: str) -> bool:
    """Whether checkpoints of a task generate text.

    Raises:
        ValueError: It is neither a class of ours nor of a module that the user named.
    """
    is_ours = class_path.startswith('xlabml.')
    names = (
        [class_path]
        if is_ours
        else [f'{base.__module__}.{base.__name__}' for base in settings.find_class(class_path).__mro__]
    )
    ends = ('.XLabModel', '.JointModel')
    return any(name.startswith('xlabml.models.') and name.endswith(ends) for name in names)


def _require_language_model(class_path: str, path: Path) -> None:
    if not is_language_model(class_path):
        raise SettingsError(
            f'{path} holds a {class_path}, which is no language model; give a checkpoint of {LANGUAGE_MODEL}'
        )


def _generator(seed: int | torch.Generator | None) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(seed)
