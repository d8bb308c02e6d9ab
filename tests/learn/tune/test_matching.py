"""Weights learn in whose names a pattern is found; --learn takes it as it is."""

import json

import numpy as np
import pytest

from learn.tune.cases import QUESTIONS, SHORT, written
from treadle.cli import main
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError
from treadle.core.result import read_result
from treadle.learn.tune import tune
from treadle.learn.tune.methods.matching import Matching

SHAPES = {"model.layers.0.mlp.up.weight": (2, 2), "lm_head.weight": (2, 2)}


def test_names_are_searched():
    assert Matching(pattern="mlp").names(SHAPES) == ["model.layers.0.mlp.up.weight"]
    assert Matching(pattern="").names(SHAPES) == list(SHAPES)
    with pytest.raises(SettingsError, match="'lroa' is neither all, lora nor norms, and is found"):
        Matching(pattern="lroa").names(SHAPES)
    with pytest.raises(SettingsError, match="no regular expression"):
        Matching(pattern="(").names(SHAPES)


def test_a_recipe_and_a_command_take_a_pattern_and_every_input_may_be_an_artefact(llama, tmp_path):
    written(tmp_path / "rows.jsonl", QUESTIONS)
    steps = [
        {"method": "sft", "model": str(llama), "learn": "mlp|norm", "out": "a"},
        {
            "method": "distill",
            "model": "a",
            "teacher": "a",
            "learn": {"method": "lora"},
            "out": "b",
        },
    ]
    shared = {"data": str(tmp_path / "rows.jsonl"), "steps": 1, "rows": 2}
    recipe = {"name": "t", "out": "runs", "steps": [{"tune": {**s, **shared}} for s in steps]}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    main(["run", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "runs")])
    assert (tmp_path / "runs" / "b" / "adapter_config.json").is_file()
    words = ["tune", "sft", str(llama), str(tmp_path / "c"), "--data", shared["data"]]
    main([*words, "--steps", "1", "--learn", "mlp|norm"])
    assert read_result(tmp_path / "c").settings["learn"]["pattern"] == "mlp|norm"


def test_learn_takes_a_pattern(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    tune(llama, tmp_path / "out", "sft", data=data, learn=r"layers\.1\.mlp", **SHORT)
    with CheckpointReader(llama) as before, CheckpointReader(tmp_path / "out") as after:
        for name in before.tensors:
            is_same = np.array_equal(before.array(name), after.array(name))
            assert is_same == ("layers.1.mlp" not in name), name
