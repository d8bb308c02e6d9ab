"""Routers as folders: there and back, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.errors import CheckpointError
from treadle.model.embed.specs import embedder_of
from treadle.runtime.routed.queries import QueryRouter, load_router
from treadle.runtime.routed.queries.folder import (
    DIRECTIONS_FILE,
    NUMBERS_FILE,
    RECORD_FILE,
    save_router,
)
from treadle.runtime.routed.queries.record import RouterRecord, TrainedOn
from treadle.runtime.routed.queries.scorers import (
    SCORERS,
    ClustersScores,
    ConstantScores,
    CosineScores,
    DrawnScores,
    LinearScores,
    NearestScores,
    PerceptronScores,
    TaskScores,
)

FEATURES = NgramFeatures(width=8)
DIM, MODELS = 5, ("a", "b", "c")


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MADE = {
    "constant": ConstantScores(drawn(3)),
    "drawn": DrawnScores(np.zeros(3, np.float32), 4),
    "table": TaskScores(drawn(2, DIM), drawn(2), drawn(2, 3)),
    "nearest": NearestScores(drawn(7, DIM), drawn(7, 3), 2),
    "clusters": ClustersScores(drawn(4, DIM), drawn(4, 3), 2, 9.0),
    "linear": LinearScores(drawn(3, DIM), drawn(3)),
    "mlp": PerceptronScores(drawn(6, DIM), drawn(6), drawn(3, 6), drawn(3)),
    "cosine": CosineScores(drawn(6, DIM), drawn(6), drawn(3, 6), 0.5),
}
TEXTS = ["what is 1 + 2?", "spell word", "é", ""]


def router(kind: str) -> QueryRouter:
    record = RouterRecord(
        method="made",
        settings={},
        models=MODELS,
        features=FEATURES,
        scorer={},
        best_single="b",
        trained_on=TrainedOn(questions=2, hash="x"),
        tasks=("t",),
    )
    return QueryRouter(record, MADE[kind], embedder_of(FEATURES), drawn(16, DIM), frozenset({3, 1}))


def change(folder, file, **values):
    said = json.loads((folder / file).read_text())
    for key, value in values.items():
        said[key] = value
    (folder / file).write_text(json.dumps(said))


def test_every_kind_is_here():
    assert MADE.keys() == {kind for kind in SCORERS if kind != "cascade"}


@pytest.mark.parametrize("kind", MADE)
def test_every_kind_comes_back_as_it_was(kind, tmp_path):
    made = router(kind)
    save_router(made, tmp_path)
    found = load_router(tmp_path)
    assert np.array_equal(found.scores(TEXTS), made.scores(TEXTS))
    assert found.questions == made.questions
    assert found.record.scorer["kind"] == kind
    assert found.record.projection == (DIM if MADE[kind].reads_vectors else None)
    assert found.choose(TEXTS) == [int(n) for n in made.scores(TEXTS).argmax(axis=1)]


@pytest.mark.parametrize("kind", MADE)
def test_a_query_has_the_same_scores_alone(kind):
    made = router(kind)
    together = made.scores(TEXTS)
    for text, scores in zip(TEXTS, together, strict=True):
        assert made.scores([text])[0] == pytest.approx(scores, abs=1e-5)


def test_no_record_and_no_numbers_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no router\.json; give the folder"):
        load_router(tmp_path)
    save_router(router("linear"), tmp_path)
    (tmp_path / NUMBERS_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_router(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "not what a router says of itself"),
        ({"models": ["a", "a", "b"]}, "models must differ"),
        ({"best_single": "z"}, "best_single be one of them"),
        ({"models": ["a", "b"]}, "3 models, and 2 were expected"),
        ({"projection": 4}, "finite projection to 4 numbers"),
        ({"projection": None}, "5 dim, and 16 were expected"),
        ({"features": {"kind": "ngrams", "width": 9}}, r"reads vectors of 16 .* have 18"),
        ({"scorer": {"kind": "oracle"}}, "scorer of kind 'oracle'"),
        ({"scorer": {"kind": "linear", "k": 3}}, "what nobody knows"),
        ({"scorer": {"kind": "nearest", "k": "3"}}, "says '3' of 'k'|hold 'vectors'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, values, message):
    save_router(router("linear"), tmp_path)
    change(tmp_path, RECORD_FILE, **values)
    with pytest.raises(CheckpointError, match=message):
        load_router(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *(("nearest", "k", 0), ("nearest", "k", -3), ("clusters", "top_k", 0)),
        *(("clusters", "beta", -1.0), ("clusters", "beta", float("nan"))),
        *(("cosine", "temperature", 0), ("cosine", "temperature", float("inf"))),
    ],
)
def test_numbers_of_scorers_that_make_no_sense_are_refused(tmp_path, kind, name, value):
    save_router(router(kind), tmp_path)
    said = json.loads((tmp_path / RECORD_FILE).read_text())["scorer"]
    change(tmp_path, RECORD_FILE, scorer={**said, name: value})
    with pytest.raises(CheckpointError, match=f"of '{name}' of its scorer '{kind}', and a number"):
        load_router(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("scorer.weight", None, r"hold 'weight' in float32 \[models, dim\], and holds none"),
        ("scorer.weight", np.zeros((3, DIM)), "holds float64"),
        ("scorer.weight", np.full((3, DIM), np.nan, np.float32), "not finite"),
        ("scorer.weight", np.zeros((3, 4), np.float32), "4 dim, and 5 were expected"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, name, values, message):
    save_router(router("linear"), tmp_path)
    tensors = load_file(tmp_path / NUMBERS_FILE)
    tensors.pop(name)
    save_file(tensors | ({} if values is None else {name: values}), tmp_path / NUMBERS_FILE)
    with pytest.raises(CheckpointError, match=message):
        load_router(tmp_path)


def test_scores_that_are_not_known_may_stand_in_nearest_alone(tmp_path):
    values = drawn(7, 3)
    values[2, 1] = np.nan
    made = router("nearest")._replace(scorer=NearestScores(drawn(7, DIM), values, 3))
    save_router(made, tmp_path)
    assert np.isfinite(load_router(tmp_path).scores(TEXTS)).all()


def test_directions_are_shared_and_checked(tmp_path):
    made = router("linear")
    for step in ("1", "2", ""):
        save_router(made, tmp_path / step, tmp_path)
    files = [tmp_path / step / DIRECTIONS_FILE for step in ("1", "2", "")]
    assert len({one.stat().st_ino for one in files}) == 1
    assert np.array_equal(load_router(tmp_path / "2").scores(TEXTS), made.scores(TEXTS))
    for wrong in (np.full((16, DIM), np.inf, np.float32), np.zeros((16, DIM)), np.zeros(3)):
        save_file({"projection": wrong}, files[2])
        with pytest.raises(CheckpointError, match="finite projection to 5 numbers"):
            load_router(tmp_path)
    files[2].unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_router(tmp_path)
