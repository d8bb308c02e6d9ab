"""Routers that `treadle route` made, behind the server under names of their own."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from treadle.core.errors import CheckpointError, SettingsError
from treadle.deploy.serve.opening import open_all
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.model import tiny
from treadle.model.embed.specs import embedder_of
from treadle.runtime.routed.queries.folder import save_router
from treadle.runtime.routed.queries.query import QueryRouter
from treadle.runtime.routed.queries.record import RouterRecord
from treadle.runtime.routed.queries.scorers import ConstantScores, LinearScores

from .bundles import SUMS, WORDS
from .servers import add_template, running

FP32 = ServeEngineSettings(weights="fp32")
HEAD = {
    "method": "ridge",
    "settings": {},
    "features": {"kind": "ngrams", "width": 64, "orders": [1]},
    "scorer": {"kind": "linear"},
    "trained_on": {"questions": 2, "hash": "x"},
}


def router(folder: Path, *names: str, is_constant: bool = False) -> Path:
    """Write a router that sends what looks like `SUMS` to the second name, the rest to the first.

    A constant one always chooses the last.
    """
    record = RouterRecord.model_validate({**HEAD, "models": names, "best_single": names[0]})
    embedder = embedder_of(record.features)
    scorer = LinearScores(embedder.embed([WORDS, SUMS]), np.zeros(2, np.float32))
    if is_constant:
        scorer = ConstantScores(np.arange(len(names), dtype=np.float32))
    save_router(QueryRouter(record, scorer, embedder), folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    built = [tiny.build("llama", folder / name, seed) for seed, name in enumerate(("one", "two"))]
    return [str(add_template(one)) for one in built]


def test_routers_answer_by_their_names(models, tmp_path):
    given = [f"words={models[0]}", f"sums={models[1]}", f"alias={models[1]}"]
    routers = [
        str(router(tmp_path / "r", "words", "sums")),
        f"always={router(tmp_path / 'c', 'sums', 'alias', is_constant=True)}",
    ]
    opened = open_all(given, (), FP32, routers)
    assert opened.names == ["words", "sums", "alias", "auto", "always"]
    with (
        running(opened.models, routers=opened.routers) as found,
        httpx.Client(base_url=found.url, timeout=60) as http,
    ):

        def answered(**body) -> tuple[str, str]:
            reply = http.post("/v1/completions", json={"max_tokens": 1, **body})
            return reply.headers["x-treadle-routed"], reply.json()["model"]

        assert answered(model="auto", prompt=SUMS) == ("auto", "sums")
        assert answered(prompt=WORDS) == ("auto", "words")
        assert answered(model="always", prompt=WORDS) == ("always", "alias")
        told = http.get("/v1/models/auto").json()
        assert told["root"] == str(tmp_path / "r")


def test_a_router_for_other_models_is_refused(models, tmp_path):
    folder = router(tmp_path / "r", "words", "poems")
    wanted = r"chooses among words, poems, but this server has no poems; its models are words, two"
    with pytest.raises(SettingsError, match=wanted):
        open_all([f"words={models[0]}", models[1]], (), FP32, [str(folder)])
    with pytest.raises(SettingsError, match=r"is called 'words' for clients.*NAME=FOLDER"):
        open_all([f"words={models[0]}"], (), FP32, [f"words={folder}"])
    for half in (f"={folder}", "words="):
        with pytest.raises(SettingsError, match=f"Found router '{half}', expected NAME=FOLDER"):
            open_all([f"words={models[0]}"], (), FP32, [half])
    with pytest.raises(SettingsError, match="is called 'auto' for clients"):
        open_all([f"auto={models[0]}"], (), FP32, [str(folder)])
    with pytest.raises(CheckpointError, match=r"holds no router\.json"):
        open_all([models[0]], (), FP32, [models[1]])
