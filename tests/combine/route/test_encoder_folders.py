"""Routers whose queries are read by a model in a folder of its own."""

import shutil

import pytest

from combine.route.made import records, written
from treadle import route
from treadle.core.errors import CheckpointError
from treadle.model import tiny
from treadle.runtime.routed.queries import load_router


@pytest.mark.parametrize("kind", ["static", "states"])
def test_a_router_finds_its_model_from_every_directory(kind, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    tiny.build("llama", here / "model")
    written(here / "train.jsonl", records(20))
    monkeypatch.chdir(here)
    route("train.jsonl", "out", "knn", k=3, directions=4, encoder=f"{kind}:model")
    questions = [row["question"] for row in records(6, seed=1)]
    wanted = load_router(here / "out").scores(questions)
    monkeypatch.chdir(there)
    found = load_router(here / "out")
    assert found.scores(questions) == pytest.approx(wanted)
    assert found.record.features.folder == str(here / "model")
    shutil.rmtree(here / "model")
    told = rf"The router '{here / 'out'}' reads queries by '{here / 'model'}'.*(give|put|copy)"
    with pytest.raises(CheckpointError, match=told):
        load_router(here / "out")
