"""A schedule in the making: what has run, what could run next, and what each of these would cost.

List schedulers ask it; it keeps every ready task's cost up to date, so that a whole order takes
time in proportion to the graph's edges.
"""

from treadle.learn.plan.problem import Problem

__all__ = ["Running"]


class Running:
    """The state after some tasks have run."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.order: list[int] = []
        self.live = problem.start_bytes()
        self.peak = self.live
        self.remaining = [len(readers) for readers in problem.consumers]
        self.missing = [len(before) for before in problem.predecessors]
        self.ready = {task for task, count in enumerate(self.missing) if not count}
        self.has_run = [False] * len(problem.tasks)
        sizes = problem.sizes
        self.made = [sum(sizes[value] for value in task.outputs) for task in problem.tasks]
        self.freed = [self._freed_at_first(task) for task in range(len(problem.tasks))]

    def _freed_at_first(self, index: int) -> int:
        task, problem = self.problem.tasks[index], self.problem
        dying = [value for value in task.inputs if self.remaining[value] == 1]
        dying += [value for value in task.outputs if not self.remaining[value]]
        return sum(problem.sizes[value] for value in dying if not problem.is_output[value])

    def net(self, index: int) -> int:
        """Return by how many bytes memory grows once task `index` has run now."""
        return self.made[index] - self.freed[index]

    def needed(self, index: int) -> int:
        """Return the bytes in memory while task `index` would run now."""
        task, problem = self.problem.tasks[index], self.problem
        saved = 0
        if task.donations:
            taken: set[int] = set()
            for given, value in task.donations:
                is_free = given not in taken and value not in taken
                if is_free and self.remaining[given] == 1 and not problem.is_output[given]:
                    taken |= {given, value}
                    saved += problem.sizes[value]
        return self.live + self.made[index] + task.scratch_bytes - saved

    def run(self, index: int) -> list[int]:
        """Run task `index`; return the tasks that became ready or whose cost fell, each once."""
        problem = self.problem
        self.peak = max(self.peak, self.needed(index))
        self.live += self.net(index)
        self.order.append(index)
        self.has_run[index] = True
        self.ready.discard(index)
        changed: list[int] = []
        for value in problem.tasks[index].inputs:
            self.remaining[value] -= 1
            if self.remaining[value] == 1 and not problem.is_output[value]:
                reader = next(r for r in problem.consumers[value] if not self.has_run[r])
                self.freed[reader] += problem.sizes[value]
                if not self.missing[reader]:
                    changed.append(reader)
        for other in problem.successors[index]:
            self.missing[other] -= 1
            if not self.missing[other]:
                self.ready.add(other)
                changed.append(other)
        return list(dict.fromkeys(changed))
