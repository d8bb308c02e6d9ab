"""The global threshold against one full sort of all scores, ties included."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from treadle.core.keep import num_pruned
from treadle.shrink.prune.global_threshold import find_threshold

TIES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 3e38, 1e-45, -1e-45])
FLOATS = st.floats(width=32, allow_nan=False)


def matrices(elements: st.SearchStrategy[float]) -> st.SearchStrategy[list[np.ndarray]]:
    shape = st.tuples(st.integers(1, 5), st.integers(1, 5))
    return st.lists(
        shape.flatmap(lambda size: arrays(np.float32, size, elements=elements)),
        min_size=1,
        max_size=4,
    )


def assert_equals_full_sort(scores: list[np.ndarray], sparsity: float) -> None:
    named = {f"m{place}": torch.from_numpy(score) for place, score in enumerate(scores)}
    num_passes = 0

    def passes() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal num_passes
        num_passes += 1
        yield from named.items()

    found = find_threshold(passes, lambda total: num_pruned(total, sparsity))
    flat = np.concatenate([score.reshape(-1) for score in scores])
    count = num_pruned(len(flat), sparsity)
    expected = np.ones(len(flat), bool)
    expected[np.argsort(flat, kind="stable")[:count]] = False
    mask = np.concatenate([found.keep(n, s).numpy().reshape(-1) for n, s in named.items()])
    np.testing.assert_array_equal(mask, expected)
    assert num_passes == 3


@given(matrices(TIES), st.floats(0, 1))
def test_ties_go_in_visiting_order(scores: list[np.ndarray], sparsity: float) -> None:
    assert_equals_full_sort(scores, sparsity)


@given(matrices(FLOATS), st.floats(0, 1))
def test_any_floats(scores: list[np.ndarray], sparsity: float) -> None:
    assert_equals_full_sort(scores, sparsity)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_limits_all_equal(sparsity: float) -> None:
    assert_equals_full_sort([np.zeros((3, 4), np.float32), np.zeros((1, 2), np.float32)], sparsity)


def test_scores_of_transposed_matrices() -> None:
    score = torch.arange(12.0).reshape(3, 4).T
    found = find_threshold(lambda: iter([("a", score)]), lambda total: total // 2)
    assert torch.equal(found.keep("a", score), score >= 6)
