"""All weights learn, and are written in the dtypes that they had."""

import numpy as np

from learn.tune.cases import QUESTIONS, SHORT, written
from treadle.core.checkpoint import CheckpointReader, copy_checkpoint
from treadle.learn.tune import tune
from treadle.learn.tune.methods.all import All


def test_every_name_learns():
    assert All().names({"a": (1,), "b": (2, 3)}) == ["a", "b"]
    assert All().names({}) == []


def test_every_tensor_changes_and_keeps_its_dtype(llama, tmp_path):
    copy_checkpoint(llama, tmp_path / "half", dtype="bfloat16")
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    tune(tmp_path / "half", tmp_path / "out", "sft", data=data, **SHORT)
    with CheckpointReader(tmp_path / "half") as before, CheckpointReader(tmp_path / "out") as after:
        assert before.config == after.config
        for name, info in before.tensors.items():
            assert after.tensors[name].dtype == info.dtype == "BF16"
            own, found = (np.asarray(r.array(name), np.float32) for r in (before, after))
            assert not np.array_equal(own, found), name
