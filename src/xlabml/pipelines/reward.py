"""A checkpoint of preferences and a prompt with answers -> the score of each answer. No Lightning."""

from collections.abc import Sequence
from pathlib import Path

import torch

from xlabml.errors import RequestError, SettingsError
from xlabml.heads import PreferenceModel
from xlabml.heads.text_encoder import pack
from xlabml.tokenizer import Tokenizer

from .classifier import frame_examples, load_classifier, passes
from .framing import Framing, Turns

_BATCH_TOKENS = 4096


class RewardModel:
    """Scores answers to a prompt, whatever the other answers are: u − v is the log odds of A before B, without ties.

    Of a mixture (`model.blend`) a score is that of both models, each by its weight.

    Args:
        model: In evaluation mode, where it is to run.
        tokenizer: The one that the model was trained with.
        framing: How it reads a prompt with an answer.
    """

    def __init__(self, model: PreferenceModel, tokenizer: Tokenizer, framing: Framing) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._of_one = framing.of_one_answer()

    @classmethod
    def load(cls, ckpt: str | Path, device: str = 'auto') -> 'RewardModel':
        """Build the model that a checkpoint or an exported file holds; arguments and errors as in TextClassifier.load.

        Raises:
            SettingsError: Its answers are not scored one by one (`data.examples.together: false` does that).
        """
        path, (network, tokenizer, framing) = load_classifier(ckpt, device)
        if not isinstance(network, PreferenceModel):
            raise SettingsError(
                f'{path} has no score of an answer alone; train one with --data.examples=Preferences '
                '--data.examples.together=false'
            )
        return cls(network, tokenizer, framing)

    def score(self, prompt: Turns, answers: Sequence[Turns], batch_tokens: int = _BATCH_TOKENS) -> list[float]:
        """The score of each answer to a prompt.

        Args:
            prompt: A text, or its turns; '' where the model was trained without.
            answers: Each a text, or its turns.
            batch_tokens: The most tokens of a pass.

        Raises:
            RequestError: Something is no text, a prompt is given to a model without, or batch_tokens is below 1.
        """
        if isinstance(answers, str):
            raise RequestError('answers is a text; give a list of them')
        has_prompt = len(self._of_one.fields) == 2
        if prompt and not has_prompt:
            raise RequestError('this model was trained without prompts; give an empty one')
        examples = [(prompt, answer) if has_prompt else (answer,) for answer in answers]
        framed = frame_examples(examples, self._of_one, self.tokenizer, self.model.max_len)
        found: dict[int, float] = {}
        for numbers in passes(framed, batch_tokens):
            segments = [framed[i].segments[0].ids for i in numbers]
            ids, layout = pack(segments, next(self.model.parameters()).device)
            with torch.inference_mode():
                scores = self.model.score(ids, layout)[:, 0].double().cpu()
            if self.model.blend is not None:
                turns = [framed[i].tokens[-1] for i in numbers]
                read = ['\n'.join(map(self.tokenizer.decode, some)) for some in turns]
                scores = self.model.blend.mix_scores(scores, read)
            found |= dict(zip(numbers, scores.tolist()))
        return [found[i] for i in range(len(framed))]
