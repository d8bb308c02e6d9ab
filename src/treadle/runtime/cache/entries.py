"""What one text keeps in the cache where each layer and KV head keeps its own entries."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.cache.units import UNIT, UnitForm

__all__ = ["HeadEntries"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(eq=False)
class HeadEntries:
    """The entries and planes of every KV head, layer after layer.

    Entry i of a head stands in its plane i // page_size at offset i % page_size. The rows of the
    text since entries were dropped last are the last entries, in their order; the order of those
    before means nothing, their positions stand beside them.

    Where entries are packed, `num_units` units of 256 come first, and what is said here of entries
    and planes holds of those behind them; all heads have the same positions then.
    """

    lengths: Ints
    """[heads] entries."""
    counts: Ints
    """[heads] planes."""
    planes: Ints
    """[heads, most] of which a head has its first `counts`; 0 beyond them."""
    num_fresh: int = 0
    """Entries of each head that came since some were dropped last, or since something was noted of
    others that cannot be taken back: so many can be rolled back."""
    queries: npt.NDArray[np.float32] | None = None
    """[heads of all layers, dim + dim * dim] sums of the text's queries and of their products,
    where its policy asks for them."""
    num_units: int = 0
    form: UnitForm | None = None
    """How units lie in planes, where there are any."""
    first_packed: int = 0
    """The position of the first token that is packed."""

    @classmethod
    def empty(cls, num_heads: int) -> "HeadEntries":
        """Return what a text has before its first token."""
        nothing = np.zeros(num_heads, np.int64)
        return cls(nothing, nothing.copy(), np.zeros((num_heads, 0), np.int64))

    @property
    def longest(self) -> int:
        """The entries of the head that has most."""
        return int(self.lengths.max())

    @property
    def num_planes(self) -> int:
        """The planes of all heads."""
        return int(self.counts.sum())

    @property
    def held(self) -> Ints:
        """The planes of all heads, head after head."""
        found: Ints = self.planes[self._holds()]
        return found

    @property
    def num_packed(self) -> int:
        """The entries of each head that are packed."""
        return UNIT * self.num_units

    @property
    def packed(self) -> tuple[int, int, int]:
        """Its units, their bits and the position of the first packed token."""
        return self.num_units, 0 if self.form is None else self.form.bits, self.first_packed

    @property
    def unit_planes(self) -> int:
        """The planes of each head that hold units."""
        return 0 if self.form is None else self.form.num_planes * self.num_units

    def _holds(self) -> Bools:
        found: Bools = np.arange(self.planes.shape[1]) < self.counts[:, None]
        return found

    def missing(self, num_rows: int, page_size: int) -> Ints:
        """Return how many planes each head lacks to take `num_rows` more entries."""
        found: Ints = np.maximum(0, self._needed(num_rows, page_size) - self.counts)
        return found

    def _needed(self, num_rows: int, page_size: int) -> Ints:
        wide = -(-(self.lengths + num_rows - self.num_packed) // page_size)
        return np.asarray(wide + self.unit_planes, np.int64)

    def give(self, missing: Ints, planes: Ints) -> None:
        """Take as many new planes for each head as `missing` says."""
        before, self.counts = self._holds(), self.counts + missing
        most = int(self.counts.max())
        grown = np.zeros((len(self.counts), max(most, self.planes.shape[1])), np.int64)
        grown[:, : self.planes.shape[1]] = self.planes
        is_new = np.arange(grown.shape[1]) < self.counts[:, None]
        is_new[:, : before.shape[1]] &= ~before
        grown[is_new] = planes
        self.planes = grown

    def trim(self, page_size: int) -> Ints:
        """Let go of the planes that no entry needs, and return them."""
        needed = self._needed(0, page_size)
        is_spare = self._holds() & (np.arange(self.planes.shape[1]) >= needed[:, None])
        spare = self.planes[is_spare]
        self.planes[is_spare], self.counts = 0, np.minimum(self.counts, needed)
        self.planes = self.planes[:, : int(self.counts.max(initial=0))]
        return spare

    def positions(self, store: KeyValues) -> npt.NDArray[np.int32]:
        """Return the positions [heads, longest] of the entries; -1 beyond a head's last one."""
        longest = self.longest
        planes = self.planes[:, : -(-longest // store.page_size)]
        found = store.positions_of(planes).reshape(len(planes), -1)[:, :longest].copy()
        found[np.arange(longest) >= self.lengths[:, None]] = -1
        return found

    def scores(self, store: KeyValues) -> npt.NDArray[np.float32]:
        """Return what was noted of the entries [heads, longest]; 0 beyond a head's last one."""
        longest = self.longest
        planes = self.planes[:, : -(-longest // store.page_size)]
        found = store.scores_of(planes).reshape(len(planes), -1)[:, :longest].copy()
        found[np.arange(longest) >= self.lengths[:, None]] = 0
        return found

    def forget_scores(self, store: KeyValues) -> None:
        """Let the scores of all entries be 0 again."""
        store.write_scores(self.held, 0.0)

    def keep(self, is_kept: Bools, store: KeyValues) -> None:
        """Drop the entries that `is_kept` [heads, longest] does not name.

        Entries from the end fill the holes, so that few of them move.
        """
        exists = np.arange(is_kept.shape[1]) < self.lengths[:, None]
        is_kept = is_kept & exists
        left = is_kept.sum(axis=1)
        is_front = np.arange(is_kept.shape[1]) < left[:, None]
        # Each head has as many holes in front as kept entries behind; both in ascending order.
        size = store.page_size
        sources = self._slots(is_kept & ~is_front, size)
        store.move_in_arena(sources, self._slots(is_front & ~is_kept, size))
        self.lengths, self.num_fresh = left.astype(np.int64), 0

    def pack(self, sinks: int, form: UnitForm, store: KeyValues) -> Ints:
        """Pack the oldest 256 entries but for the first `sinks`; return the planes that this frees.

        Entries stand in the order of their positions, and stay so.
        """
        size, first = store.page_size, self.unit_planes
        own, rest = np.split(self.planes[:, first:], [UNIT // size], axis=1)
        most = -(-(UNIT + sinks) // size)
        keys, values = store.numbers_of(self.planes[:, first : first + most])
        moved = np.arange(sinks)
        into = self.planes[:, first + (UNIT + moved) // size] * size + moved % size
        store.move_in_arena(
            (self.planes[:, first + moved // size] * size + moved % size).ravel(), into.ravel()
        )
        chosen = slice(sinks, sinks + UNIT)
        store.write_unit(own[:, : form.num_planes], keys[:, chosen], values[:, chosen], form)
        units = self.planes[:, :first]
        self.planes = np.concatenate([units, own[:, : form.num_planes], rest], axis=1)
        self.counts = self.counts - (UNIT // size - form.num_planes)
        self.num_units, self.num_fresh = self.num_units + 1, 0
        self.form, self.first_packed = form, sinks
        return own[:, form.num_planes :].ravel()

    def _slots(self, chosen: Bools, page_size: int) -> Ints:
        head, entry = np.nonzero(chosen)
        found: Ints = self.planes[head, entry // page_size] * page_size + entry % page_size
        return found

    def add(self, num_rows: int) -> None:
        """Count `num_rows` more entries of each head, or fewer where rows are rolled back."""
        self.lengths, self.num_fresh = self.lengths + num_rows, self.num_fresh + num_rows
        assert self.num_fresh >= 0, "rows from before entries were dropped cannot be rolled back"

    def without(self, num_rows: int) -> "HeadEntries":
        """Return the same entries in the same planes, but for the last `num_rows` of each head."""
        queries = None if self.queries is None else self.queries.copy()
        other = HeadEntries(
            *(self.lengths, self.counts.copy(), self.planes.copy(), self.num_fresh, queries),
            *(self.num_units, self.form, self.first_packed),
        )
        other.add(-num_rows)
        return other
