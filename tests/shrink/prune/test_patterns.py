"""Patterns: parsing, counting, and which scores go."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from treadle.core.errors import SettingsError
from treadle.shrink.prune.patterns import (
    KINDS,
    Pattern,
    choose,
    parse_pattern,
    pattern_sparsity,
    require_divisible,
)

SCORES = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda size: arrays(
        np.float32, (size[0], 4 * size[1]), elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])
    )
)


def lowest(scores: list[float], count: int) -> list[bool]:
    """Keep-mask without the `count` lowest; of equal ones the first go."""
    order = sorted(range(len(scores)), key=lambda place: (scores[place], place))
    return [place not in order[:count] for place in range(len(scores))]


@given(SCORES, st.integers(0, 8))
def test_rows_against_a_sort(scores: np.ndarray, eighths: int) -> None:
    found = choose(torch.from_numpy(scores), parse_pattern("rows"), eighths / 8)
    count = scores.shape[1] * eighths // 8
    assert found.tolist() == [lowest(row, count) for row in scores.tolist()]


@given(SCORES, st.integers(0, 8))
def test_tensor_against_a_sort(scores: np.ndarray, eighths: int) -> None:
    found = choose(torch.from_numpy(scores), parse_pattern("tensor"), eighths / 8)
    count = scores.size * eighths // 8
    assert found.flatten().tolist() == lowest(scores.flatten().tolist(), count)


@given(SCORES, st.sampled_from(["1:2", "1:4", "2:4", "3:4"]))
def test_n_of_m_against_a_sort(scores: np.ndarray, pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    found = choose(torch.from_numpy(scores), parse_pattern(pattern), 0.5)
    groups = scores.reshape(-1, m).tolist()
    assert found.reshape(-1, m).tolist() == [lowest(group, m - n) for group in groups]


def test_scores_that_are_no_contiguous_block() -> None:
    scores = torch.arange(24.0).reshape(4, 6).T
    found = choose(scores, parse_pattern("rows"), 0.5)
    assert found.tolist() == [[False, False, True, True]] * 6


@pytest.mark.parametrize("text", [*(kind for kind in KINDS if kind != "n:m"), "2:4", "1:16"])
def test_a_pattern_reads_as_it_is_written(text: str) -> None:
    assert str(parse_pattern(text)) == text


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4", "0:0"])
def test_an_n_of_m_that_keeps_nothing_or_everything(text: str) -> None:
    n, m = text.split(":")
    with pytest.raises(SettingsError) as caught:
        parse_pattern(text)
    assert str(caught.value) == (
        f"pattern {text} keeps {n} of every {m}; give 0 < n < m, such as 2:4."
    )


@pytest.mark.parametrize(("text", "near"), [("row", "rows"), ("neuron", "neurons"), ("n:m", None)])
def test_an_unknown_pattern(text: str, near: str | None) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_pattern(text)
    assert f"Unknown pattern '{text}'." in str(caught.value)
    assert "n:m stands for numbers such as 2:4" in str(caught.value)
    if near:
        assert f"Did you mean '{near}'?" in str(caught.value)


def test_the_sparsity_of_a_pattern() -> None:
    rows, groups = parse_pattern("rows"), parse_pattern("3:4")
    assert pattern_sparsity(rows, None) == 0.5
    assert pattern_sparsity(rows, 0.0) == 0.0
    assert pattern_sparsity(rows, 1.0) == 1.0
    assert pattern_sparsity(groups, None) == pattern_sparsity(groups, 0.25) == 0.25
    with pytest.raises(SettingsError, match=r"pattern 3:4 removes 0\.25 .* but sparsity = 0\.5"):
        pattern_sparsity(groups, 0.5)


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, float("nan"), 50.0])
def test_a_sparsity_outside_0_to_1(sparsity: float) -> None:
    for pattern in ("rows", "2:4"):
        with pytest.raises(SettingsError) as caught:
            pattern_sparsity(parse_pattern(pattern), sparsity)
        assert f"sparsity = {sparsity} is outside 0..1" in str(caught.value)


def test_rows_that_m_does_not_divide() -> None:
    require_divisible(Pattern("rows"), 10, "t")
    require_divisible(Pattern("n:m", 2, 4), 12, "t")
    with pytest.raises(SettingsError) as caught:
        require_divisible(Pattern("n:m", 2, 4), 10, "mlp.down")
    assert str(caught.value) == (
        "pattern 2:4 does not fit tensor 'mlp.down': its 10 inputs are no multiple of 4; "
        "choose an m that divides 10."
    )
