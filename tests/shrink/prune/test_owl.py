import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.prune.cases import SEEDS, known, normal
from treadle.core.errors import SettingsError
from treadle.shrink.prune.base import Statistics
from treadle.shrink.prune.methods.owl import OWL

Block = list[tuple[torch.Tensor, Statistics]]


def blocks_of(num: int, seed: int) -> list[Block]:
    """Blocks of two matrices; heavier tails, and so more outliers, the later the block."""
    found = []
    for block in range(num):
        x = normal(20, 16, seed=seed + block)
        x[:, 0] *= 1.0 + 10.0 * block
        statistics = known(x)
        weights = [normal(8, 16, seed=seed + 100 * block + k) ** 3 for k in range(2)]
        found.append([(weight, statistics) for weight in weights])
    return found


def naive(blocks: list[Block], sparsity: float, multiple: float, span: float) -> list[float]:
    shares = []
    for block in blocks:
        scores = [
            abs(float(w[i, j])) * float(s.inputs.gram[j, j]) ** 0.5
            for w, s in block
            for i in range(w.shape[0])
            for j in range(w.shape[1])
        ]
        limit = multiple * sum(scores) / len(scores)
        shares.append(sum(value > limit for value in scores) / len(scores))
    low, high = min(shares), max(shares)
    if low == high:
        return [sparsity] * len(blocks)
    moves = [2 * span * (share - low) / (high - low) for share in shares]
    return [sparsity - (move - sum(moves) / len(moves)) for move in moves]


@given(st.integers(1, 5), SEEDS, st.sampled_from([2.0, 5.0]), st.sampled_from([0.0, 0.08, 0.2]))
def test_reference(num: int, seed: int, multiple: float, span: float) -> None:
    blocks = blocks_of(num, seed)
    found = OWL(outlier_multiple=multiple, span=span).allocate(blocks, 0.5)
    assert found == pytest.approx(naive(blocks, 0.5, multiple, span), abs=1e-9)
    assert sum(found) / num == pytest.approx(0.5)
    assert max(found) - min(found) <= 2 * span + 1e-9


def test_limits_equal_blocks_and_one_block_share_equally() -> None:
    same = blocks_of(1, 0) * 3
    assert OWL().allocate(same, 0.3) == [0.3] * 3
    assert OWL().allocate(same[:1], 1.0) == [1.0]


def test_limits_a_share_outside_0_to_1() -> None:
    with pytest.raises(SettingsError) as caught:
        OWL(span=0.2).allocate(blocks_of(3, 0), 0.95)
    assert "owl with span 0.2 around sparsity 0.95 asks for" in str(caught.value)
    assert "lower the span or move the sparsity towards 0.5" in str(caught.value)


def test_meaning_blocks_with_outliers_stay_denser() -> None:
    quiet = [(normal(8, 16, seed=0).sign(), known(torch.ones(4, 16)))]
    weight = normal(8, 16, seed=1).sign()
    weight[0, 0] = 1000.0
    loud = [(weight, known(torch.ones(4, 16)))]
    found = OWL().allocate([quiet, loud, quiet], 0.5)
    assert found[1] < 0.5 < found[0] == found[2]
    assert found[0] - found[1] == pytest.approx(2 * 0.08)


def test_the_blocks_are_read_once_lazily() -> None:
    seen = []

    def blocks():
        for place, block in enumerate(blocks_of(3, 0)):
            seen.append(place)
            yield block

    OWL().allocate(blocks(), 0.5)
    assert seen == [0, 1, 2]
