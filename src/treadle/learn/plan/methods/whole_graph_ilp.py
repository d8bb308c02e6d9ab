"""One integer program for the order of a whole graph."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.errors import CapacityError
from treadle.core.method import Paper
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.bounds import reach_of
from treadle.learn.plan.listing import program
from treadle.learn.plan.problem import Problem


class WholeGraphIlp(Order):
    """Say for each task and each step whether it runs then, and minimise the fullest step.

    Binaries: x[v,i], task v runs at step i, and p[t,i], value t is kept at step i. Σ_i x[v,i] = 1;
    Σ_v x[v,i] = 1; p[t,i] <= p[t,i-1] + x[v,i-1] for the producer v of t; p[t,i] + x[v,i] <= 1;
    x[c,i] <= p[t,i] for each reader c; M >= Σ_t z_t (p[t,i] + x[v,i]) for each i; minimise M. A
    step i is open to a task between its number of ancestors and that of its descendants from the
    end. The paper's variables for spilling and recomputing are left out, as is donation, which it
    has not (an order's peak counts donations all the same). The solver is HiGHS. Time caps it, so
    on a graph that it does not finish, two machines may find different orders; a note says so.

    Paper: Steiner et al., "MODeL: memory optimizations for deep learning", ICML 2023.
    """

    name: ClassVar[str] = "whole_graph_ilp"
    paper = Paper(
        "MODeL: Memory Optimizations for Deep Learning",
        2023,
        "https://proceedings.mlr.press/v202/steiner23a.html",
    )

    time_limit_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds after which the best order so far is taken."""
    max_variables: Annotated[int, Field(ge=1)] = 200_000
    """Binaries beyond which the program is not built: it would not fit into memory."""

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the solver's order; the traced one if it finds none in time."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        if len(problem.tasks) < 2:
            return Ordered(tuple(program(problem)))
        rows = _Program(problem)
        if rows.num_variables > self.max_variables:
            raise CapacityError(
                f"The whole-graph program of {len(problem.tasks)} operators has "
                f"{rows.num_variables} variables, max_variables is {self.max_variables}; choose "
                f"order roam, or raise max_variables where memory allows."
            )
        entries = list(rows.entries())
        r, c, v = (np.array(column) for column in zip(*entries, strict=True))
        shape = (len(rows.lows), rows.num_variables + 1)
        goal = np.zeros(shape[1])
        goal[-1] = 1
        high = np.append(np.ones(rows.num_variables), np.inf)
        found = milp(
            goal,
            integrality=np.append(np.ones(rows.num_variables), 0),
            bounds=Bounds(np.zeros(shape[1]), high),
            constraints=LinearConstraint(
                coo_array((v, (r, c)), shape=shape).tocsr(), rows.lows, rows.highs
            ),
            options={"time_limit": self.time_limit_seconds},
        )
        notes = []
        if found.status != 0:
            notes = [
                f"HiGHS was cut after {self.time_limit_seconds:g} s "
                f"({'with' if found.x is not None else 'without'} an order): it may not be the "
                f"best, and another machine may find another."
            ]
        if found.x is None:
            return Ordered(tuple(program(problem)), notes=tuple(notes))
        return Ordered(rows.read(found.x), notes=tuple(notes))


class _Program:
    """The constraints, row by row."""

    def __init__(self, problem: Problem) -> None:
        self.problem, num = problem, len(problem.tasks)
        reach = reach_of(problem)
        ahead = np.unpackbits(reach.ancestors, axis=1, count=num).sum(axis=1, dtype=int) - 1
        behind = np.unpackbits(reach.descendants, axis=1, count=num).sum(axis=1, dtype=int) - 1
        self.windows = [(int(ahead[t]), num - 1 - int(behind[t])) for t in range(num)]
        self.unit = max(1, int(np.gcd.reduce([*problem.sizes, 0])))
        self.run: dict[tuple[int, int], int] = {}
        for task, (first, last) in enumerate(self.windows):
            for step in range(first, last + 1):
                self.run[task, step] = len(self.run)
        self.keep: dict[tuple[int, int], int] = {}
        for value, size in enumerate(problem.sizes):
            for step in self._kept(value) if size else ():
                self.keep[value, step] = len(self.run) + len(self.keep)
        self.num_variables = len(self.run) + len(self.keep)
        self.lows: list[float] = []
        self.highs: list[float] = []

    def _kept(self, value: int) -> range:
        """Return the steps at which `value` may be kept: from after its first birth."""
        producer, num = self.problem.producers[value], len(self.problem.tasks)
        first = 0 if producer < 0 else self.windows[producer][0] + 1
        ends = [self.windows[reader][1] for reader in self.problem.consumers[value]]
        last = num - 1 if self.problem.is_output[value] else max(ends, default=first - 1)
        return range(first, last + 1)

    def _row(
        self, low: float, high: float, terms: dict[int, float]
    ) -> Iterator[tuple[int, int, float]]:
        number = len(self.lows)
        self.lows.append(low)
        self.highs.append(high)
        for column, factor in terms.items():
            yield number, column, factor

    def entries(self) -> Iterator[tuple[int, int, float]]:
        """Yield row, column and factor of all constraints."""
        num = len(self.problem.tasks)
        by_step: list[dict[int, float]] = [{} for _ in range(num)]
        for (_, step), column in self.run.items():
            by_step[step][column] = 1
        for task, (first, last) in enumerate(self.windows):
            steps = range(first, last + 1)
            yield from self._row(1, 1, {self.run[task, step]: 1 for step in steps})
            for other in self.problem.predecessors[task]:
                yield from self._precedence(other, task)
        for terms in by_step:
            yield from self._row(1, 1, terms)
        for value, size in enumerate(self.problem.sizes):
            if size:
                yield from self._value(value)
        yield from self._memory()

    def _precedence(self, before: int, after: int) -> Iterator[tuple[int, int, float]]:
        """Whatever has run up to a step, its predecessor ran earlier."""
        for step in range(self.windows[after][0], self.windows[after][1] + 1):
            terms: dict[int, float] = {}
            for (task, factor), until in (((after, 1.0), step), ((before, -1.0), step - 1)):
                first, last = self.windows[task]
                for place in range(first, min(last, until) + 1):
                    terms[self.run[task, place]] = factor
            yield from self._row(-np.inf, 0, terms)

    def _value(self, value: int) -> Iterator[tuple[int, int, float]]:
        producer, num = self.problem.producers[value], len(self.problem.tasks)
        for step in self._kept(value):
            kept = self.keep[value, step]
            terms: dict[int, float] = {kept: 1}
            for source in (self.keep.get((value, step - 1)), self.run.get((producer, step - 1))):
                if source is not None:
                    terms[source] = -1
            if step or producer >= 0:
                yield from self._row(-np.inf, 0, terms)
            if (producer, step) in self.run:
                yield from self._row(-np.inf, 1, {kept: 1, self.run[producer, step]: 1})
            for reader in self.problem.consumers[value]:
                if (reader, step) in self.run:
                    yield from self._row(-np.inf, 0, {self.run[reader, step]: 1, kept: -1})
        if self.problem.is_output[value]:
            ends = (self.keep.get((value, num - 1)), self.run.get((producer, num - 1)))
            yield from self._row(1, np.inf, {end: 1 for end in ends if end is not None})

    def _memory(self) -> Iterator[tuple[int, int, float]]:
        sizes, unit = self.problem.sizes, self.unit
        held: list[dict[int, float]] = [{} for _ in self.problem.tasks]
        for (value, step), column in self.keep.items():
            held[step][column] = sizes[value] / unit
        for (index, step), column in self.run.items():
            task = self.problem.tasks[index]
            made = sum(sizes[value] for value in task.outputs) + task.scratch_bytes
            held[step][column] = made / unit
        for terms in held:
            yield from self._row(-np.inf, 0, {**terms, self.num_variables: -1})

    def read(self, solution: np.ndarray) -> tuple[int, ...]:
        """Return the order in which the tasks run."""
        chosen = {task: step for (task, step), column in self.run.items() if solution[column] > 0.5}
        return tuple(sorted(chosen, key=lambda task: chosen[task]))
