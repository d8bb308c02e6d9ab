"""The native step is taken where it agrees with transformers, and left where it does not."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from treadle.core.errors import CheckpointError, SettingsError
from treadle.native import SlowPathWarning
from treadle.runtime import choice
from treadle.runtime.choice import agreement, choose_executor
from treadle.runtime.native_step.llama import LLAMA_LIKE, LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor


@pytest.mark.parametrize("model_type", LLAMA_LIKE)
def test_a_model_that_it_computes_gets_the_native_step(model_type, tiny_model):
    folder = tiny_model(model_type)
    executor = choose_executor(folder)
    assert isinstance(executor, LlamaStep)
    assert agreement(folder, executor).largest < 1e-3
    executor.close()


def test_another_architecture_runs_through_transformers_with_a_warning(tiny_model):
    with pytest.warns(SlowPathWarning, match="not 'phi'.*Running through transformers"):
        executor = choose_executor(tiny_model("phi"))
    assert isinstance(executor, GenericExecutor)


def test_weights_that_fail_the_check_are_not_used(llama, monkeypatch):
    monkeypatch.setattr(choice.agreed, "is_known", lambda signature: False)
    real = LlamaStep.forward

    def wrong(self, rows, pool):
        return real(self, rows, pool) + np.float32(0.01)

    monkeypatch.setattr(choice.LlamaStep, "forward", wrong)
    with pytest.warns(SlowPathWarning, match="disagrees with transformers"):
        assert isinstance(choose_executor(llama), GenericExecutor)
    monkeypatch.setattr(choice.LlamaStep, "forward", lambda s, r, p: -real(s, r, p))
    with pytest.raises(SettingsError, match="no weights in q8"):
        choose_executor(llama, "q8")


@pytest.fixture
def scaled(tiny_model, tmp_path):
    """Return a function that makes a model with one tensor scaled by a factor."""

    def build(model_type, name, factor):
        folder = shutil.copytree(tiny_model(model_type), tmp_path / "scaled")
        weights = load_file(folder / "model.safetensors")
        weights[name] = weights[name] * np.float32(factor)
        assert np.isfinite(weights[name]).all()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return build


@pytest.mark.parametrize(
    ("name", "factor", "flaw"),
    [
        ("model.layers.1.mlp.down_proj.weight", 1e36, "equal for all tokens"),
        ("model.norm.weight", 1e38, "infinite|NaN"),
    ],
)
def test_finite_weights_that_overflow_are_named(scaled, name, factor, flaw):
    folder = scaled("llama", name, factor)
    with pytest.raises(CheckpointError, match=rf"logits that are ({flaw}), with weights in fp32"):
        choose_executor(folder)
    if name.endswith("down_proj.weight"):
        with pytest.raises(SettingsError, match=r"'model.layers.1.mlp.down_proj.*float16 scales"):
            choose_executor(folder, "q8")
    else:
        with pytest.raises(CheckpointError, match=r"'.*scaled' computes.*download or make it"):
            choose_executor(folder, "q8")


@pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")
def test_overflow_is_named_in_other_architectures(scaled):
    folder = scaled("phi", "model.final_layernorm.weight", 3e38)
    with pytest.raises(CheckpointError, match=r"logits that are (NaN|infinite).*'fp32'"):
        choose_executor(folder)


def test_what_agreed_is_compared_again_only_when_it_changed(tiny_model, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("llama", rms_norm_eps=3e-5), folder)  # as no other test has it
    compared = []

    def counted(path, native, draw):
        compared.append(path)
        return agreement(path, native, draw)

    monkeypatch.setattr(choice, "agreement", counted)
    for _ in range(2):
        choose_executor(folder).close()
    assert len(compared) == 1
    choose_executor(folder, "q8").close()
    assert len(compared) == 2
    weights, other = folder / "model.safetensors", tiny_model("llama", rms_norm_eps=4e-5)
    stat = weights.stat()
    os.utime(weights, ns=(1, 1))
    choose_executor(folder).close()
    shutil.copytree(folder, tmp_path / "copy")
    choose_executor(tmp_path / "copy").close()
    assert len(compared) == 2  # the content counts, wherever it lies
    numbers = load_file(weights)
    numbers["model.norm.weight"] = numbers["model.norm.weight"] * np.float32(1.5)
    save_file(numbers, weights, {"format": "pt"})
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.stat().st_size == stat.st_size
    choose_executor(folder).close()
    assert len(compared) == 3  # though it has the old one's size and date
    shutil.copy(other / "config.json", folder)
    choose_executor(folder).close()
    assert len(compared) == 4


@pytest.mark.parametrize(
    ("form", "largest", "noise", "holds"),
    [
        ("fp32", 9e-4, 1e-2, True),
        ("fp32", 1.2e-3, 2.6e-5, True),
        ("fp32", 1.2e-3, 1.1e-4, False),
        ("fp16", 0.12, 4.5e-3, True),  # SmolLM2, of floats that float16 rounds
        ("fp16", 0.12, 0.03, False),
    ],
)
def test_large_logits_may_differ_by_more(form, largest, noise, holds):
    weights = SimpleNamespace(is_rounded=False, forms={form})
    assert choice.Agreement(largest, noise).holds(weights) is holds


@pytest.mark.parametrize(("form", "draws"), [("q8", [0, 1]), ("fp32", [0])])
def test_codes_agree_on_one_of_several_draws_and_floats_on_the_first(
    llama, monkeypatch, form, draws
):
    seen = []

    def noisy_at_first(path, native, draw):
        seen.append(draw)
        return choice.Agreement(25.0, 0.76 if draw == 0 else 0.1)

    monkeypatch.setattr(choice.agreed, "is_known", lambda signature: False)
    monkeypatch.setattr(choice.agreed, "remember", lambda signature: None)
    monkeypatch.setattr(choice, "agreement", noisy_at_first)
    if form == "q8":
        assert isinstance(choose_executor(llama, form), LlamaStep)
    else:
        with pytest.warns(SlowPathWarning, match="disagrees with transformers"):
            assert isinstance(choose_executor(llama, form), GenericExecutor)
    assert seen == draws
