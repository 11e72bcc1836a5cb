"""The tokenizer of a data module: the one that is named, a checkpoint's, or one in the cache that is trained there."""

from collections.abc import Callable, Iterable
from pathlib import Path

from xlabml import paths
from xlabml.artifacts.hashes import short_hash
from xlabml.artifacts.locks import only_one
from xlabml.errors import SettingsError
from xlabml.tokenizer import Tokenizer, train_tokenizer

from .choices import TokenizerChoice


class TokenizerFile:
    """A tokenizer and where it lies; building this opens nothing.

    Args:
        choice: What the settings say of it.
        identity: Returns plain values that a tokenizer trained here depends on.
        texts: Returns the texts that one is trained on.
    """

    def __init__(
        self, choice: TokenizerChoice, identity: Callable[[], list[object]], texts: Callable[[], Iterable[str]]
    ) -> None:
        self._choice = choice
        self._identity = identity
        self._texts = texts
        self._given_path = None if choice.path is None else Path(choice.path)
        self._saved_path: Path | None = None
        self._tokenizer: Tokenizer | None = None

    @property
    def path(self) -> Path:
        """The file: the checkpoint's, the one that is named, or the one in the cache."""
        if self._saved_path is not None:
            return self._saved_path
        if self._given_path is not None:
            return self._given_path
        name = short_hash(self._identity())
        return paths.tokenizers() / f'{self._choice.n_vocab}-{name}.model'

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; its file must exist.

        Raises:
            SettingsError: It does not have data.n_vocab tokens.
        """
        if self._tokenizer is None:
            # What a checkpoint holds says by itself which of its tokens are special.
            tokenizer = self._read(self.path) if self._saved_path is None else Tokenizer.load(self._saved_path)
            n = len(tokenizer)
            n_vocab = self._choice.n_vocab
            if n != n_vocab:
                n_appended = len(tokenizer.appended)
                appended = f' ({n_appended} of them appended)' if n_appended else ''
                raise SettingsError(
                    f'tokenizer {self.path} has {n} tokens{appended}, but data.n_vocab is {n_vocab}; set data.n_vocab '
                    f'to {n}, or train a tokenizer of {n_vocab}'
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def _read(self, path: Path) -> Tokenizer:
        return Tokenizer.load(path, self._choice.special_tokens, self._choice.append_special_tokens)

    def check(self) -> None:
        """Raise SettingsError if the tokenizer that is named cannot be used, or is not as the settings say.

        A tokenizer that is trained is ours: while its file is absent, settings for a tokenizer from elsewhere are
        refused.
        """
        given = self._given_path
        if given is not None and self.path.exists():
            _ = self.tokenizer
            return
        named = [f'special_tokens.{role}' for role in self._choice.special_tokens]
        for name in named + ['append_special_tokens'] * self._choice.append_special_tokens:
            raise SettingsError(
                f'data.{name} is for a tokenizer that one has, but there is none at {given}: check the path'
                if given
                else f'data.{name} is for a tokenizer that one has; name it in data.tokenizer_path, or leave it out'
            )
        if given is not None and given.suffix == '.json':
            raise SettingsError(
                f'there is no tokenizer at {given}, and none is trained there: what is trained is a SentencePiece '
                'model, whose name ends in .model; check the path'
            )

    def ensure(self) -> None:
        """Train the tokenizer where its file is absent; of several processes one does, and the others wait."""
        path = self.path
        if path.exists():
            return
        self.check()
        lock = paths.tokenizers() / f'{path.name}.lock'
        with only_one(lock):
            if not path.exists():
                self.train()

    def train(self) -> Path:
        """Train a tokenizer, whose file must be absent.

        Returns:
            Its path.
        """
        self._tokenizer = None
        path = self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(
            self._texts(), path, self._choice.n_vocab, self._choice.coverage, fold_text=self._choice.fold_text
        )
        return path

    def use(self, data: bytes, unpack: Callable[[], Path]) -> None:
        """Use the tokenizer that a checkpoint holds.

        Args:
            data: Its bytes.
            unpack: Writes them to a file in the cache, named by its hash, and returns its path.

        Raises:
            ValueError: It is damaged, or data.tokenizer_path is the file of another one.
        """
        given = self._given_path
        if given is not None and given.exists() and self._read(given).data != data:
            raise SettingsError(
                f'{given} is not the tokenizer that the checkpoint was trained with; point data.tokenizer_path to that '
                'one, or leave it out: the checkpoint has it inside'
            )
        Tokenizer.from_bytes(data)  # a damaged one never reaches the cache
        path = unpack()
        if self._tokenizer is not None and self._tokenizer.data != data:
            raise ValueError(f'the data was prepared with {self.path}, but the checkpoint holds {path}')
        self._saved_path = path
