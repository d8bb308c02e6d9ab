"""No drafts."""

from typing import ClassVar

from treadle.core.method import Control
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget

__all__ = ["Nothing"]


class Nothing(Drafter):
    """Draft nothing: one token for each pass over the weights."""

    name: ClassVar[str] = "none"
    paper = Control("Token by token, as without speculation: what drafting must beat.")

    def open(self, target: DraftTarget) -> Drafting | None:
        """Return None."""
        return None
