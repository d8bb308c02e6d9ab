"""A sliding window for each query head, as mixtures of sparse attention (MoA) have them."""

from collections.abc import Sequence

from treadle.core.errors import SettingsError
from treadle.runtime.typed import whole

__all__ = ["HeadWindows", "checked", "kv_windows", "layer_windows"]

HeadWindows = Sequence[Sequence[int | None] | None]
"""[layers][heads]: how many tokens a query head sees, itself among them (None: all that the layer's
rows may see, without a window); or None for a layer that keeps its own window."""
Window = int | None
_MOST = 2**31 - 1
"""No text is longer than that, and the kernel counts in 32 bits."""
Windows = tuple[tuple[Window, ...] | None, ...]


def checked(windows: HeadWindows, heads: Sequence[int]) -> Windows:
    """Return windows as they are kept.

    Args:
        windows: As they were given.
        heads: Query heads of each layer.

    Raises:
        SettingsError: They are not one for each head of each layer, or not at least 1.
    """
    is_nested = isinstance(windows, Sequence) and all(
        layer is None or (isinstance(layer, Sequence) and not isinstance(layer, str))
        for layer in windows
    )
    if not is_nested:
        raise SettingsError(
            f"Found head windows {windows!r:.80}; give a list for each layer with a window, or "
            f"None, for each query head, or None for the layer."
        )
    found = [None if layer is None else tuple(layer) for layer in windows]
    sizes = [
        heads[n] if layer is None else len(layer) for n, layer in enumerate(found[: len(heads)])
    ]
    if len(found) != len(heads) or sizes != list(heads):
        raise SettingsError(
            f"Found head windows for {sizes} heads in {len(found)} layers, expected "
            f"{list(heads)}; give each query head of each layer a window, or None."
        )
    return tuple(
        None
        if layer is None
        else tuple(
            None if w is None else min(_MOST, whole(f"windows[{number}][{head}]", w, 1))
            for head, w in enumerate(layer)
        )
        for number, layer in enumerate(found)
    )


def kv_windows(layer: Sequence[Window], kv_heads: int) -> tuple[Window, ...]:
    """Return the window of each KV head: what the widest of its query heads sees."""
    group = len(layer) // kv_heads
    return tuple(_widest(layer[i * group : (i + 1) * group]) for i in range(kv_heads))


def layer_windows(windows: Windows, own: Sequence[Window]) -> tuple[Window, ...]:
    """Return the window of each layer: what the widest of its heads sees; `own` are the model's."""
    return tuple(
        window if layer is None else _widest(layer)
        for layer, window in zip(windows, own, strict=True)
    )


def _widest(windows: Sequence[Window]) -> Window:
    found = [window for window in windows if window is not None]
    return max(found) if len(found) == len(windows) else None
