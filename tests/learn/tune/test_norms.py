"""Norms learn alone: all else keeps its bytes."""

import numpy as np
import pytest

from learn.tune.cases import QUESTIONS, SHORT, written
from treadle.core.checkpoint import CheckpointReader
from treadle.learn.tune import tune
from treadle.learn.tune.methods.norms import Norms
from treadle.model import tiny


def test_only_norms_change(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    result = tune(llama, tmp_path / "out", "sft", data=data, learn="norms", **SHORT)
    assert result.measurement("learning_weights").value == 5 * 64
    with CheckpointReader(llama) as before, CheckpointReader(tmp_path / "out") as after:
        for name in before.tensors:
            is_same = np.array_equal(before.array(name), after.array(name))
            assert is_same == ("norm" not in name), name


@pytest.mark.parametrize("model_type", tiny.CONFIGS)
def test_every_architecture_has_norms(model_type):
    shapes = {name: tuple(p.shape) for name, p in tiny.model(model_type).named_parameters()}
    found = Norms().names(shapes)
    per_block = [name for name in found if ".1." in name]
    assert len(per_block) >= 1
    assert any(".1." not in name and ".0." not in name for name in found), "the last one"
    assert not any("proj" in name for name in found)


def test_a_model_without_norms_has_none():
    assert Norms().names({"linear.weight": (4,), "norm.weight": (2, 2)}) == []
