import pytest

from learn.plan.cases import arena, blocks, drawn_blocks, generator
from learn.plan.naive import naive_live_bytes
from treadle.learn.plan.methods.best_fit import BestFit


def naive(found):
    """Place by size into the smallest hole, trying every address at which a block may end."""
    offsets = {}
    sequence = sorted(
        range(len(found)),
        key=lambda i: (-found[i].num_bytes, found[i].start - found[i].end, i),
    )
    for index in sequence:
        block = found[index]
        together = [
            (offsets[i], offsets[i] + found[i].num_bytes)
            for i in offsets
            if found[i].start <= block.end and block.start <= found[i].end
        ]
        top = max((high for _, high in together), default=0)
        holes = []
        for low in [0, *(high for _, high in together)]:
            above = [other for other, high in together if high > low]
            room = min(above, default=None)
            if room is not None and room - low >= block.num_bytes:
                holes.append((room - low, low))
        offsets[index] = min(holes)[1] if holes else top
    return tuple(offsets[i] for i in range(len(found)))


@pytest.mark.parametrize("seed", range(15))
def test_reference(seed):
    found = drawn_blocks(seed)
    assert BestFit().place(found, generator()).offsets == naive(found)


def test_limits_a_hole_that_just_fits_and_one_a_byte_too_small():
    fits = blocks((0, 1, 64), (0, 3, 640), (2, 3, 64))
    assert arena(BestFit(), fits) == 704
    wide = blocks((0, 1, 64), (0, 3, 640), (2, 3, 128))
    assert BestFit().place(wide, generator()).offsets[2] == 640


def test_meaning_it_needs_less_than_placing_one_after_the_other():
    found = drawn_blocks(3, 60)
    assert arena(BestFit(), found) < 0.5 * sum(block.num_bytes for block in found)
    assert arena(BestFit(), found) < 1.15 * naive_live_bytes(found)
