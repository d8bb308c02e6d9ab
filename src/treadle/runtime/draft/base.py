"""The protocol of a drafter: texts go in, what may follow each comes out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, NamedTuple

from treadle.core.method import Method
from treadle.runtime.draft.model_settings import DraftModelSettings
from treadle.runtime.draft.proposal import Draft, DraftText, Floats, Ints

__all__ = ["DraftTarget", "Drafter", "Drafting"]


class Drafting(ABC):
    """What a drafter knows in one engine; may be asked and told by one thread at a time."""

    wants_logits: ClassVar[bool] = False
    """Whether `learn` is to be called."""
    is_costly: ClassVar[bool] = False
    """Whether each token of a draft takes time that must pay: then few may be asked for."""
    source: ClassVar[str] = ""
    """Of the drafts of a costly one."""
    most_tokens: int = 64
    """Of a draft."""
    verification: str = "coupled"
    """Of sampled tokens: rejection or block where drafts come with their laws."""

    @abstractmethod
    def propose(self, texts: Sequence[DraftText], most: int) -> list[Draft]:
        """Return for each text at most `most` tokens that may follow."""

    # What a drafter does not learn from costs it nothing.
    def read(self, text: DraftText) -> None:  # noqa: B027
        """Take in a text whose prompt is still computed, so that its first draft comes soon."""

    def learn(self, group: Hashable, tokens: Ints, logits: Floats) -> None:  # noqa: B027
        """Learn the logits [rows, vocab] behind tokens [rows], chosen or not."""

    def num_unread(self, text: DraftText) -> int:
        """Return how many tokens must be read before a text's first draft, where that is costly."""
        return 0

    def finish(self, text: DraftText) -> None:  # noqa: B027
        """Learn that a text is written, and forget what was noted for it alone."""


class DraftTarget(NamedTuple):
    """The model that is drafted for."""

    vocab_size: int
    open_model: "Callable[[DraftModelSettings], Drafting] | None" = None
    """Opens a drafter that is a model itself."""


class Drafter(Method, ABC):
    """Guesses what follows. Whatever it proposes changes the time of answers, never the answers."""

    @abstractmethod
    def open(self, target: DraftTarget) -> Drafting | None:
        """Return what will know the texts of an engine; None: nothing is to be drafted."""
