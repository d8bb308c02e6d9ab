"""What a model's masks let its rows see, read from the functions that make them.

The models' masks say what a layer sees; the window that some pass to their attention beside them is
for kernels that take no mask, and not all do.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from treadle.core.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch

__all__ = ["Masks", "noted_masks"]

Seen = Callable[[int, int, "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""From an item, a head, rows and slots to whether rows see slots."""


class Masks:
    """The masks that a model asked for in one call, each by the tensor that stands in for it."""

    def __init__(self) -> None:
        self._made: list[tuple[torch.Tensor, Seen, int | None]] = []

    def note(self, seen: Seen, width: int | None) -> "torch.Tensor":
        """Return what the model gives its attention in place of the mask.

        Args:
            seen: The function of the mask.
            width: In tokens, where it is a window or chunks.
        """
        import torch

        self._made.append((torch.zeros(1, 1, 1, 1), seen, width))
        return self._made[-1][0]

    def window(self, module: Any, given: Any, passed: int | None) -> int | None:
        """Return the window of a layer in tokens, or None if its rows see all before them.

        Args:
            module: The layer's attention.
            given: Its mask.
            passed: The window that it was called with.

        Raises:
            UnsupportedModelError: Its rows see something else.
        """
        if given is None:
            return passed
        for stand_in, seen, width in self._made:
            if given is stand_in:
                _require_causal(module, seen, width)
                return width
        raise UnsupportedModelError(
            f"{type(module).__name__} makes masks of its own, which pages do not know; run this "
            f"model with transformers."
        )


noted_masks: ContextVar[Masks | None] = ContextVar("noted_masks", default=None)
"""Where the masks of a call are noted; None: nobody asks."""


def _require_causal(module: Any, seen: Seen, width: int | None) -> None:
    """Check that rows see themselves and what stands less than `width` tokens before them.

    Raises:
        UnsupportedModelError: They do not.
    """
    import torch

    edges = {0} if width is None else {0, width, 2 * width, 3 * width}
    spots = torch.tensor(sorted({max(0, e + d) for e in edges for d in (-2, -1, 0, 1, 2, 5)}))
    rows, slots = spots[:, None], spots[None, :]
    expected = slots <= rows
    if width is not None:
        expected = expected & (rows - slots < width)
    try:
        found = seen(0, 0, rows, slots).expand_as(expected)
    except (IndexError, RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"What {type(module).__name__} sees follows from more than places in a text ({error}); "
            f"run this model with transformers."
        ) from error
    if not torch.equal(found, expected):
        row, slot = (int(spots[place]) for place in (found != expected).nonzero()[0])
        raise UnsupportedModelError(
            f"What {type(module).__name__} sees is neither all that stands before nor a sliding "
            f"window (of token {slot}, say, token {row} sees what pages would hide, or the other "
            f"way round); run this model with transformers."
        )
