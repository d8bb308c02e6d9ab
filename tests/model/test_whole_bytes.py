"""Folders of compressed-tensors that hold a byte a weight read as the numbers that they say."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from coded_models import decoded_blocks, dense_twin
from naive import config_of, plain_model, weights_of
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.coded import Obstacle
from treadle.model.load import full
from treadle.model.source import open_model

TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


def config(kind: str = "int", strategy: str = "channel", **weights) -> dict:
    said = {"num_bits": 8, "type": kind, "strategy": strategy, "symmetric": True} | weights
    inputs = {"num_bits": 8, "type": kind, "strategy": "token", "dynamic": True}
    return {
        "quant_method": "compressed-tensors",
        "format": f"{kind}-quantized",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": said, "input_activations": inputs}
        },
    }


def rounded(weight: np.ndarray, kind: str, strategy: str, has_zero: bool) -> tuple:
    """Round a matrix, number by number: codes, scales, zero points and what they say."""
    rows, cols = weight.shape
    size = {"tensor": cols, "channel": cols, "group": 32}[strategy]
    scales = np.zeros((rows, cols // size), np.float32)
    for row in range(rows):
        for group in range(cols // size):
            own = weight[row, group * size : (group + 1) * size]
            part = weight if strategy == "tensor" else own
            scales[row, group] = np.abs(part).max() / (127 if kind == "int" else 448)
    zeros = np.full(scales.shape, 3 if has_zero else 0, np.int8)
    wide, shift = np.repeat(scales, size, 1), np.repeat(zeros, size, 1).astype(np.float32)
    if kind == "int":
        codes = np.clip(np.rint(weight / wide) + shift, -128, 127).astype(np.int8)
    else:
        codes = (weight / wide).astype(ml_dtypes.float8_e4m3fn)
    return codes, scales, zeros, (codes.astype(np.float32) - shift) * wide


def write(folder: Path, out: Path, said: dict, has_zero: bool = False) -> dict[str, np.ndarray]:
    out.mkdir(exist_ok=True)
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    group = said["config_groups"]["group_0"]["weights"]
    tensors, decoded = load_file(folder / "model.safetensors"), {}
    for name in weights_of(folder):
        weight = tensors.pop(name).numpy()
        codes, scales, zeros, values = rounded(weight, group["type"], group["strategy"], has_zero)
        is_float = codes.dtype != np.int8
        bits = torch.from_numpy(codes.view(np.int8).copy())
        tensors[name] = bits.view(torch.float8_e4m3fn) if is_float else bits
        scale = scales[:1, 0] if group["strategy"] == "tensor" else scales
        tensors[f"{name}_scale"] = torch.from_numpy(scale.copy())
        if has_zero:
            tensors[f"{name}_zero_point"] = torch.from_numpy(zeros)
        decoded[name] = values
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    text = json.dumps(config_of(folder) | {"quantization_config": said})
    (out / "config.json").write_text(text)
    return decoded


@pytest.mark.parametrize(
    ("kind", "strategy", "has_zero"),
    [
        ("float", "tensor", False),
        ("float", "channel", False),
        ("int", "tensor", False),
        ("int", "channel", False),
        ("int", "group", False),
        ("int", "channel", True),
    ],
)
def test_weights_are_what_their_bytes_say(kind, strategy, has_zero, llama, tmp_path):
    decoded = write(llama, tmp_path / "model", config(kind, strategy), has_zero)
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    with open_model(tmp_path / "model") as reader:
        assert not any(name.endswith(("_scale", "zero_point")) for name in reader.tensors)
        for name, values in decoded.items():
            np.testing.assert_allclose(reader.array(name), values, rtol=1e-6, err_msg=name)
            found = reader.coded(name)
            if kind == "float":
                assert found == Obstacle("its codes are floats of 8 bits")
            elif has_zero:
                assert found == Obstacle("8-bit codes have zero points")
            else:
                assert found.form == "q8"
                np.testing.assert_allclose(decoded_blocks(found), values, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        found = full(tmp_path / "model")(input_ids=TOKENS).logits
        expected = plain_model(twin)(input_ids=TOKENS).logits
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (config(num_bits=4), "weights of 4 bits.*give the unquantised model"),
        (config("float", "block"), "strategy 'block'"),
        (config() | {"kv_cache_scheme": {"num_bits": 8}}, "a kv_cache_scheme"),
    ],
)
def test_other_schemes_are_refused(said, message, llama, tmp_path):
    write(llama, tmp_path / "model", config())
    text = json.dumps(config_of(llama) | {"quantization_config": said})
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(UnsupportedModelError, match=message):
        open_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("weight", None, r"up_proj.weight' is missing"),
        ("weight", lambda v: v.float(), r"type F32, but codes of a byte were expected"),
        ("weight_scale", lambda v: v[:-1].contiguous(), r"one or several for each of \d+ rows"),
        ("weight_scale", lambda v: v * float("inf"), r"inf"),
    ],
)
def test_damaged_tensors_are_named(suffix, change, message, llama, tmp_path):
    write(llama, tmp_path / "model", config())
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    value = tensors.pop(f"model.layers.0.mlp.up_proj.{suffix}")
    if change is not None:
        tensors[f"model.layers.0.mlp.up_proj.{suffix}"] = change(value)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=message), open_model(tmp_path / "model") as reader:
        reader.array("model.layers.0.mlp.up_proj.weight")
