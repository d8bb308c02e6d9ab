"""Pages broken into planes, for texts whose heads keep different entries."""

import numpy as np
import numpy.typing as npt

from treadle.runtime.cache.pages import PagePool

__all__ = ["PlanePool"]

Planes = npt.NDArray[np.int64]


class PlanePool:
    """Hands out planes; each has one holder.

    A page is broken when its first plane is taken and goes back to the pool of pages when the last
    one is free again. Planes of the page with the fewest free ones are taken first, so that others
    become whole.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool, self.per_page = pool, pool.store.num_heads
        self._free: dict[int, list[int]] = {}
        self.broken: set[int] = set()
        """The pages that stand here."""
        self.num_held = self.most_held = 0
        """Planes that are held now, and were at once at most."""

    @property
    def num_free(self) -> int:
        """The free planes of broken pages."""
        return sum(map(len, self._free.values()))

    def pages_for(self, count: int) -> int:
        """Return how many pages must be broken to hand out `count` planes."""
        return max(0, -(-(count - self.num_free) // self.per_page))

    def allocate(self, count: int) -> Planes:
        """Return `count` planes.

        Raises:
            CapacityError: Too few pages are free.
        """
        for page in self._pool.allocate(self.pages_for(count)):
            self.broken.add(page)
            self._free[page] = self._pool.store.planes_of(page).tolist()[::-1]
        found: list[int] = []
        for page in sorted(self._free, key=lambda page: len(self._free[page])):
            own = self._free[page]
            while own and len(found) < count:
                found.append(own.pop())
            if not own:
                del self._free[page]
            if len(found) == count:
                break
        self.num_held += count
        self.most_held = max(self.most_held, self.num_held)
        return np.asarray(found, np.int64)

    def release(self, planes: Planes) -> None:
        """Take planes back."""
        self.num_held -= len(planes)
        pages = self._pool.store.pages_of(planes)
        for plane, page in zip(planes.tolist(), pages.tolist(), strict=True):
            own = self._free.setdefault(page, [])
            is_held = page in self.broken and plane not in own
            assert is_held, "a free plane cannot be released"
            own.append(plane)
            if len(own) == self.per_page:
                del self._free[page]
                self.broken.remove(page)
                self._pool.release([page])
