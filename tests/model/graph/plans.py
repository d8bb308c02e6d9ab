"""Naive planning and replay, in loops: what the tests of capture and execution stand on."""

import random
from collections import Counter
from collections.abc import Sequence

from treadle.model.graph.arena import ArenaLayout
from treadle.model.graph.schema import Graph


def updates_early(graph: Graph) -> list[int]:
    """Return program order with every update as soon as it may run."""
    before, done, order = graph.predecessors(), set(), []
    waiting = [i for i, operator in enumerate(graph.operators) if operator.phase == "update"]
    for index, operator in enumerate(graph.operators):
        if operator.phase == "update":
            continue
        done.add(index)
        order.append(index)
        for update in [update for update in waiting if done.issuperset(before[update])]:
            waiting.remove(update)
            done.add(update)
            order.append(update)
    return order


def shuffled(graph: Graph, seed: int) -> list[int]:
    """Return a random topological order."""
    generator = random.Random(seed)
    before = [set(found) for found in graph.predecessors()]
    order: list[int] = []
    left = set(range(len(before)))
    while left:
        index = generator.choice(sorted(i for i in left if before[i].isdisjoint(left)))
        left.remove(index)
        order.append(index)
    return order


def donated(graph: Graph, order: Sequence[int], *, eager: bool = False) -> list[tuple[int, int]]:
    """Return the pairs (operand, result) that an order can write in place."""
    reads = Counter(value for operator in graph.operators for value in operator.inputs)
    found = []
    for index in order:
        operator = graph.operators[index]
        reads.subtract(operator.inputs)
        for operand, result in operator.eager_in_place if eager else operator.in_place:
            if not reads[operand] and not graph.values[operand].is_output:
                found.append((operand, result))
                break
    return found


def peak_bytes(graph: Graph, order: Sequence[int], pairs: Sequence[tuple[int, int]] = ()) -> int:
    """Return the most bytes of temporaries alive at once."""
    donors = {result: operand for operand, result in pairs}
    reads = Counter(value for operator in graph.operators for value in operator.inputs)
    alive: set[int] = set()
    most = 0

    def size(values: set[int]) -> int:
        return sum(graph.values[value].num_bytes for value in values)

    for index in order:
        operator = graph.operators[index]
        replaced = {donors[value] for value in operator.outputs if value in donors}
        alive = (alive - replaced) | set(operator.outputs)
        most = max(most, size(alive) + operator.scratch_bytes)
        reads.subtract(operator.inputs)
        alive = {value for value in alive if reads[value] or graph.values[value].is_output}
    return most


def layout(
    graph: Graph, order: Sequence[int], pairs: Sequence[tuple[int, int]] = ()
) -> ArenaLayout:
    """Return offsets by best fit, the largest first; a result lies where its operand lay."""
    place = {index: position for position, index in enumerate(order)}
    home: dict[int, int] = {}
    for operand, result in pairs:
        home[result] = home.get(operand, operand)
    life: dict[int, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        for value in (*operator.inputs, *operator.outputs):
            if graph.values[value].kind == "temporary":
                life.setdefault(home.get(value, value), []).append(place[index])
            if graph.values[value].is_output:
                life[home.get(value, value)].append(len(order))
    offsets: dict[int, int] = {}
    placed: list[tuple[int, int, int, int]] = []
    for value in sorted(life, key=lambda value: -graph.values[value].num_bytes):
        first, last = min(life[value]), max(life[value])
        size, offset = -(-graph.values[value].num_bytes // 64) * 64, 0
        for start, end, other_first, other_last in sorted(placed):
            if other_first <= last and first <= other_last:
                if start - offset >= size:
                    break
                offset = max(offset, end)
        offsets[value] = offset
        placed.append((offset, offset + size, first, last))
    everywhere = {value: offsets[home.get(value, value)] for value in life}
    everywhere |= {value: offsets[first] for value, first in home.items()}
    return ArenaLayout(everywhere, max(end for _, end, _, _ in placed))
