"""Scalar products of vectors that are read in runs."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Chunk, Floats
from treadle.native import elements

__all__ = [
    "Doubles",
    "cosines",
    "gram",
    "gram_of_columns",
    "gram_of_deltas",
    "gram_of_rows",
    "norms",
]

Doubles = npt.NDArray[np.float64]


def gram_of_rows(vectors: Floats, width: int) -> Doubles:
    """Return the products ⟨v_i, v_j⟩ of rows [vectors, vectors, rows], added up in float64.

    Args:
        vectors: [vectors, elements].
        width: Elements of a row.
    """
    wide = vectors.astype(np.float64).reshape(len(vectors), -1, width)
    found = np.empty((len(wide), len(wide), wide.shape[1]))
    for i, left in enumerate(wide):
        for j, right in enumerate(wide[: i + 1]):
            # Not a matrix product: its order of summation may depend on the number of threads.
            found[i, j] = found[j, i] = np.einsum("rn,rn->r", left, right)
    return found


def gram(runs: Iterable[Sequence[Floats] | Floats]) -> Doubles:
    """Return the products ⟨v_i, v_j⟩ of vectors [vectors, vectors] read in runs, in their order."""
    return _gram((run, None) for run in runs)


def gram_of_deltas(chunks: Iterable[Chunk]) -> Doubles:
    """Return the products of task vectors [models, models]; the chunks stay as they are."""
    return _gram((chunk.models, chunk.base) for chunk in chunks)


def _gram(runs: Iterable[tuple[Sequence[Floats] | Floats, Floats | None]]) -> Doubles:
    found = None
    for run, base in runs:
        if found is None:
            found = np.zeros((len(run), len(run)))
        elements.gram(run, found, base)
    assert found is not None, "a tensor without elements has no products"
    return found + np.tril(found, -1).T


def gram_of_columns(runs: Iterable[tuple[int, Floats]], num_columns: int) -> Doubles:
    """Return the products of columns [vectors, vectors, columns], added up in float64.

    Args:
        runs: The first place of each run [vectors, elements] in the flattened tensor, and the run.
        num_columns: Elements of a slice along the first dimension.
    """
    found: Doubles | None = None
    for first, run in runs:
        if found is None:
            found = np.zeros((len(run), len(run), num_columns))
        wide = run.astype(np.float64)
        for i, left in enumerate(wide):
            for j, right in enumerate(wide):
                _add_slices(found[i, j], left * right, first)
    assert found is not None, "a tensor without elements has no columns"
    return found


def _add_slices(totals: Doubles, values: Doubles, first: int) -> None:
    """Add each value to the total of its column, whole slices at once."""
    columns, start = totals.size, 0
    while start < values.size:
        column = (first + start) % columns
        whole = (values.size - start) // columns * columns if column == 0 else 0
        if whole:
            totals += values[start : start + whole].reshape(-1, columns).sum(axis=0)
            start += whole
        else:
            stop = min(values.size, start + columns - column)
            totals[column : column + stop - start] += values[start:stop]
            start = stop


def norms(products: Doubles) -> Doubles:
    """Return the norms ‖v_i‖ from a Gram matrix [vectors, vectors, ...]."""
    found: Doubles = np.sqrt(np.einsum("ii...->i...", products))
    return found


def cosines(products: Doubles, tiny: float) -> Doubles:
    """Return the cosines of all pairs; norms up to `tiny` count as one.

    Args:
        products: A Gram matrix [vectors, vectors, ...].
        tiny: The norm below which a vector has no direction.
    """
    sizes = norms(products)
    sizes = np.where(sizes > tiny, sizes, 1.0)
    return np.clip(products / (sizes[:, None] * sizes[None, :]), -1.0, 1.0)
