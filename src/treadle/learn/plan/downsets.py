"""The best order of a piece: a search over its downsets, cheapest peak first.

A downset is a set of tasks that holds all predecessors of its members, so it is what may have run
at some moment. How many bytes are live after it depends on the set alone, which makes the least
peak on the way to it a shortest-path problem (with the maximum in place of the sum). A ready task
that frees at least what it makes, and fits under the peak that the path has anyway, runs at once:
whatever order completes the path, moving that task to the front leaves less in memory for all that
it overtakes. That rule removes nearly all states of real graphs and loses no optimum.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from treadle.learn.plan.problem import Problem

_CHAIN = 4
"""Most jobs of a chain that is looked for."""

__all__ = ["Job", "Piece", "Solution", "best_order", "piece_of"]


class Job(NamedTuple):
    """A task of a piece; others and values are named by their places within the piece."""

    needs: int
    """Mask of its predecessors."""
    successors: tuple[int, ...]
    made_bytes: int
    """Bytes of its outputs and its scratch."""
    kept_bytes: int
    """Bytes of its outputs that outlive it."""
    reads: tuple[tuple[int, int], ...]
    """For each input that dies within the piece: the mask of its readers, and its bytes."""
    donations: tuple[tuple[int, int, int], ...]
    """For each donation: place of the input in `reads`, place of the output, bytes."""


class Solution(NamedTuple):
    """What a search found."""

    order: tuple[int, ...] | None
    """Places within the piece; None: none stays below the limit, or the search was cut."""
    peak: int
    """Bytes above those at the piece's start, or the floor if that is more."""
    num_states: int
    """Downsets that were looked at."""
    num_steps: int
    """Costs that were worked out: what the search took, on any machine."""
    is_cut: bool
    """Whether it stopped at its most steps, so that nothing is proven."""


Piece = tuple[Job, ...]


def piece_of(problem: Problem, order: Sequence[int], first: int, last: int) -> Piece:
    """Return the tasks at the positions `first` to `last` of a valid `order` as a piece."""
    position = {task: place for place, task in enumerate(order)}
    found = []
    for index in order[first : last + 1]:
        task, sizes = problem.tasks[index], problem.sizes

        def mask(tasks: Sequence[int]) -> int:
            return sum(1 << position[t] - first for t in tasks if first <= position[t] <= last)

        reads: list[tuple[int, int]] = []
        given = {}
        for value in task.inputs:
            readers = problem.consumers[value]
            if not problem.is_output[value] and all(position[r] <= last for r in readers):
                given[value] = len(reads)
                reads.append((mask(readers), sizes[value]))
        made = {value: number for number, value in enumerate(task.outputs)}
        kept = [v for v in made if problem.consumers[v] or problem.is_output[v]]
        after = [position[t] - first for t in problem.successors[index] if position[t] <= last]
        found.append(
            Job(
                mask(problem.predecessors[index]),
                tuple(sorted(after)),
                sum(sizes[value] for value in made) + task.scratch_bytes,
                sum(sizes[value] for value in kept),
                tuple(reads),
                tuple((given[i], made[o], sizes[o]) for i, o in task.donations if i in given),
            )
        )
    return tuple(found)


def best_order(piece: Piece, limit: int, *, floor: int = 0, max_steps: int = 1_000_000) -> Solution:
    """Return the order of `piece` with the least peak, if that is below `limit`.

    Args:
        piece: What to order.
        limit: Bytes above those at the start; an order that reaches them is no better than what is
            known.
        floor: Bytes above those at the start below which a lower peak is of no use.
        max_steps: Costs of jobs to work out before giving up.
    """
    search = _Search(piece, limit, max_steps)
    whole = (1 << len(piece)) - 1
    ready = sum(1 << place for place, job in enumerate(piece) if not job.needs)
    if floor < limit:
        search.offer(floor, 0, 0, 0, ready, -1, ())
    num_states = 0
    while search.heap:
        peak, _, done, live, ready, before, ran = heapq.heappop(search.heap)
        done, live, ready, more = search.run_free(peak, done, live, ready)
        if done in search.came_from:
            continue
        search.came_from[done] = (before, ran + more)
        if done == whole:
            return Solution(search.path(done), peak, num_states, search.num_steps, False)
        num_states += 1
        search.expand(peak, done, live, ready)
        if search.num_steps > max_steps:
            return Solution(None, limit, num_states, search.num_steps, True)
    return Solution(None, limit, num_states, search.num_steps, False)


def _near(piece: Piece, place: int) -> int:
    """Return the jobs to which a chain may go on: successors, and who else reads the same."""
    found = 0
    for other in piece[place].successors:
        found |= 1 << other
    for readers, _ in piece[place].reads:
        found |= readers
    return found & ~(1 << place)


Entry = tuple[int, int, int, int, int, int, tuple[int, ...]]


class _Search:
    """The queue of one search, and how its states were reached."""

    def __init__(self, piece: Piece, limit: int, max_steps: int) -> None:
        self.piece, self.limit, self.max_steps = piece, limit, max_steps
        self.num_steps = 0
        self.near = [_near(piece, place) for place in range(len(piece))]
        self.heap: list[Entry] = []
        self.came_from: dict[int, tuple[int, tuple[int, ...]]] = {}

    def offer(
        self,
        peak: int,
        done: int,
        num_done: int,
        live: int,
        ready: int,
        before: int,
        ran: tuple[int, ...],
    ) -> None:
        heapq.heappush(self.heap, (peak, -num_done, done, live, ready, before, ran))

    def run_free(
        self, peak: int, done: int, live: int, ready: int
    ) -> tuple[int, int, int, tuple[int, ...]]:
        """Run every chain of ready jobs that frees what it keeps and fits under `peak`."""
        ran: list[int] = []
        while chain := self.free_chain(peak, done, live, ready, ready, 0, 0):
            for place in chain:
                done |= 1 << place
                live += self.cost(place, done)[1]
                ready = self.ready_after(place, done, ready)
            ran += chain
        return done, live, ready, tuple(ran)

    def free_chain(
        self, peak: int, done: int, live: int, ready: int, among: int, net: int, length: int
    ) -> tuple[int, ...]:
        """Return a chain that goes on with jobs of `among` until it keeps nothing; () if none does.

        `net` is what the chain of `length` jobs keeps so far. Shorter chains are found first only
        where they begin alike, which does not matter: any free chain may run.
        """
        waiting, longer = among & ready, []
        while waiting:
            bit = waiting & -waiting
            waiting ^= bit
            place = bit.bit_length() - 1
            needed, more = self.cost(place, done | bit)
            if live + needed > peak:
                continue
            if net + more <= 0:
                return (place,)
            longer.append((place, bit, more))
        if length + 1 >= _CHAIN or self.num_steps > self.max_steps:
            return ()
        for place, bit, more in longer:
            near = self.near[place] | (among if length else 0)
            still = self.ready_after(place, done | bit, ready)
            rest = self.free_chain(
                peak, done | bit, live + more, still, near, net + more, length + 1
            )
            if rest:
                return (place, *rest)
        return ()

    def expand(self, peak: int, done: int, live: int, ready: int) -> None:
        waiting, num_done = ready, done.bit_count() + 1
        while waiting:
            bit = waiting & -waiting
            waiting ^= bit
            place = bit.bit_length() - 1
            after = done | bit
            if after in self.came_from:
                continue
            needed, net = self.cost(place, after)
            reached = max(peak, live + needed)
            if reached < self.limit:
                still = self.ready_after(place, after, ready)
                self.offer(reached, after, num_done, live + net, still, done, (place,))

    def cost(self, place: int, after: int) -> tuple[int, int]:
        """Return what a job needs while it runs and what it leaves, beyond what is live."""
        job = self.piece[place]
        self.num_steps += 1
        freed = 0
        for readers, size in job.reads:
            if not readers & ~after:
                freed += size
        needed = job.made_bytes
        if job.donations:
            taken: set[int] = set()
            for given, value, size in job.donations:
                if given in taken or ~value in taken or job.reads[given][0] & ~after:
                    continue
                taken |= {given, ~value}
                needed -= size
        return needed, job.kept_bytes - freed

    def ready_after(self, place: int, done: int, ready: int) -> int:
        ready &= ~(1 << place)
        for other in self.piece[place].successors:
            if not self.piece[other].needs & ~done:
                ready |= 1 << other
        return ready

    def path(self, done: int) -> tuple[int, ...]:
        steps = []
        while done >= 0:
            done, ran = self.came_from[done]
            steps.append(ran)
        return tuple(place for ran in reversed(steps) for place in ran)
