"""Every method on one architecture, every architecture with one, through the whole verb."""

import numpy as np
import pytest

from learn.tune.cases import PAIRS, QUESTIONS, written
from products import each_kind
from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.result import read_result
from treadle.learn.tune import LEARNERS, METHODS, tune
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

SETTINGS = {"steps": 2, "rows": 3, "learning_rate": 1e-2}
LEARN = {"matching": "mlp"}
"""How a learner is called that needs more than its name."""


def options(method, folder, teacher):
    rows = PAIRS if METHODS[method].takes == "pairs" else QUESTIONS
    found = {"data": written(folder / f"{method}.jsonl", rows), **SETTINGS}
    return {**found, "teacher": str(teacher)} if METHODS[method].has_teacher else found


@pytest.mark.parametrize("method", METHODS.table)
def test_every_method_gives_the_same_bytes_for_the_same_seed(method, llama, tiny_model, tmp_path):
    more = options(method, tmp_path, tiny_model("llama", num_hidden_layers=1))
    one = tune(llama, tmp_path / "a", method, seed=1, **more)
    tune(llama, tmp_path / "b", method, seed=1, **more)
    tune(llama, tmp_path / "c", method, seed=2, **more)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "c")
    assert {figure.title for figure in one.figures} >= {
        "Training loss",
        "Gradient norm",
        "Training speed",
        "Memory of training",
    }
    assert one.fingerprint == read_result(tmp_path / "a").fingerprint
    assert not list(tmp_path.glob(".*.tuning"))


@pytest.mark.parametrize("learner", LEARNERS.table)
def test_every_learner_leaves_what_does_not_learn(learner, llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    learn = LEARN.get(learner, learner)
    result = tune(llama, tmp_path / "out", "sft", data=data, learn=learn, **SETTINGS)
    assert result.settings["learn"]["method"] == learner
    share = result.measurement("learning_weights").value / 82240
    assert 0 < share <= 1
    if LEARNERS[learner].is_adapter:
        assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
        return
    with CheckpointReader(llama) as before, CheckpointReader(tmp_path / "out") as after:
        changed = [
            name
            for name in before.tensors
            if not np.array_equal(before.array(name), after.array(name))
        ]
        assert len(changed) == len(before.tensors) or share < 1
        assert changed


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_optimizer(optimizer, llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    settings = {**SETTINGS, "steps": 6}
    result = tune(llama, tmp_path / "out", "sft", data=data, optimizer=optimizer, **settings)
    assert result.measurement("loss_last").value < result.measurement("loss_first").value


@pytest.mark.parametrize("method", METHODS.table)
def test_fewer_bits_teach_nearly_the_same(method, llama, tmp_path):
    more = options(method, tmp_path, llama) | {"learning_rate": 1e-4}
    found = [
        tune(llama, tmp_path / compute, method, compute=compute, **more)
        for compute in ("float32", "bfloat16")
    ]
    losses = [result.measurement("loss_last").value for result in found]
    assert losses[0] == pytest.approx(losses[1], rel=0.02, abs=0.02)
    assert found[1].settings["compute"] == "bfloat16"


@pytest.mark.filterwarnings("ignore::treadle.native.loader.SlowPathWarning")
@pytest.mark.parametrize("model_type", each_kind(tiny.CONFIGS))
@pytest.mark.parametrize("learn", ["all", "lora"])
def test_every_architecture_learns_and_answers(model_type, learn, tiny_model, tmp_path):
    base = tiny_model(model_type)
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    settings = {**SETTINGS, "steps": 3, "rows": 6}
    result = tune(base, tmp_path / "out", "sft", data=data, learn=learn, **settings)
    assert not [note for note in result.notes if "rows of their own" in note]
    adapters = {"tuned": tmp_path / "out"} if learn == "lora" else {}
    llm = LLM(base if adapters else tmp_path / "out", adapters=adapters)
    prompt, answer = QUESTIONS[0]["prompt"], QUESTIONS[0]["answer"]
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    found = []
    for model, name in ((llm, "tuned" if adapters else None), (LLM(base), None)):
        (given,) = model.generate([prompt + answer], asked, adapter=name)
        logprobs = given.prompt_logprobs[-3:]
        tokens = given.prompt_token_ids[-3:]
        found.append(sum(p[t] for p, t in zip(logprobs, tokens, strict=True)))
    assert found[0] > found[1] + 0.1
