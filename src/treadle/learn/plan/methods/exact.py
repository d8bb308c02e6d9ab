"""The smallest arena, by integer programming."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.learn.plan.base import Layout, Placed
from treadle.learn.plan.fitting import arena_of, by_size, fit, most_live
from treadle.learn.plan.replay import MemoryBlock


class Exact(Layout):
    """Say of each pair of blocks which lies below the other, and minimise the arena.

    For blocks i and j that are there together, one of two binaries is 1 (equations of the paper's
    layout program): o_i + z_i <= o_j + M·(1 - a_ij), o_j + z_j <= o_i + M·a_ij, with M the arena of
    best fit; the arena A >= o_i + z_i is minimised, A at least the most bytes live at a time. Only
    stretches of time in which best fit wastes bytes are programs at all: parts of time that no
    block spans are solved one by one, and a part whose best fit is tight needs no program. The
    solver is HiGHS. It counts branches, so that the same plan comes out of a slow machine.

    Paper: Steiner et al., "MODeL: memory optimizations for deep learning", ICML 2023.
    """

    name: ClassVar[str] = "exact"
    paper = Paper(
        "MODeL: Memory Optimizations for Deep Learning",
        2023,
        "https://proceedings.mlr.press/v202/steiner23a.html",
    )

    block_limit: Annotated[int, Field(ge=2)] = 60
    """Most blocks of a part that is solved; larger parts keep their best fit."""
    num_branches: Annotated[int, Field(ge=1)] = 2000
    """Nodes of the search after which the best layout so far is taken."""

    def place(self, blocks: Sequence[MemoryBlock], generator: np.random.Generator) -> Placed:
        """Return the offsets, part by part of time."""
        offsets = [0] * len(blocks)
        notes = []
        for part in _parts(blocks):
            inside = [blocks[i] for i in part]
            found = fit(inside, by_size(inside))
            least = most_live(inside)
            if arena_of(inside, found) > least:
                if len(part) > self.block_limit:
                    notes.append(
                        f"{len(part)} blocks are more than block_limit = {self.block_limit}: they "
                        f"keep their best fit."
                    )
                else:
                    solved = _solve(inside, found, least, self.num_branches)
                    found = solved.offsets
                    notes += [solved.note] if solved.note else []
            for index, low in zip(part, found, strict=True):
                offsets[index] = low
        return Placed(tuple(offsets), tuple(dict.fromkeys(notes)))


def _parts(blocks: Sequence[MemoryBlock]) -> list[list[int]]:
    """Return the blocks' indices, parted where none spans the time between two."""
    found: list[list[int]] = []
    until = -1
    for index in sorted(range(len(blocks)), key=lambda i: (blocks[i].start, i)):
        if blocks[index].start > until:
            found.append([])
        found[-1].append(index)
        until = max(until, blocks[index].end)
    return found


class _Solved(NamedTuple):
    offsets: tuple[int, ...]
    note: str


def _solve(
    blocks: Sequence[MemoryBlock], known: tuple[int, ...], least: int, num_branches: int
) -> _Solved:
    """Return the best layout that HiGHS finds, or the known one if that is no worse."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    num, arena = len(blocks), arena_of(blocks, known)
    unit = int(np.gcd.reduce([block.num_bytes for block in blocks]))
    sizes = [block.num_bytes // unit for block in blocks]
    most = arena // unit
    pairs = [
        (i, j)
        for i in range(num)
        for j in range(i)
        if blocks[i].start <= blocks[j].end and blocks[j].start <= blocks[i].end
    ]
    rows: list[tuple[dict[int, int], int]] = []  # coefficients, upper bound
    top = num + len(pairs)
    for k, (i, j) in enumerate(pairs):
        rows.append(({i: 1, j: -1, num + k: most}, most - sizes[i]))
        rows.append(({j: 1, i: -1, num + k: -most}, -sizes[j]))
    rows += [({i: 1, top: -1}, -sizes[i]) for i in range(num)]
    entries = [(r, c, v) for r, (row, _) in enumerate(rows) for c, v in row.items()]
    r, c, v = zip(*entries, strict=True)
    matrix = coo_array((v, (r, c)), shape=(len(rows), top + 1)).tocsr()
    goal = np.zeros(top + 1)
    goal[top] = 1
    low = np.zeros(top + 1)
    low[top] = -(-least // unit)
    high = np.array([most - z for z in sizes] + [1] * len(pairs) + [most])
    found = milp(
        goal,
        integrality=np.ones(top + 1),
        bounds=Bounds(low, high),
        constraints=LinearConstraint(matrix, -np.inf, [bound for _, bound in rows]),
        options={"node_limit": num_branches},
    )
    is_cut = found.status != 0
    note = f"HiGHS stopped after {num_branches} branches; the arena may not be the smallest."
    if found.x is None:
        return _Solved(known, note)
    below = [round(value) for value in found.x[num:top]]
    offsets = tuple(o * unit for o in _packed(sizes, pairs, below))
    better = offsets if arena_of(blocks, offsets) < arena else known
    return _Solved(better, note if is_cut else "")


def _packed(
    sizes: Sequence[int], pairs: Sequence[tuple[int, int]], below: Sequence[int]
) -> list[int]:
    """Return the lowest offsets that keep who lies below whom: free of the solver's rounding."""
    under: list[list[int]] = [[] for _ in sizes]
    for (i, j), is_below in zip(pairs, below, strict=True):
        under[j if is_below else i].append(i if is_below else j)
    offsets: dict[int, int] = {}

    def lowest(index: int) -> int:
        if index not in offsets:
            offsets[index] = max((lowest(o) + sizes[o] for o in under[index]), default=0)
        return offsets[index]

    return [lowest(index) for index in range(len(sizes))]
