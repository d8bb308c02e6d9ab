from hypothesis import given

from shrink.prune.cases import INS, OUTS, SEEDS, known, normal, output_error, pruned_by, score
from treadle.shrink.prune.methods.magnitude import Magnitude
from treadle.shrink.prune.methods.random import Random


@given(OUTS, INS, SEEDS)
def test_reference(out: int, width: int, seed: int) -> None:
    weight = normal(out, width, seed=seed)
    found = score(Magnitude(), weight, known())
    for i in range(out):
        for j in range(width):
            assert float(found[i, j]) == abs(float(weight[i, j]))


def test_limits_equal_sizes_go_from_the_left() -> None:
    weight = normal(3, 8, seed=0).sign()
    kept = pruned_by(Magnitude(), weight, known()) != 0
    assert kept.tolist() == [[False] * 4 + [True] * 4] * 3


def test_meaning_beats_random_where_sizes_differ() -> None:
    weight, x = normal(16, 32, seed=1) ** 3, normal(64, 32, seed=2)
    mine = output_error(weight, pruned_by(Magnitude(), weight, known()), x)
    control = output_error(weight, pruned_by(Random(), weight, known()), x)
    assert mine < 0.2 * control
