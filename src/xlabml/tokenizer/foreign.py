"""The base class of tokenizers of other libraries: the file's vocabulary, and special tokens appended to it."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from .base import Tokenizer
from .packed import Packed
from .special import SpecialTokens


class ForeignTokenizer(Tokenizer):
    """A tokenizer that another library trained."""

    _n_file: int  # ids of the file; the appended ones follow

    def _set_file(self, file: bytes, name: str, special: SpecialTokens, n_file: int) -> None:
        """Set the attributes, once the library has opened the file."""
        self._set_data(Packed(self.kind, special, file).pack(), name)
        self._n_file = n_file
        self.appended = special.appended
        self.special_ids = {role: self[piece] for role, piece in special.pieces.items()}

    @classmethod
    @abstractmethod
    def read(
        cls, file: bytes, name: str, named: Mapping[str, str], append: bool, configured: Mapping[str, str]
    ) -> 'ForeignTokenizer':
        """Read the file of another library, and find its special tokens.

        Args:
            file: Its bytes.
            name: Its name in error messages.
            named: Special tokens that the user names, by role.
            append: Whether missing special tokens are appended to its vocabulary.
            configured: Special tokens that the files beside it name, by role.
        """

    def __len__(self) -> int:
        return self._n_file + len(self.appended)

    def _find(self, piece: str) -> int | None:
        if piece in self.appended:
            return self._n_file + list(self.appended).index(piece)
        return self._find_in_file(piece)

    @abstractmethod
    def _find_in_file(self, piece: str) -> int | None: ...

    def _piece(self, id: int) -> str:
        return self._piece_of_file(id) if id < self._n_file else self.appended[id - self._n_file]

    @abstractmethod
    def _piece_of_file(self, id: int) -> str: ...

    def _decode(self, ids: Iterable[int]) -> str:
        return self._text(self._speaking(ids))

    def _speaking(self, ids: Iterable[int]) -> list[int]:
        """The ids that stand for text.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        kept = []
        for id in ids:
            self._check_id(id)
            if not self._is_silent(id):
                kept.append(int(id))
        return kept

    @abstractmethod
    def _is_silent(self, id: int) -> bool:
        """Whether the token is decoded to nothing."""

    @abstractmethod
    def _text(self, ids: list[int]) -> str: ...
