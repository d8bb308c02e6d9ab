"""What routers take: a list of texts."""

from collections.abc import Sequence

from treadle.core.errors import DataError

__all__ = ["require_texts"]


def require_texts(texts: Sequence[str]) -> None:
    """Check that there is a list of texts, and not one text.

    Raises:
        DataError: There is something else.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"Found {type(texts).__name__} for a router, expected a list of texts; give [TEXT]."
        )
