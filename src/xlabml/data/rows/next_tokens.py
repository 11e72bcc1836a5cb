"""Formats of packed rows: a token view between the corpus and the plan; `NextTokens` is the plain one."""

from abc import abstractmethod
from typing import ClassVar

from xlabml.batches import TokenTargets
from xlabml.data.corpus import Corpus

from .formats import Format, Reading
from .packed import Rows
from .plans import open_plan
from .token_views import NextTokenView, TokenView


class RowFormat(Format):
    """The base of formats whose examples are rows that `data.plan` fills with the token sequences of documents.

    Attributes:
        is_causal: Whether a target is the token after its input, which a network must not see beforehand; else it
            stands in the place of its input.
    """

    targets = TokenTargets
    unused: ClassVar[tuple[str, ...]] = ('batch_groups',)
    is_causal: ClassVar[bool] = True

    @abstractmethod
    def view(self, corpus: Corpus, stage: str, pass_index: int, reading: Reading) -> TokenView:
        """The token sequences of the documents, for a stage (train, val, test, predict) and a pass of it."""

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> Rows:
        view = self.view(corpus, stage, pass_index, reading)
        # Where windows overlap, a target counts in each when training, else in the first one only.
        plan = open_plan(reading.plan, corpus, split, stage != 'train', reading.folder, view=view)
        return Rows(corpus, plan, reading.tokenizer, view)


class NextTokens(RowFormat):
    """Rows of whole texts, each token to be predicted from those before it: a language model's examples."""

    def view(self, corpus: Corpus, stage: str, pass_index: int, reading: Reading) -> TokenView:
        return NextTokenView(corpus, reading.tokenizer)
