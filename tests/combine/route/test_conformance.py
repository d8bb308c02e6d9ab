"""Every method through the driver: a folder that loads, the same bytes, better than chance."""

from pathlib import Path

import numpy as np
import pytest

from combine.route.made import MODELS, records, written
from treadle import route
from treadle.combine.route import METHODS, route_evaluate
from treadle.combine.route.maths.descent import TrainedRoute
from treadle.core.checkpoint import read_manifest
from treadle.core.checkpoint.sidefiles import check_side_file
from treadle.core.result import read_result
from treadle.runtime.routed.queries import load_router

EVERY = [name for name in METHODS.table if name != "cascade"]
"""A cascade needs confidences, and does not look at queries: test_cascade has its own."""
LEARNING = [name for name in EVERY if name not in ("random", "best_single")]
QUICK = {"steps": 60, "every": 30, "batch": 16}


def settings(method: str) -> dict[str, object]:
    own = QUICK if issubclass(METHODS[method], TrainedRoute) else {}
    return {"method": method, **own} | ({"k": 15} if method == "knn" else {})


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("scores") / "train.jsonl", records(80))


@pytest.fixture(scope="module")
def test(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("scores") / "test.jsonl", records(40, seed=1))


@pytest.mark.parametrize("method", EVERY)
def test_every_method_makes_a_folder_that_loads_and_says_what_it_is(method, train, tmp_path):
    result = route(train, tmp_path / "out", settings(method), directions=16)
    assert read_result(tmp_path / "out") == result
    router = load_router(tmp_path / "out")
    assert router.models == MODELS
    scores = router.scores(["add a sum?", "", "日本 \ud800"])
    assert scores.shape == (3, 3)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert router.choose(["add a sum?"]) == [int(scores[0].argmax())]
    assert router.scores([]).shape == (0, 3)
    assert router.record.trained_on.questions == 80
    assert router.record.tasks == ("letters", "sums")
    assert len(router.questions) == 80
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert [check_side_file(tmp_path / "out", one) for one in manifest.side_files] == [""] * len(
        manifest.side_files
    )


@pytest.mark.parametrize("method", EVERY)
def test_the_same_seed_gives_the_same_bytes(method, train, tmp_path):
    for name in ("a", "b"):
        route(train, tmp_path / name, settings(method), directions=16)
    for name in ("router.json", "router.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("method", LEARNING)
def test_every_method_that_looks_beats_one_model_for_all(method, train, test, tmp_path):
    route(train, tmp_path / "out", settings(method), directions=16)
    found = route_evaluate(tmp_path / "out", test, tmp_path / "result")
    assert found.measurement("difference").low > 0.1
    assert found.measurement("score").value > 0.8


@pytest.mark.parametrize("method", ["matrix", "mlp", "routerdc"])
def test_training_saves_its_steps_and_keeps_the_best(method, train, test, tmp_path):
    result = route(train, tmp_path / "out", settings(method), directions=16)
    folders = sorted((tmp_path / "out" / "steps").iterdir())
    assert [one.name for one in folders] == ["000030", "000060"]
    (curve,) = [one for one in result.figures if one.y_label == "worth"]
    by_name = {one.name: one.y for one in curve.series}
    best = int(np.argmax(by_name["development"]))
    assert result.measurement("dev_score").value == pytest.approx(by_name["development"][best])
    kept = (tmp_path / "out" / "router.safetensors").read_bytes()
    assert kept == (folders[best] / "router.safetensors").read_bytes()
    judged = [route_evaluate(one, test, tmp_path / one.name) for one in folders]
    assert judged[0].fingerprint != judged[1].fingerprint
