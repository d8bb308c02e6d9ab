"""What must be known of a drafter that is a model itself, to open it."""

from typing import Protocol

__all__ = ["DraftModelSettings"]


class DraftModelSettings(Protocol):
    """Which model drafts, and how."""

    @property
    def path(self) -> str:
        """Of the drafting model."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Those that are skipped where the model drafts for itself."""

    @property
    def weights(self) -> str:
        """How it is held."""

    @property
    def most_tokens(self) -> int:
        """Of a draft."""

    @property
    def verification(self) -> str:
        """Of sampled answers."""

    @property
    def cache_tokens(self) -> int:
        """Tokens of its own cache."""
