from itertools import permutations

import pytest

from learn.plan.cases import arena, blocks, drawn_blocks, generator
from learn.plan.naive import naive_live_bytes, overlaps
from treadle.learn.plan.methods.best_fit import BestFit
from treadle.learn.plan.methods.exact import Exact


def naive_arena(found):
    """Return the smallest arena: over all sequences, each block as low as it goes."""
    best = None
    for sequence in permutations(range(len(found))):
        offsets = {}
        for index in sequence:
            block = found[index]
            together = [
                i for i in offsets if found[i].start <= block.end and block.start <= found[i].end
            ]
            lows = sorted([0, *(offsets[i] + found[i].num_bytes for i in together)])
            offsets[index] = next(
                low
                for low in lows
                if all(
                    low + block.num_bytes <= offsets[i] or offsets[i] + found[i].num_bytes <= low
                    for i in together
                )
            )
        arena_bytes = max(offsets[i] + found[i].num_bytes for i in offsets)
        best = arena_bytes if best is None else min(best, arena_bytes)
    return best


@pytest.mark.parametrize("seed", range(10))
def test_reference_all_sequences(seed):
    rng = generator(seed)
    spans = []
    for _ in range(6):
        start = int(rng.integers(0, 6))
        spans.append((start, start + int(rng.integers(0, 4)), 64 * int(rng.integers(1, 6))))
    found = blocks(*spans)
    assert arena(Exact(), found) == naive_arena(found)


def test_limits_too_many_blocks_and_too_few_branches_are_said():
    found = drawn_blocks(0)
    assert arena(BestFit(), found) > naive_live_bytes(found), "a case worth a program"
    few = Exact(block_limit=2).place(found, generator())
    assert few.offsets == BestFit().place(found, generator()).offsets
    assert "more than block_limit = 2" in few.notes[0]
    cut = Exact(num_branches=1).place(found, generator())
    assert not overlaps(found, cut.offsets)


def test_meaning_it_closes_the_holes_of_best_fit():
    found = drawn_blocks(0)
    assert arena(Exact(), found) == naive_live_bytes(found) < arena(BestFit(), found)
