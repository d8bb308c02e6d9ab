"""Weights learn in whose names a pattern is found; --learn takes it as it is."""

import numpy as np
import pytest

from learn.tune.cases import QUESTIONS, SHORT, written
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError
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


def test_learn_takes_a_pattern(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    tune(llama, tmp_path / "out", "sft", data=data, learn=r"layers\.1\.mlp", **SHORT)
    with CheckpointReader(llama) as before, CheckpointReader(tmp_path / "out") as after:
        for name in before.tensors:
            is_same = np.array_equal(before.array(name), after.array(name))
            assert is_same == ("layers.1.mlp" not in name), name
