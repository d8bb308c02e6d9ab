"""Planning again, in loops and sets, from the definitions alone."""

from itertools import pairwise


def naive_profile(problem, order):
    """Return the bytes at each position: a value is there from its birth to its last reader."""
    position = {task: place for place, task in enumerate(order)}
    num = len(order)
    birth, death = {}, {}
    for value, producer in enumerate(problem.producers):
        birth[value] = position[producer] if producer >= 0 else 0
        readers = [position[task] for task in problem.consumers[value]]
        death[value] = num - 1 if problem.is_output[value] else max([birth[value], *readers])
    found = []
    for place, task in enumerate(order):
        there = [v for v in birth if birth[v] <= place <= death[v]]
        total = sum(problem.sizes[v] for v in there) + problem.tasks[task].scratch_bytes
        given, taken = set(), set()
        for i, o in problem.tasks[task].donations:
            dies = death[i] == place and not problem.is_output[i]
            if dies and i not in given and o not in taken:
                given.add(i)
                taken.add(o)
                total -= problem.sizes[o]
        found.append(total)
    return found


def naive_peak(problem, order):
    return max(naive_profile(problem, order), default=0)


def all_orders(problem):
    """Yield every topological order."""
    num = len(problem.tasks)

    def extend(order):
        if len(order) == num:
            yield list(order)
        for task in range(num):
            if task not in order and all(t in order for t in problem.predecessors[task]):
                yield from extend([*order, task])

    yield from extend([])


def least_peak(problem):
    """Return the least peak of all orders, by trying them."""
    return min(naive_peak(problem, order) for order in all_orders(problem))


def is_topological(problem, order):
    position = {task: place for place, task in enumerate(order)}
    return sorted(order) == list(range(len(problem.tasks))) and all(
        position[before] < position[task]
        for task, others in enumerate(problem.predecessors)
        for before in others
    )


def naive_live_bytes(blocks):
    """Return the most bytes of blocks that are there at one position."""
    ends = [block.end for block in blocks]
    return max(
        (
            sum(b.num_bytes for b in blocks if b.start <= place <= b.end)
            for place in range(max(ends, default=-1) + 1)
        ),
        default=0,
    )


def overlaps(blocks, offsets):
    """Return the pairs of blocks that are there together and share an address."""
    return [
        (i, j)
        for i in range(len(blocks))
        for j in range(i)
        if blocks[i].start <= blocks[j].end
        and blocks[j].start <= blocks[i].end
        and offsets[i] < offsets[j] + blocks[j].num_bytes
        and offsets[j] < offsets[i] + blocks[i].num_bytes
    ]


def is_sorted(values):
    return all(a <= b for a, b in pairwise(values))
