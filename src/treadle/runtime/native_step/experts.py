"""Experts in the native step: their changes as C reads them, and the rows that take parts of them.

Rows of equal and of different mixtures run in one batch: an expert's rows are multiplied together,
whoever else they take a part of.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.errors import CheckpointError
from treadle.native.pointers import pointers
from treadle.native.pointers import structs as structs_of
from treadle.runtime.executor import Floats, Ints, StepRows
from treadle.runtime.linear.packed import Matrix
from treadle.runtime.linear.sparse import ExpertChanges, SparseMatrix
from treadle.runtime.native_step import structs

__all__ = ["ExpertCall", "NativeExperts", "TensorPlaces"]


class TensorPlaces:
    """Where the tensors of a model stand in the tables of step_model.h, by their names."""

    def __init__(self, num_layers: int, roles: Sequence[str]) -> None:
        self._roles = roles
        self.num_matrices = num_layers * len(roles) + 2
        self.num_vectors = num_layers * (structs.NUM_NORMS + len(roles)) + 2
        self.matrices: dict[str, list[tuple[int, tuple[int, int]]]] = {}
        """Name -> places and shape; a tied embedding is the head, too."""
        self.norms: dict[str, tuple[int, Floats]] = {}
        self.biases: dict[str, tuple[int, int]] = {}
        """Name -> place and length."""

    def add_matrix(self, layer: int, role: int, name: str, shape: tuple[int, int]) -> None:
        """Note a matrix of a layer, and its bias, which it may have."""
        self.matrices[name] = [(layer * len(self._roles) + role, shape)]
        place = layer * (structs.NUM_NORMS + len(self._roles)) + structs.NUM_NORMS + role
        self.biases[name.removesuffix("weight") + "bias"] = place, shape[0]

    def add_norm(self, layer: int, number: int, name: str, values: Floats | None) -> None:
        """Note a norm of a layer, where it has it."""
        if values is not None:
            place = layer * (structs.NUM_NORMS + len(self._roles)) + number
            self.norms[name] = place, values

    def add_end(self, number: int, name: str, matrix: Matrix) -> None:
        """Note what stands before the layers (0) or is the head (1)."""
        found = self.num_matrices - 2 + number, (matrix.rows, matrix.cols)
        self.matrices.setdefault(name, []).append(found)

    def add_final(self, number: int, name: str, values: Floats | None) -> None:
        """Note the norm behind the layers (0), or its bias (1)."""
        if values is not None:
            self.norms[name] = self.num_vectors - 2 + number, values


class ExpertCall(NamedTuple):
    """The experts of one step, as the last fields of `structs.Rows` take them."""

    experts: "ctypes.Array[ctypes.c_void_p] | None"
    shares: structs.Shares
    wanted_shares: structs.Shares
    vectors: "ctypes.Array[ctypes.c_void_p] | None"


class NativeExperts:
    """The experts of a native step, and the mixtures of them by slot.

    Args:
        places: Of the model's tensors.
        lanes: Rows that C multiplies at once.
    """

    def __init__(self, places: TensorPlaces, lanes: int) -> None:
        self._places, self._lanes = places, lanes
        self._changes: list[ExpertChanges] = []
        self._tables: ctypes.Array[ctypes.c_void_p] | None = None
        self._weights = np.zeros((1, 0), np.float32)
        """[slots + 1, experts]; the last row, which -1 means, is of the model itself."""
        self._vectors: dict[int, ctypes.Array[ctypes.c_void_p] | None] = {}
        self._last: tuple[tuple[bytes, ...], ExpertCall] | None = None
        """Of the last step: while answers are written, the next one has the same rows."""

    def hold(self, experts: Sequence[ExpertChanges]) -> None:
        """Take the experts in, once.

        Raises:
            CheckpointError: One changes a tensor that the model does not have, or of another shape.
        """
        tables = [self._table(expert) for expert in experts]
        for expert in experts:
            for name, vector in expert.vectors.items():
                self._require_vector(name, vector)
        self._changes, self._tables = list(experts), pointers(tables)
        self._weights = np.zeros((1, len(experts)), np.float32)

    def mix(self, slot: int, weights: Floats) -> None:
        """Let rows of a slot take parts of the experts [experts]."""
        missing = slot + 2 - len(self._weights)
        if missing > 0:
            zeros = np.zeros((missing, len(self._changes)), np.float32)
            self._weights = np.concatenate([self._weights, zeros])
        self._weights[slot], self._last = weights, None
        self._vectors[slot] = self._mixed_vectors(weights)

    def holds(self, slot: int) -> bool:
        """Say whether a slot is a mixture's."""
        return slot in self._vectors

    def remove(self, slot: int) -> None:
        """Let a mixture go."""
        self._weights[slot], self._last = 0, None
        del self._vectors[slot]

    def call(self, rows: StepRows) -> ExpertCall:
        """Return what one step needs of its rows' mixtures."""
        if rows.adapters is None or not any(map(self.holds, rows.adapters.tolist())):
            return ExpertCall(None, structs.Shares(), structs.Shares(), None)
        key = tuple(part.tobytes() for part in (rows.adapters, rows.row_starts, rows.wanted))
        if self._last is None or self._last[0] != key:
            self._last = key, self._made(rows.adapters, rows)
        return self._last[1]

    def _made(self, slots: Ints, rows: StepRows) -> ExpertCall:
        of_segments = np.where(slots < len(self._weights) - 1, slots, -1)
        of_rows = np.repeat(of_segments, np.diff(rows.row_starts)).astype(np.int32)
        vectors = None
        if any(self._vectors.get(slot) is not None for slot in of_segments.tolist()):
            vectors = pointers([self._vectors.get(slot) for slot in of_rows.tolist()])
        wanted = self._shares(of_rows[rows.wanted])
        return ExpertCall(self._tables, self._shares(of_rows), wanted, vectors)

    def _shares(self, slots: Ints) -> structs.Shares:
        """Return who takes how much of each expert, in groups that C multiplies at once."""
        taken = self._weights[slots]
        groups, rows, num_before = [], [], 0
        for expert in range(taken.shape[1]):
            own = np.flatnonzero(taken[:, expert])
            rows.append(own)
            for first in range(0, len(own), self._lanes):
                count = min(self._lanes, len(own) - first)
                groups.append(structs.GroupRows(expert, num_before + first, count))
            num_before += len(own)
        if not groups:
            return structs.Shares()
        experts = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        places = np.concatenate(rows)
        return structs.Shares(
            structs_of(structs.GroupRows, groups),
            places.astype(np.int32),
            np.ascontiguousarray(taken[places, experts], np.float32),
            len(groups),
        )

    def _table(self, expert: ExpertChanges) -> "ctypes.Array[structs.Sparse]":
        parts = [structs.Sparse() for _ in range(self._places.num_matrices)]
        for name, change in expert.matrices.items():
            for place, shape in self._places.matrices.get(name, [(-1, (0, 0))]):
                _require_shape(name, change.shape, shape)
                parts[place] = _struct(change)
        return structs_of(structs.Sparse, parts)

    def _require_vector(self, name: str, vector: Floats) -> None:
        if name in self._places.norms:
            _require_shape(name, vector.shape, self._places.norms[name][1].shape)
            return
        _, length = self._places.biases.get(name, (-1, 0))
        _require_shape(name, vector.shape, (length,))

    def _mixed_vectors(self, weights: Floats) -> "ctypes.Array[ctypes.c_void_p] | None":
        """Return norms, and changes of biases, as a mixture has them; None where it has none."""
        found: list[Floats | None] = [None] * self._places.num_vectors
        names = {name for expert in self._changes for name in expert.vectors}
        for name in names:
            change = sum(
                (
                    weight * expert.vectors[name]
                    for weight, expert in zip(weights, self._changes, strict=True)
                    if name in expert.vectors
                ),
                start=np.zeros((), np.float32),
            )
            if name in self._places.norms:
                place, own = self._places.norms[name]
                found[place] = np.ascontiguousarray(own + change, np.float32)
            else:
                place, length = self._places.biases[name]
                found[place] = np.ascontiguousarray(np.broadcast_to(change, length), np.float32)
        return pointers(found) if names and weights.any() else None


def _require_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise CheckpointError(
            f"An expert of the bundle changes '{name}' of shape {list(found)}, but the model "
            f"beside it has {list(wanted)} there; copy the bundle again."
        )


def _struct(change: SparseMatrix) -> structs.Sparse:
    is_half = change.values.dtype == np.float16
    values = (None, change.values.view(np.uint16)) if is_half else (change.values, None)
    return structs.Sparse(change.shape[0], change.scale, change.starts, change.columns, *values)
