"""TIES with one threshold for a whole model, as its authors have it."""

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.models import arrays_of, bytes_of, run
from combine.merge.sites import COUNTS, RUNS, SEEDS, MemorySite, merged, normal, tuned
from treadle.combine.merge import merge_yaml
from treadle.combine.merge import run as runs
from treadle.combine.merge.methods.ties import Ties
from treadle.core.errors import SettingsError

SHAPES = [(3, 4), (5,), (), (2, 2, 3)]


def of_models(method: Ties, sites: list[MemorySite]) -> np.ndarray:
    """Merge tensors as the driver does; return all of them in one row."""

    def visit_all(visit) -> None:
        for site in reversed(sites):
            visit(site)

    found = method.survey(visit_all, len(sites[0].keys))
    for site in sites:
        site.surveyed = found
    return np.concatenate([merged(method, site).reshape(-1) for site in sites])


def naive(deltas: np.ndarray, weights: list[float], densities: list[float], normalize: bool):
    """The authors' steps on the flattened vectors [models, elements], one element at a time."""
    kept = []
    for delta, share in zip(deltas, densities, strict=True):
        sizes = sorted((abs(float(x)) for x in delta), reverse=True)
        count = max(1, int(share * len(sizes))) if share else 0
        least = sizes[count - 1] if count else np.inf
        kept.append([float(x) if abs(float(x)) >= least else 0.0 for x in delta])
    sums = []
    for column in zip(*kept, strict=True):
        total = np.float32(0.0)
        for weight, value in zip(weights, column, strict=True):
            total = np.float32(total + np.float32(np.float32(weight) * np.float32(value)))
        sums.append(total)
    most = 1 if sum(int(np.sign(total)) for total in sums) >= 0 else -1
    found = []
    for place, total in enumerate(sums):
        sign = int(np.sign(total)) or most
        agree = [n for n in range(len(kept)) if kept[n][place] * sign > 0]
        value = sum(weights[n] * kept[n][place] for n in agree)
        divisor = sum(weights[n] for n in agree) if normalize and agree else 1.0
        found.append(value / divisor)
    return np.array(found)


@given(COUNTS, SEEDS, RUNS, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans())
def test_reference(count, seed, length, density, normalize) -> None:
    weights, densities = [1.0, 0.5, 2.0, 0.25][:count], [density, 0.3, 0.7, 1.0][:count]
    pairs = [tuned(shape, count, seed + 50 * n) for n, shape in enumerate(SHAPES)]
    sites = [MemorySite(models, base, length) for models, base in pairs]
    method = Ties(
        scope="model", weight=tuple(weights), density=tuple(densities), normalize=normalize
    )
    base = np.concatenate([base.reshape(-1) for _, base in pairs])
    deltas = np.stack(
        [np.concatenate([m[n].reshape(-1) for m, _ in pairs]) - base for n in range(count)]
    )
    expected = base + naive(deltas, weights, densities, normalize)
    np.testing.assert_allclose(of_models(method, sites), expected, rtol=2e-5, atol=2e-6)


def test_limits_one_tensor_is_the_usual_method() -> None:
    models, base = tuned((6, 7), 3, seed=0)
    site = MemorySite(models, base)
    found = of_models(Ties(scope="model", density=0.3), [site])
    assert np.array_equal(found, merged(Ties(density=0.3), MemorySite(models, base)).reshape(-1))


def test_limits_elements_of_the_threshold_all_stay() -> None:
    base = np.zeros(4, np.float32)
    sites = [MemorySite([np.array(d, np.float32)], base) for d in ([1, 2, 1, 0], [1, -1, 0, 3])]
    found = of_models(Ties(scope="model", density=0.5), sites)
    assert found.tolist() == [1, 2, 1, 0, 1, -1, 0, 3]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_limits_a_sum_of_zero_takes_the_sign_of_most(sign: float) -> None:
    base = np.zeros(3, np.float32)
    one = np.array([1, sign, sign], np.float32)
    other = np.array([-1, sign, sign], np.float32)
    found = of_models(Ties(scope="model"), [MemorySite([one, other], base)])
    assert found.tolist() == [sign, sign, sign]


def test_limits_norms_are_not_given_back_to_tensors() -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        Ties(scope="model", rescale=True)


def test_meaning_a_tensor_of_noise_takes_nothing_from_one_that_learned() -> None:
    base = np.zeros((20, 20), np.float32)
    learned, noise = normal(20, 20, seed=0), 0.01 * normal(20, 20, seed=1)
    pair = [MemorySite([learned], base), MemorySite([noise], base)]
    found = of_models(Ties(scope="model", density=0.5), pair).reshape(2, 20, 20)
    assert np.abs(found[0] - learned).max() < np.abs(learned).min() + 0.05
    assert (found[1] == 0.0).mean() > 0.95
    alone = merged(Ties(density=0.5), pair[0])
    assert np.square(alone - learned).sum() > 10 * np.square(found[0] - learned).sum()


def test_workers_and_a_kill_do_not_change_a_byte(family, tmp_path, monkeypatch) -> None:
    settings = {"base": family.base, "density": 0.2, "scope": "model"}
    run(family.experts, tmp_path / "one", "ties", workers=1, **settings)
    run(family.experts, tmp_path / "four", "ties", workers=4, verify=True, **settings)
    expected = bytes_of(tmp_path / "one")
    assert bytes_of(tmp_path / "four") == expected
    run(family.experts, tmp_path / "tensor", "ties", base=family.base, density=0.2)
    assert bytes_of(tmp_path / "tensor") != expected
    monkeypatch.setattr(runs, "_SYNC_BYTES", 20_000)
    pid = os.fork()
    if pid == 0:
        real, done = runs._merge, []

        def killed(job, writer) -> None:
            if len(done) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(job)
            real(job, writer)

        runs._merge = killed
        run(family.experts, tmp_path / "out", "ties", workers=1, **settings)
        os._exit(7)
    os.waitpid(pid, 0)
    result = run(family.experts, tmp_path / "out", "ties", workers=2, **settings)
    assert any("Resumed" in note for note in result.notes)
    assert bytes_of(tmp_path / "out") == expected


def test_the_density_is_that_of_all_elements(family, tmp_path) -> None:
    run(family.experts[:1], tmp_path / "out", "ties", base=family.base, density=0.1, scope="model")
    found, start = arrays_of(tmp_path / "out"), arrays_of(family.base)
    changed = sum(int((found[name] != start[name]).sum()) for name in start)
    total = sum(value.size for value in start.values())
    assert changed == pytest.approx(0.1 * total, rel=0.01)


def test_a_recipe_may_say_so_once_for_all(family, tmp_path) -> None:
    text = (
        f"merge_method: ties\nbase_model: {family.base}\nmodels:\n"
        + "".join(f"- {{model: {m}, parameters: {{weight: 1.0}}}}\n" for m in family.experts)
        + "parameters: {scope: model, density: 0.2}\n"
    )
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(text)
    merge_yaml(recipe, tmp_path / "yaml")
    settings = {"base": family.base, "density": 0.2, "scope": "model"}
    run(family.experts, tmp_path / "direct", "ties", **settings)
    assert bytes_of(tmp_path / "yaml") == bytes_of(tmp_path / "direct")
    recipe.write_text(text.replace("density: 0.2", "density: [0.2, 0.4]"))
    with pytest.raises(SettingsError, match="give one value of each setting"):
        merge_yaml(recipe, tmp_path / "other")
