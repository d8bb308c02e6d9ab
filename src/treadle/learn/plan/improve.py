"""Making an order better where it costs most: cuts that move tasks, exact search in pieces."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from treadle.learn.plan.bounds import Reach
from treadle.learn.plan.cuts import LeastCut, least_cut
from treadle.learn.plan.downsets import Piece, Solution, best_order, piece_of
from treadle.learn.plan.problem import Problem
from treadle.learn.plan.replay import Replay, live_at, replay

__all__ = ["Improver", "Moment"]

_MOST_CUTS = 48
"""Tasks at which the bound is sought, those first that cost most in every known order."""
_CUT_TASKS = 1_000_000
"""Tasks times cuts after which no more groups are tried: some half a minute."""
_MOST_RIVALS = 12
"""Values in memory at a peak, largest first, whose producers are moved before or after it."""
_MOST_ALIKE = 32
"""Tasks like that at the peak of which one must be the last, and one the first."""


class Moment(NamedTuple):
    """When a task runs: once those of `after` have run, and before those of `ahead_of`."""

    task: int
    after: frozenset[int] = frozenset()
    ahead_of: frozenset[int] = frozenset()


class Improver:
    """Lowers the peak of orders of one problem, and raises what is known to be unavoidable."""

    def __init__(
        self,
        problem: Problem,
        reach: Reach,
        bound: int,
        *,
        node_limit: int,
        max_steps: int,
        most_steps: int = 1 << 62,
    ) -> None:
        self.problem, self.reach, self.bound = problem, reach, bound
        self.node_limit, self.max_steps, self.most_steps = node_limit, max_steps, most_steps
        self.most_cuts = max(_MOST_CUTS, _CUT_TASKS // max(1, len(problem.tasks)))
        self.num_steps = self.num_solved = self.num_reused = self.num_given_up = 0
        self._cuts: dict[Moment, LeastCut] = {}
        self._solved: dict[Piece, tuple[int, Solution]] = {}

    def raise_bound(self, orders: Sequence[Sequence[int]]) -> None:
        """Seek the task that needs most in any order, among those that need much in all `orders`.

        What a task needs in some order bounds its cut from above, so most tasks need no look.
        """
        above = [1 << 62] * len(self.problem.tasks)
        for order in orders:
            for task, num_bytes in zip(order, replay(self.problem, order).profile, strict=True):
                above[task] = min(above[task], num_bytes)
        for task in sorted(range(len(above)), key=lambda task: (-above[task], task))[:_MOST_CUTS]:
            if above[task] > self.bound:
                self.cut(Moment(task))

    def cut(self, moment: Moment) -> LeastCut:
        """Return the cheapest such moment; that of a task without conditions raises the bound."""
        if moment not in self._cuts:
            found = least_cut(self.problem, self.reach, moment.task, moment.after, moment.ahead_of)
            self._cuts[moment] = found
            if not moment.after and not moment.ahead_of:
                self.bound = max(self.bound, found.num_bytes)
        return self._cuts[moment]

    def ends_of(self, tasks: Sequence[int]) -> list[Moment]:
        """Return the moments at which one of `tasks` is the last or the first; the bound rises.

        One of them is the last in every order, and one the first, so that no order is cheaper than
        the cheapest last, nor than the cheapest first.
        """
        everything, is_before = frozenset(tasks), self.reach.is_before
        lasts = [
            Moment(task, after=everything - {task})
            for task in tasks
            if not any(is_before(task, other) for other in tasks if other != task)
        ]
        firsts = [
            Moment(task, ahead_of=everything - {task})
            for task in tasks
            if not any(is_before(other, task) for other in tasks if other != task)
        ]
        for ends in (lasts, firsts):
            self.bound = max(self.bound, min(self.cut(moment).num_bytes for moment in ends))
        return lasts + firsts

    def lower(self, order: list[int]) -> list[int]:
        """Return `order`, or one with a lower peak, that neither cuts nor pieces make better."""
        found = replay(self.problem, order)
        while found.peak > self.bound:
            better = self._moved(order, found) or self._solved_around(order, found)
            if better is None:
                break
            order = better
            found = replay(self.problem, order)
        return order

    def search_whole(self, order: list[int], found: Replay) -> list[int] | None:
        """Return the best order of all tasks if a search over the whole graph finds it.

        Where the search ends without a better one, `order` is proven best.
        """
        num_given_up = self.num_given_up
        better = self.solve(order, found, 0, len(order) - 1)
        if num_given_up == self.num_given_up:
            best = replay(self.problem, better or order).peak
            self.bound = max(self.bound, best)
        return better

    def account(self) -> list[str]:
        """Return what was done, in words; nothing where the bound was met at once."""
        if not self.num_solved:
            return []
        given_up = f", {self.num_given_up} pieces given up after {self.max_steps} or so many in all"
        return [
            f"{self.num_solved} pieces searched ({self.num_steps} steps"
            f"{given_up if self.num_given_up else ''}), {self.num_reused} equal ones looked up, "
            f"{len(self._cuts)} cuts."
        ]

    def _moved(self, order: list[int], found: Replay) -> list[int] | None:
        """Return `order` with the peak's task at a cheaper moment, if that helps.

        Where its cheapest moment does not, groups of tasks are tried of which one must be the last,
        and one the first.
        """
        position = found.profile.index(found.peak)
        task = order[position]
        better = self._moved_to(order, found, Moment(task))
        if better is not None:
            return better
        for group in self._groups(order, position):
            if found.peak <= self.bound or len(self._cuts) >= self.most_cuts:
                return None
            for moment in self.ends_of(group):
                better = self._moved_to(order, found, moment)
                if better is not None:
                    return better
        return None

    def _groups(self, order: list[int], position: int) -> Iterator[list[int]]:
        """Yield groups of tasks with that at `position`.

        First its like, such as the same operator in each chunk of a loss; then pairs with what made
        the largest values that are there.
        """
        tasks = self.problem.tasks
        task = tasks[order[position]]
        like = [
            t
            for t in range(len(tasks))
            if tasks[t].op == task.op and self._made(t) == self._made(order[position])
        ]
        near = sorted(like, key=lambda t: (abs(t - order[position]), t))[:_MOST_ALIKE]
        if len(near) > 1:
            yield sorted(near)
        for value in live_at(self.problem, order, position)[:_MOST_RIVALS]:
            rival = self.problem.producers[value]
            if rival >= 0 and not self._is_settled(order[position], rival):
                yield [order[position], rival]

    def _made(self, task: int) -> int:
        return sum(self.problem.sizes[value] for value in self.problem.tasks[task].outputs)

    def _is_settled(self, one: int, other: int) -> bool:
        return self.reach.is_before(one, other) or self.reach.is_before(other, one)

    def _moved_to(self, order: list[int], found: Replay, moment: Moment) -> list[int] | None:
        cut = self.cut(moment)
        if cut.num_bytes >= found.peak:
            return None
        moved = [t for t in order if t in cut.before]
        moved += [moment.task]
        moved += [t for t in order if t not in cut.before and t != moment.task]
        return moved if _cost(replay(self.problem, moved)) < _cost(found) else None

    def _solved_around(self, order: list[int], found: Replay) -> list[int] | None:
        """Return `order` with a piece around the peak solved, small pieces first, if that helps."""
        middle = found.profile.index(found.peak)
        size = min(16, self.node_limit)
        while True:
            for share in (0.5, 0.15, 0.85):
                first = max(0, middle - int(size * share))
                last = min(len(order), first + size) - 1
                better = self.solve(order, found, first, last)
                if better is not None:
                    return better
            if size >= min(self.node_limit, len(order)):
                return None
            size = min(2 * size, self.node_limit)

    def solve(self, order: list[int], found: Replay, first: int, last: int) -> list[int] | None:
        """Return `order` with the tasks at positions `first` to `last` in their best order.

        None: no order of them has a lower peak there, or the search gave up.
        """
        start = found.live[first]
        limit = max(found.profile[first : last + 1]) - start
        piece = piece_of(self.problem, order, first, last)
        solution = self._search(piece, limit, max(0, self.bound - start))
        if solution.order is None or solution.peak >= limit:
            return None
        return [
            *order[:first],
            *(order[first + place] for place in solution.order),
            *order[last + 1 :],
        ]

    def _search(self, piece: Piece, limit: int, floor: int) -> Solution:
        """Search a piece, or say what is known of an equal one: blocks repeat in a model."""
        if piece in self._solved:
            known_limit, known = self._solved[piece]
            if known.order is not None or (limit <= known_limit and not known.is_cut):
                self.num_reused += 1
                return known
        left = min(self.max_steps, self.most_steps - self.num_steps)
        if left <= 0:
            self.num_given_up += 1
            return Solution(None, limit, 0, 0, True)
        solution = best_order(piece, limit, floor=floor, max_steps=left)
        self.num_solved += 1
        self.num_steps += solution.num_steps
        self.num_given_up += solution.is_cut
        self._solved[piece] = (limit, solution)
        return solution


def _cost(found: Replay) -> tuple[int, int]:
    """Return the peak and how often it is reached: both must fall for a move to help."""
    return found.peak, found.profile.count(found.peak)
