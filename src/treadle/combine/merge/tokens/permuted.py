"""A tensor whose first dimension is the vocabulary, read in the order of another vocabulary."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.sources import CHUNK_ELEMENTS, TensorSource

__all__ = ["MEAN", "OWN_MEAN", "ZERO", "Permuted"]

MEAN, ZERO, OWN_MEAN = -1, -2, -3
"""Origins of a row that are no model: the mean of all models that have it, zeros, and the mean of
the model's own tokens (as Hewitt advises for new rows, https://nlp.stanford.edu/~johnhew)."""

Ids = npt.NDArray[np.int64]


class Permuted(TensorSource):
    """A model's tensor in the rows of the output; nothing is held but one mean row."""

    def __init__(
        self,
        own: int,
        sources: Mapping[int, TensorSource],
        origins: Ids,
        rows: Ids,
        permutations: Ids,
        num_tokens: int,
    ) -> None:
        """Take the tensor in all models that rows come from.

        Args:
            own: The model's index.
            sources: Index of a model -> its tensor.
            origins: For each row of the output, a model's index, or MEAN, ZERO or OWN_MEAN.
            rows: For each row of the output, the row in that model.
            permutations: [models, rows of the output] each model's row, or -1; for MEAN.
            num_tokens: How many rows OWN_MEAN is the mean of.
        """
        self.shape = (len(origins), *sources[own].shape[1:])
        self.dtype = sources[own].dtype
        self._sources, self._origins, self._rows = sources, origins, rows
        self._permutations, self._num_tokens = permutations, num_tokens
        self._width = prod(self.shape[1:])

    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`."""
        stop = first + target.size
        for row, last in self._runs(first // self._width, -(-stop // self._width)):
            begin, end = max(first, row * self._width), min(stop, last * self._width)
            self._read_run(row, begin - row * self._width, target[begin - first : end - first])

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield runs of output rows that lie one after the other in one model, or are no rows."""
        origins, rows = self._origins[first:last], self._rows[first:last]
        is_same = origins[1:] == origins[:-1]
        # A mean is one row: what `rows` holds there says nothing.
        is_next = ((origins[1:] >= 0) & (rows[1:] == rows[:-1] + 1)) | (origins[1:] == ZERO)
        breaks = np.flatnonzero(~(is_same & is_next)) + first + 1
        bounds = [first, *breaks.tolist(), last]
        yield from pairwise(bounds)

    def _read_run(self, row: int, offset: int, target: Floats) -> None:
        """Read a run of rows that begins with `row`, from an element of that row on."""
        origin = int(self._origins[row])
        if origin >= 0:
            self._sources[origin].read(int(self._rows[row]) * self._width + offset, target)
        elif origin == MEAN:
            self._read_mean(row, offset, target)
        else:
            target[:] = 0 if origin == ZERO else self._own_mean[offset : offset + target.size]

    def _read_mean(self, row: int, offset: int, target: Floats) -> None:
        owners = np.flatnonzero(self._permutations[:, row] >= 0).tolist()
        total = np.zeros(target.size, np.float64)
        for owner in owners:
            first = int(self._permutations[owner, row]) * self._width + offset
            self._sources[owner].read(first, target)
            total += target
        target[:] = total / len(owners)

    @cached_property
    def _own_mean(self) -> Floats:
        """The mean of the rows of all tokens, summed in float64."""
        total = np.zeros(self._width, np.float64)
        step = max(1, CHUNK_ELEMENTS // self._width)
        for row in range(0, self._num_tokens, step):
            rows = np.empty((min(step, self._num_tokens - row), self._width), np.float32)
            self.read(row * self._width, rows.reshape(-1))
            total += rows.sum(axis=0, dtype=np.float64)
        mean: Floats = (total / self._num_tokens).astype(np.float32)
        return mean
