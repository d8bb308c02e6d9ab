"""The protocols of planning: in what order tasks run, and where their values lie."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.method import Method
from treadle.learn.plan.problem import Problem
from treadle.learn.plan.replay import MemoryBlock
from treadle.model.graph.schema import Graph

__all__ = ["Layout", "Order", "Ordered", "Placed", "Plan", "Planner"]


class Ordered(NamedTuple):
    """An order, and what is known of it."""

    order: tuple[int, ...]
    bound_bytes: int = 0
    """A peak that no order stays below, if the method found one."""
    notes: tuple[str, ...] = ()
    """What a user should know, such as a search that was cut short."""


class Placed(NamedTuple):
    """Where each block begins, in bytes from the start of the arena."""

    offsets: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Plan(NamedTuple):
    """An order and a layout of one graph, with what was found on the way."""

    source: Graph
    """The step as captured."""
    graph: Graph
    """The step that is planned: the same, but for operators that run again."""
    problem: Problem
    ordered: Ordered
    blocks: tuple[MemoryBlock, ...]
    placed: Placed
    arena_bytes: int
    recomputed: tuple[str, ...]
    """Names of the values that are not kept for the backward pass."""
    extra_flops: int
    order_seconds: float
    layout_seconds: float


class Order(Method, ABC):
    """Axis 1: in what order the tasks run."""

    @abstractmethod
    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return every task once, each after what it needs."""


class Layout(Method, ABC):
    """Axis 2: where in memory each block lies."""

    @abstractmethod
    def place(self, blocks: Sequence[MemoryBlock], generator: np.random.Generator) -> Placed:
        """Return an offset for each block; blocks that are there together do not overlap."""


class Planner(Method, ABC):
    """What is planned of a step."""

    @abstractmethod
    def plan(self, graph: Graph, order: Order, layout: Layout, seed: int) -> Plan:
        """Return a plan of `graph`; nothing is run."""
