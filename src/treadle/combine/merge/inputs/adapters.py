"""LoRA adapters as inputs: the weights that a model has with its adapter, read in runs."""

import numpy as np

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.sources import CHUNK_ELEMENTS, TensorSource
from treadle.core.checkpoint import TensorInfo
from treadle.core.errors import CheckpointError
from treadle.model.adapters import Adapter, Factors
from treadle.native import elements

__all__ = ["Adapted", "AdapterSource"]


class AdapterSource(Adapter):
    """A LoRA adapter that changes the tensors of a merge's input."""

    def applied(self, name: str, source: TensorSource) -> TensorSource:
        """Return a tensor with the adapter's change; the same source if there is none.

        Raises:
            CheckpointError: The change has another shape than the tensor.
        """
        if name in self.replacements:
            self.require_shape(name, source.shape, "the model")
            source = _Replaced(self, self.replacements[name], source.dtype)
        if name in self.changes:
            self.require_shape(name, source.shape, "the model")
            source = Adapted(source, self, self.changes[name])
        return source


class Adapted(TensorSource):
    """A weight with its change W + s * B @ A, in float32; a read takes one run beside `target`."""

    def __init__(self, source: TensorSource, adapter: AdapterSource, factors: Factors) -> None:
        self.shape, self.dtype = source.shape, source.dtype
        self._source, self._adapter, self._factors = source, adapter, factors

    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`."""
        self._source.read(first, target)
        left, right = self._left_and_right()
        width = self.shape[1]
        # Whole rows at once, as many as fit a run; a cut row at either end goes alone.
        step = max(1, CHUNK_ELEMENTS // width)
        position = first
        while position < first + target.size:
            row, column = divmod(position, width)
            remaining = first + target.size - position
            columns = min(width - column, remaining)
            rows = 1 if columns < width else min(step, remaining // width)
            factor = left[row : row + rows].astype(np.float32) * np.float32(self._factors.scale)
            with np.errstate(over="ignore", invalid="ignore"):  # found below, with its name
                change = factor @ right[:, column : column + columns]
            target[position - first :][: change.size] += change.reshape(-1)
            position += change.size
        if not elements.are_finite(target):
            raise CheckpointError(
                f"The adapter factors '{self._factors.left.name}' and "
                f"'{self._factors.right.name}' in '{self._factors.left.file}' make weights that "
                f"are not finite; repair or retrain the adapter, or leave it out."
            )

    def _left_and_right(self) -> tuple[Floats, Floats]:
        pair = [self._adapter.read(info) for info in (self._factors.left, self._factors.right)]
        left, right = (view.T if self._factors.is_transposed else view for view in pair)
        # `left` is widened by rows in `read`; `right` is small, a rank times a row.
        return left, right.astype(np.float32, copy=False)


class _Replaced(TensorSource):
    """A tensor that the adapter holds as a whole; it counts as stored in the model's dtype."""

    def __init__(self, adapter: AdapterSource, info: TensorInfo, dtype: str) -> None:
        self.shape, self.dtype = info.shape, dtype
        self._adapter, self._info = adapter, info

    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`."""
        target[:] = self._adapter.read(self._info).reshape(-1)[first : first + target.size]
        if not elements.are_finite(target):
            raise CheckpointError(
                f"Tensor '{self._info.name}' in '{self._info.file}' holds numbers that are not "
                f"finite; repair or retrain the adapter, or leave it out."
            )
