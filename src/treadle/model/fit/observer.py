"""Who watches a training while it runs: told after every step, it changes nothing."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from treadle.core.errors import SettingsError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Observer", "TensorBoard"]

_FLUSH_SECONDS = 5
"""A killed run loses no more than this of its curves."""


class Observer(Protocol):
    """A function that is told what a training shows."""

    def __call__(self, num_done: int, values: Mapping[str, float]) -> None:
        """Take values by name, once `num_done` updates are done."""


class TensorBoard:
    """Writes a training's curves as event files, for `tensorboard --logdir FOLDER`.

    A run that goes on after a crash goes on in its curves: what was written of steps that are
    taken again is left out by the reader. Use it as a context, or call `close`.

    Args:
        folder: Where the event files lie, one folder for each run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._writer: SummaryWriter | None = None
        _writer_class()  # an extra that is missing is said before the training

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, num_done: int, values: Mapping[str, float]) -> None:
        """Write values, at the step `num_done`."""
        if self._writer is None:
            self._writer = _writer_class()(
                str(self._folder), purge_step=num_done, flush_secs=_FLUSH_SECONDS
            )
        for name, value in values.items():
            self._writer.add_scalar(name, value, num_done)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def _writer_class() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            f"Curves for TensorBoard need its package ({error}); run: "
            f"pip install 'treadle[tensorboard]'"
        ) from error
    return SummaryWriter
