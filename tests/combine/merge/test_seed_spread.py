"""How much a random draw matters, against two whole merges with two seeds."""

import numpy as np
import pytest

from combine.merge.models import arrays_of, run
from treadle.combine.merge import METHODS, account

DRAWN = [name for name in METHODS.table if METHODS[name].draws]


def flat(folder) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in arrays_of(folder).values()]).astype(np.float64)


def spread_of(result) -> list[float]:
    return [one.value for one in result.measurements if one.name == "seed spread"]


def test_methods_that_draw_say_so(family) -> None:
    assert DRAWN == ["dare_ties", "dare_linear", "della", "della_linear"]


@pytest.mark.parametrize("method", DRAWN)
def test_spread_is_the_distance_of_two_seeds_in_changes(family, method, tmp_path) -> None:
    settings = {"base": family.base, "density": 0.5, "seed": 3}
    result = run(family.experts, tmp_path / "a", method, **settings)
    run(family.experts, tmp_path / "b", method, **{**settings, "seed": 4})
    first, second, base = flat(tmp_path / "a"), flat(tmp_path / "b"), flat(family.base)
    expected = np.linalg.norm(first - second) / np.linalg.norm(first - base)
    assert spread_of(result) == pytest.approx([expected], rel=1e-4)
    assert any("judge the method by several seeds" in note for note in result.notes)


def test_what_keeps_more_spreads_less(family, tmp_path) -> None:
    found = []
    for share in (0.2, 0.5, 0.9):
        options = {"base": family.base, "density": share}
        found += spread_of(run(family.experts, tmp_path / str(share), "dare_linear", **options))
    assert found[0] > 1.2 * found[1] > 1.5 * found[2]


@pytest.mark.parametrize(("method", "share"), [("dare_ties", 1.0), ("della", 0.0), ("ties", 0.5)])
def test_without_a_draw_there_is_none(family, method, share, tmp_path) -> None:
    result = run(family.experts, tmp_path / "out", method, base=family.base, density=share)
    assert not spread_of(result)


@pytest.mark.parametrize("most", [1, 20_000])
def test_a_large_model_is_sampled(family, most, tmp_path, monkeypatch) -> None:
    options = {"base": family.base, "density": 0.5}
    whole = run(family.experts, tmp_path / "whole", "dare_linear", **options)
    monkeypatch.setattr(account, "_SAMPLE_ELEMENTS", most)
    sampled = run(family.experts, tmp_path / "part", "dare_linear", **options)
    (measured,) = [one for one in sampled.measurements if one.name == "seed spread"]
    size = int(measured.note.rsplit(" of ", 1)[1].split()[0])
    assert size <= max(most, 64)
    assert measured.value == pytest.approx(spread_of(whole)[0], rel=0.4)
