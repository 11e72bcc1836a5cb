"""What a model was conditioned on in training, from its checkpoint: the start of a text that is asked for."""

from collections.abc import Mapping
from pathlib import Path

from xlabml import settings
from xlabml.checkpoints import Contents
from xlabml.errors import RequestError
from xlabml.metadata import Posterior, Prefix
from xlabml.plain import below
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.building import building
from xlabml.untrusted.matching import match_arguments

FORMAT = 'xlabml.data.Conditioned'
"""The format of examples whose checkpoints know metadata."""

POSTERIOR = 'metadata_posterior/'
"""Before the key of a type: the name of the fact of a checkpoint that holds its posterior."""

_ARGUMENTS = ('types', 'separator', 'end', 'choices', 'every_window')


class Conditioning:
    """Metadata as the first tokens of a text.

    Args:
        prefix: The metadata that the model knows; None: it was trained without any.
        tokenizer: The model's.
        max_len: The model's context, in tokens, of which metadata gets half.
        posteriors: How the values of a type are found again from a text, by key.
    """

    def __init__(
        self,
        prefix: Prefix | None,
        tokenizer: Tokenizer,
        max_len: int,
        posteriors: Mapping[str, Posterior] | None = None,
    ) -> None:
        self.prefix = prefix
        self.posteriors = dict(posteriors or {})
        self.tokenizer = tokenizer
        self.max_len = max_len

    @classmethod
    def load(cls, contents: Contents, path: Path, tokenizer: Tokenizer, max_len: int) -> 'Conditioning':
        """That of a checkpoint.

        Raises:
            CheckpointError: Its settings cannot be built.
        """
        examples = below(contents.data, 'examples')
        if settings.renamed(str(examples.get('class_path', ''))) != FORMAT:
            return cls(None, tokenizer, max_len)
        given = {name: value for name, value in below(examples, 'init_args').items() if name in _ARGUMENTS}
        with building(path, contents.weights):
            known = match_arguments(Prefix, given, 'data.examples')
            posteriors = {
                name.removeprefix(POSTERIOR): Posterior.of(fact if isinstance(fact, Mapping) else {})
                for name, fact in contents.facts.items()
                if name.startswith(POSTERIOR)
            }
            return cls(Prefix(**settings.build_arguments(Prefix, known)), tokenizer, max_len, posteriors)

    def encode(self, asked: Mapping[str, str]) -> list[int]:
        """The tokens of a prefix; [] where nothing is asked for.

        Raises:
            RequestError: The model was trained without it, a value says nothing, or all is too long.
        """
        if not asked:
            return []
        if self.prefix is None:
            raise RequestError(
                f'the model was trained without metadata, so that {next(iter(asked))!r} means nothing to it; leave it '
                'out, or use a checkpoint of data.examples Conditioned'
            )
        ids = [token for piece in self.prefix.pieces(asked) for token in self.tokenizer.encode(piece)]
        if len(ids) > self.max_len // 2:
            raise RequestError(
                f'the metadata has {len(ids)} tokens, but of a context of {self.max_len} it gets half; shorten it'
            )
        return ids

    def variants(
        self, asked: Mapping[str, str], guidance: float | int | Mapping[str, float] | None
    ) -> tuple[list[list[int]], list[float]]:
        """The prefixes that a text is written with, and the weight of each but the first.

        Args:
            asked: A value for each key.
            guidance: None: as trained. A number: the weight of all metadata together, against none. By key: the weight
                of each, against none; what is missing has the weight 1.

        Raises:
            RequestError: As in `encode`; or a weight is of nothing that is asked for.
        """
        if guidance is None:
            return [self.encode(asked)], []
        if not asked:
            raise RequestError('guidance weighs metadata, and none is asked for; give some, or leave guidance out')
        if not isinstance(guidance, Mapping):
            return [[], self.encode(asked)], [float(guidance)]
        unknown = [key for key in guidance if key not in asked]
        if unknown:
            raise RequestError(f'guidance has a weight of {unknown[0]!r}, which is not asked for; ask for it too')
        each = [self.encode({key: value}) for key, value in asked.items()]
        return [[], *each], [float(guidance.get(key, 1.0)) for key in asked]
