"""What no one can merge: whole numbers, and tensors that no config has a place for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM

from treadle.combine.merge import merge, merge_inspect
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model import tiny

POSITIONS = "bert.embeddings.position_ids"


def encoder(folder: Path, seed: int, positions: np.ndarray | None = None) -> Path:
    """Write a BERT as transformers 4 did: with the places of its tokens."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bert", vocab_size=320, intermediate_size=48, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    file = folder / "model.safetensors"
    found = np.arange(512, dtype=np.int64)[None] if positions is None else positions
    save_file({**load_file(file), POSITIONS: found}, file, {"format": "pt"})
    return folder


def with_tensor(folder: Path, name: str, values: np.ndarray) -> Path:
    file = folder / "model.safetensors"
    save_file({**load_file(file), name: values}, file, {"format": "pt"})
    return folder


def test_whole_numbers_are_taken_over_where_all_agree(tmp_path: Path) -> None:
    pair = [encoder(tmp_path / f"m{seed}", seed) for seed in (0, 1)]
    result = merge(pair, tmp_path / "out", "linear")
    assert f"'{POSITIONS}' holds I64, so it is taken over as it is." in result.notes
    first, second, found = (load_file(m / "model.safetensors") for m in (*pair, tmp_path / "out"))
    assert found.keys() == first.keys()
    assert found[POSITIONS].dtype == np.int64
    for name in found:
        np.testing.assert_allclose(found[name], (first[name] + second[name]) / 2, atol=1e-6)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.hidden_size == 32
    assert any(POSITIONS in note for note in merge_inspect(pair).notes)


def test_whole_numbers_that_differ_are_refused(tmp_path: Path) -> None:
    other = np.zeros((1, 512), np.int64)
    pair = [encoder(tmp_path / "m0", 0), encoder(tmp_path / "m1", 1, other)]
    with pytest.raises(CheckpointError, match=r"I64 \[1, 512\] in .*only floats can be merged"):
        merge(pair, tmp_path / "out", "linear")


def test_what_no_config_reads_may_be_nan(tmp_path: Path) -> None:
    pair = [tiny.build("llama", tmp_path / f"m{seed}", seed) for seed in (0, 1)]
    for model, value in zip(pair, (np.nan, 1.0), strict=True):
        with_tensor(model, "model.extra.weight", np.full(4, value, np.float32))
    result = merge(pair, tmp_path / "out", "linear")
    assert any("'model.extra.weight'" in n and "taken over" in n for n in result.notes)
    with CheckpointReader(tmp_path / "out") as reader:
        assert np.isnan(reader.array("model.extra.weight")).all()
        assert np.isfinite(reader.array("model.norm.weight")).all()


def test_what_no_config_reads_may_be_one_models_alone(tmp_path: Path) -> None:
    pair = [tiny.build("llama", tmp_path / f"m{seed}", seed) for seed in (0, 1)]
    with_tensor(pair[1], "score.weight", np.ones((2, 64), np.float32))
    for models in (pair, pair[::-1]):
        result = merge(models, tmp_path / "out", "linear", overwrite=True)
        assert any(n.startswith("'score.weight' of") and "left out" in n for n in result.notes)
        with CheckpointReader(tmp_path / "out") as reader:
            assert "score.weight" not in reader.tensors


def test_what_a_config_reads_may_not(tmp_path: Path) -> None:
    pair = [tiny.build("llama", tmp_path / f"m{seed}", seed) for seed in (0, 1)]
    with_tensor(pair[1], "model.norm.weight", np.full(64, np.nan, np.float32))
    with pytest.raises(CheckpointError, match=r"holds nan at element 0"):
        merge(pair, tmp_path / "out", "linear")
