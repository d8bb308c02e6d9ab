"""Ids that stand more than once: those made of texts are told apart, the others are counted."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.table.unnamed import UNNAMED
from treadle.text.curate.keys import pairs_of_equal_keys

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Repeats", "repeats_of"]

Integers = npt.NDArray[np.int64]


class Repeats(NamedTuple):
    """Documents whose id an earlier one has, in rising order."""

    unnamed: Integers
    """Those whose id was made of their text, because they have none."""
    occurrence: Integers
    """The how manieth each of them is of its text: 2 or more."""
    num_named: int
    """How many others there are: their ids were given twice."""

    def told_apart(self, ids: list[str], documents: Integers) -> list[str]:
        """Return the ids of documents with the occurrence behind those that are made of texts."""
        if not len(self.unnamed):
            return ids
        places = np.searchsorted(self.unnamed, documents)
        places[places == len(self.unnamed)] = 0
        found = list(ids)
        for row in np.flatnonzero(self.unnamed[places] == documents).tolist():
            found[row] = f"{ids[row]}-{self.occurrence[places[row]]}"
        return found

    def renamed(self, table: "pa.Table", first: int) -> "pa.Table":
        """Return the documents from number `first` on with their ids told apart."""
        import pyarrow as pa

        low, high = np.searchsorted(self.unnamed, [first, first + len(table)])
        if low == high:
            return table
        ids = table["id"].to_pylist()
        for document, count in zip(self.unnamed[low:high], self.occurrence[low:high], strict=True):
            ids[document - first] += f"-{count}"
        return table.set_column(0, "id", pa.array(ids, pa.large_string()))


def repeats_of(id_hash: npt.NDArray[np.uint64], ids: Callable[[Integers], list[str]]) -> Repeats:
    """Find the repeated ids by their hashes; `ids` gives those of documents in rising order."""
    left, right = pairs_of_equal_keys(id_hash)
    members = np.union1d(left, right)
    seen: dict[str, int] = {}
    found: list[tuple[int, int]] = []
    num_named = 0
    for document, name in zip(members.tolist(), ids(members), strict=True):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1 and name.startswith(UNNAMED):
            found.append((document, seen[name]))
        num_named += seen[name] > 1 and not name.startswith(UNNAMED)
    unnamed, occurrence = np.array(found, np.int64).reshape(-1, 2).T
    return Repeats(unnamed.copy(), occurrence.copy(), num_named)
