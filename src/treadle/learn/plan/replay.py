"""Running an order in the mind: what is live when, and which bytes are handed on."""

from collections.abc import Sequence
from typing import NamedTuple

from treadle.learn.plan.problem import Problem

__all__ = ["MemoryBlock", "Replay", "blocks_of", "live_at", "peak_of", "replay"]


class MemoryBlock(NamedTuple):
    """A piece of memory for one value, or for several that hand their bytes on."""

    values: tuple[int, ...]
    """Empty for the scratch of the task at `start`."""
    start: int
    """Position in the order of the task that first writes it; 0 for what is there before."""
    end: int
    """Position of the last task that needs it, inclusive."""
    num_bytes: int


class Replay(NamedTuple):
    """What an order costs."""

    profile: tuple[int, ...]
    """Bytes while each position's task runs: its inputs, outputs and scratch, and what is kept."""
    live: tuple[int, ...]
    """Bytes in memory before each position."""
    donated: tuple[tuple[int, int], ...]
    """Pairs (input, output) of values that did share their bytes."""

    @property
    def peak(self) -> int:
        """Most bytes at any position."""
        return max(self.profile, default=0)


def replay(problem: Problem, order: Sequence[int]) -> Replay:
    """Return the bytes at each position of `order`, and the donations that took place."""
    remaining = [len(readers) for readers in problem.consumers]
    sizes, is_output = problem.sizes, problem.is_output
    live = problem.start_bytes()
    profile, before, donated = [], [], []
    for index in order:
        task = problem.tasks[index]
        made = sum([sizes[value] for value in task.outputs])
        saved = 0
        if task.donations:
            taken: set[int] = set()
            for given, value in task.donations:
                if given in taken or value in taken:
                    continue
                if remaining[given] == 1 and not is_output[given]:
                    taken |= {given, value}
                    saved += sizes[value]
                    donated.append((given, value))
        before.append(live)
        profile.append(live + made + task.scratch_bytes - saved)
        live += made
        for value in task.inputs:
            remaining[value] -= 1
            if not remaining[value] and not is_output[value]:
                live -= sizes[value]
        for value in task.outputs:
            if not remaining[value] and not is_output[value]:
                live -= sizes[value]
    return Replay(tuple(profile), tuple(before), tuple(donated))


def peak_of(problem: Problem, order: Sequence[int]) -> int:
    """Return the most bytes at any position of `order`."""
    return replay(problem, order).peak


def blocks_of(problem: Problem, order: Sequence[int]) -> list[MemoryBlock]:
    """Return the blocks that `order` needs, in the order of their starts: what a layout places."""
    last = len(order) - 1
    position = {task: place for place, task in enumerate(order)}
    starts, ends = [], []
    for value, producer in enumerate(problem.producers):
        starts.append(position[producer] if producer >= 0 else 0)
        readers = [position[task] for task in problem.consumers[value]]
        ends.append(last if problem.is_output[value] else max([starts[value], *readers]))
    heir = dict(replay(problem, order).donated)
    inherited = set(heir.values())
    found = []
    for value in range(len(problem.sizes)):
        if value in inherited or not problem.sizes[value]:
            continue
        chain = [value]
        while chain[-1] in heir:
            chain.append(heir[chain[-1]])
        found.append(
            MemoryBlock(tuple(chain), starts[value], ends[chain[-1]], problem.sizes[value])
        )
    for place, task in enumerate(order):
        if problem.tasks[task].scratch_bytes:
            found.append(MemoryBlock((), place, place, problem.tasks[task].scratch_bytes))
    return sorted(found, key=lambda block: (block.start, block.values))


def live_at(problem: Problem, order: Sequence[int], position: int) -> list[int]:
    """Return the values that are in memory while the task at `position` runs, largest first."""
    place = {task: number for number, task in enumerate(order)}
    found = []
    for block in blocks_of(problem, order):
        if block.values and block.start <= position <= block.end:
            made = [v for v in block.values if place.get(problem.producers[v], -1) <= position]
            found.append(made[-1])
    return sorted(found, key=lambda value: (-problem.sizes[value], value))
