"""List schedulers: orders made by one rule, in one pass, in the time of a sort.

Several methods offer them one by one; `roam` and `inductor` take the best of them as a start.
"""

import heapq
from collections import deque
from collections.abc import Callable

from treadle.learn.plan.problem import Problem
from treadle.learn.plan.running import Running

__all__ = [
    "CANDIDATES",
    "breadth_first",
    "depth_first",
    "free_when_ready",
    "least_peak_first",
    "least_peak_last",
    "program",
    "updates_asap",
]


def program(problem: Problem) -> list[int]:
    """Return the order in which the step was traced."""
    return list(range(len(problem.tasks)))


def updates_asap(problem: Problem) -> list[int]:
    """Return the program order with each update moved to where it first can run."""
    return _eager(problem, lambda state, task: problem.tasks[task].phase == "update")


def free_when_ready(problem: Problem) -> list[int]:
    """Return the program order with every task that frees memory moved to where it first can run.

    Inductor's developers discuss the same start for their own reordering.
    """
    return _eager(problem, lambda state, task: state.net(task) < 0)


def _eager(problem: Problem, is_eager: Callable[[Running, int], bool]) -> list[int]:
    state = Running(problem)

    def run(task: int) -> None:
        waiting = [task]
        while waiting:
            changed = state.run(waiting.pop(0))
            waiting += [t for t in sorted(changed) if t not in waiting and is_eager(state, t)]

    for task in range(len(problem.tasks)):
        if not state.has_run[task]:
            run(task)
    return state.order


def least_peak_first(problem: Problem) -> list[int]:
    """Return an order that keeps the peak low step by step.

    Among the ready tasks that do not raise the peak so far, the one after which least is in memory
    runs; if all raise it, the one that needs least while it runs.
    """
    state = Running(problem)
    by_net: list[tuple[int, int]] = []

    def offer(task: int) -> None:
        heapq.heappush(by_net, (state.net(task), task))

    for task in state.ready:
        offer(task)
    while state.ready:
        for changed in state.run(_next_by_peak(state, by_net)):
            offer(changed)
    return state.order


def _next_by_peak(state: Running, by_net: list[tuple[int, int]]) -> int:
    aside = []
    found = None
    while by_net and found is None:
        net, task = heapq.heappop(by_net)
        if state.has_run[task] or net != state.net(task):
            continue  # an entry from before its cost fell
        if state.needed(task) <= state.peak:
            found = task
        else:
            aside.append((net, task))
    for entry in aside:
        heapq.heappush(by_net, entry)
    if found is not None:
        return found
    return min(state.ready, key=lambda task: (state.needed(task), state.net(task), task))


def depth_first(problem: Problem) -> list[int]:
    """Return an order that finishes what one task needs before it begins with the next.

    Tasks that touch few bytes come first, and so do their predecessors that touch few.
    """
    sizes = problem.sizes
    touched = [sum(sizes[v] for v in (*task.inputs, *task.outputs)) for task in problem.tasks]

    def small_first(tasks: tuple[int, ...] | range) -> list[int]:
        return sorted(tasks, key=lambda task: (touched[task], task))

    order: list[int] = []
    seen = [False] * len(problem.tasks)
    for root in small_first(range(len(problem.tasks))):
        stack = [(root, iter(small_first(problem.predecessors[root])))]
        while stack:
            task, before = stack[-1]
            if seen[task]:
                stack.pop()
                continue
            other = next((o for o in before if not seen[o]), None)
            if other is None:
                seen[task] = True
                order.append(task)
                stack.pop()
            else:
                stack.append((other, iter(small_first(problem.predecessors[other]))))
    return order


def breadth_first(problem: Problem) -> list[int]:
    """Return an order that runs tasks in the order in which they became ready."""
    state = Running(problem)
    waiting = deque(sorted(state.ready))
    seen = set(waiting)
    while waiting:
        new = sorted(task for task in state.run(waiting.popleft()) if task not in seen)
        seen.update(new)
        waiting.extend(new)
    return state.order


def least_peak_last(problem: Problem) -> list[int]:
    """Return an order that is made from the step's end by the rule of `least_peak_first`.

    Backwards, a value comes to life at its last reader and goes at its producer.
    """
    consumers, sizes = problem.consumers, problem.sizes
    is_live = list(problem.is_output)
    live = sum(size for size, out in zip(sizes, is_live, strict=True) if out)
    missing = [len(after) for after in problem.successors]
    ready = {task for task, count in enumerate(missing) if not count}
    peak, order = live, []
    while ready:
        costs = {task: _backward_cost(problem, is_live, task) for task in ready}
        fitting = [task for task in ready if live + costs[task][1] <= peak]
        if fitting:
            chosen = min(fitting, key=lambda task: (costs[task][0], -task))
        else:
            chosen = min(ready, key=lambda task: (costs[task][1], costs[task][0], -task))
        peak = max(peak, live + costs[chosen][1])
        live += costs[chosen][0]
        for value in problem.tasks[chosen].outputs:
            is_live[value] = False
        for value in problem.tasks[chosen].inputs:
            is_live[value] = is_live[value] or bool(consumers[value])
        order.append(chosen)
        ready.discard(chosen)
        for other in problem.predecessors[chosen]:
            missing[other] -= 1
            if not missing[other]:
                ready.add(other)
    return order[::-1]


def _backward_cost(problem: Problem, is_live: list[bool], index: int) -> tuple[int, int]:
    """Return by how much memory grows backwards over task `index`, and what it adds at most."""
    task, sizes = problem.tasks[index], problem.sizes
    new = {value: sizes[value] for value in task.inputs if not is_live[value]}
    dead = sum(sizes[value] for value in task.outputs if not is_live[value])
    gone = sum(sizes[value] for value in task.outputs if is_live[value])
    saved = 0
    taken: set[int] = set()
    for given, value in task.donations:
        if given in new and given not in taken and value not in taken:
            taken |= {given, value}
            saved += sizes[value]
    added = sum(new.values())
    return added - gone, added + dead + task.scratch_bytes - saved


CANDIDATES: dict[str, Callable[[Problem], list[int]]] = {
    "program": program,
    "updates_asap": updates_asap,
    "free_when_ready": free_when_ready,
    "least_peak_first": least_peak_first,
    "least_peak_last": least_peak_last,
    "depth_first": depth_first,
    "breadth_first": breadth_first,
}
"""Every rule by its name, in the order in which ties are settled."""
