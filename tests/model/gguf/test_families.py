"""GGUF files of every architecture: the numbers, settings and answers of their folders."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from gguf_families import FAMILIES, family_to_gguf
from naive import config_of, plain_model
from treadle.app.export import export
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.coded import Coded, Obstacle, RawBlocks
from treadle.model.gguf.model import open_gguf
from treadle.model.load import full
from treadle.native import SlowPathWarning
from treadle.runtime.choice import agreement
from treadle.runtime.native_step.llama import LlamaStep

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 5, 6]])
LONG = torch.arange(100)[None] % 97 + 3


def logits_of(model, tokens=TOKENS) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=tokens).logits.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_holds_the_tensors_of_its_folder_and_computes_the_same(family, tiny_model, tmp_path):
    folder = tiny_model(family, **FAMILIES[family])
    family_to_gguf(folder, tmp_path / "model.gguf")
    with open_gguf(tmp_path / "model.gguf") as reader:
        expected = load_file(folder / "model.safetensors")
        assert reader.tensors.keys() == expected.keys()
        for name, values in expected.items():
            assert reader.tensors[name].shape == values.shape
            np.testing.assert_array_equal(reader.array(name), values, err_msg=name)
    found = logits_of(full(tmp_path / "model.gguf"))
    np.testing.assert_allclose(found, logits_of(plain_model(folder)), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_quantised_is_handed_out_by_matrix(family, tiny_model, tmp_path):
    folder = tiny_model(family, **FAMILIES[family])
    family_to_gguf(folder, tmp_path / "model.gguf", "Q5_0")
    with open_gguf(tmp_path / "model.gguf") as reader:
        forms = {
            type(reader.coded(name)) for name, info in reader.tensors.items() if len(info.shape) > 1
        }
        for name, info in reader.tensors.items():
            coded = reader.coded(name)
            if isinstance(coded, RawBlocks):
                assert (len(coded.raw), coded.cols) == info.shape
            np.testing.assert_allclose(
                reader.array(name), load_file(folder / "model.safetensors")[name], atol=0.03
            )
    assert RawBlocks in forms
    assert (Obstacle in forms) == (family == "gpt2")
    assert Coded not in forms


@pytest.mark.parametrize("kind", ["F32", "Q5_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_native_step_computes_it(family, kind, tiny_model, tmp_path):
    folder = tiny_model(family, **FAMILIES[family])
    family_to_gguf(folder, tmp_path / "model.gguf", kind)
    # Elsewhere a warning, which a slow path would give, is an error.
    is_slow = (family, kind) == ("gpt2", "Q5_0")
    with pytest.warns(SlowPathWarning, match="lies transposed") if is_slow else nullcontext():
        step = LlamaStep(tmp_path / "model.gguf")
    assert agreement(tmp_path / "model.gguf", step).holds(step.weights)
    coded = {"q5_0", "fp16"} if is_slow else {"q5_0"}
    assert step.weights.forms - {"fp32"} == (set() if kind == "F32" else coded)


def test_experts_of_old_files_stand_one_by_one(tiny_model, tmp_path):
    folder = tiny_model("mixtral", **FAMILIES["mixtral"])
    family_to_gguf(folder, tmp_path / "model.gguf", is_old=True)
    found = logits_of(full(tmp_path / "model.gguf"))
    np.testing.assert_allclose(found, logits_of(plain_model(folder)), atol=1e-5)


def phi3(tiny_model) -> Path:
    generator = np.random.default_rng(0)
    short, long = (1 + generator.random((2, 8)) * [[0.2], [4]]).tolist()
    rope = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    rope |= {"rope_theta": 10_000.0, "original_max_position_embeddings": 32}
    return tiny_model(
        "phi3",
        rope_parameters=rope,
        max_position_embeddings=128,
        original_max_position_embeddings=32,
    )


@pytest.mark.parametrize("tokens", [TOKENS, LONG], ids=["short", "long"])
def test_long_rope_is_that_of_the_folder(tokens, tiny_model, tmp_path):
    folder = phi3(tiny_model)
    rope = config_of(folder)["rope_parameters"]
    factors = {
        f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"])
        for kind in ("long", "short")
    }
    attention = float(np.sqrt(1 + np.log(128 / 32) / np.log(32)))
    family_to_gguf(
        folder,
        tmp_path / "model.gguf",
        extra=factors,
        **{"phi3.rope.scaling.attn_factor": attention},
    )
    expected = logits_of(plain_model(folder), tokens)
    found = logits_of(full(tmp_path / "model.gguf"), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    export(tmp_path / "model.gguf", tmp_path / "out", dtype="float32")
    np.testing.assert_allclose(
        logits_of(plain_model(tmp_path / "out"), tokens), expected, atol=1e-5
    )
    family_to_gguf(folder, tmp_path / "plain.gguf")
    assert np.abs(logits_of(full(tmp_path / "plain.gguf"), tokens) - expected).max() > 1e-3


ROPES = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"rope.scaling.type": "linear"}),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 32},
    ),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {},
    ),
}


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_positions_are_those_of_the_folder(kind, tiny_model, tmp_path):
    rope, said = ROPES[kind]
    folder = tiny_model("llama", rope_parameters=rope | {"rope_theta": 10_000.0})
    settings = {f"llama.{key}": value for key, value in said.items()}
    if said:
        settings["llama.rope.scaling.factor"] = rope["factor"]
    extra = {"rope_freqs.weight": llama3_factors(rope)} if kind == "llama3" else None
    family_to_gguf(folder, tmp_path / "model.gguf", extra=extra, **settings)
    found = logits_of(full(tmp_path / "model.gguf"), LONG)
    np.testing.assert_allclose(found, logits_of(plain_model(folder), LONG), atol=1e-5)
    family_to_gguf(folder, tmp_path / "plain.gguf")
    assert np.abs(logits_of(full(tmp_path / "plain.gguf"), LONG) - found).max() > 1e-3


def llama3_factors(rope: dict) -> np.ndarray:
    """What the converter writes: by how much each frequency of a head of 16 is divided."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for pair in range(8):
        length = 2 * np.pi * 10_000.0 ** (2 * pair / 16)
        share = (rope["original_max_position_embeddings"] / length - low) / (high - low)
        share = min(max(share, 0.0), 1.0)
        factors.append(1 / ((1 - share) / rope["factor"] + share))
    return np.array(factors)


def test_a_part_of_each_head_is_rotated(tiny_model, tmp_path):
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
    folder = tiny_model("phi3", rope_parameters=rope)
    family_to_gguf(folder, tmp_path / "model.gguf")
    found = logits_of(full(tmp_path / "model.gguf"))
    np.testing.assert_allclose(found, logits_of(plain_model(folder)), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings", "error", "message"),
    [
        ("mixtral", {"llama.expert_count": 5}, CheckpointError, r"each of 5 experts"),
        ("mixtral", {"llama.expert_used_count": None}, CheckpointError, "expert_used_count"),
        ("qwen3_moe", {"qwen3moe.expert_gating_func": 2}, UnsupportedModelError, "gating_func: 2"),
        ("gpt2", {"gpt2.attention.head_count_kv": 2}, UnsupportedModelError, "2 heads of keys"),
        ("gpt_neox", {"gptneox.rope.dimension_count": 99}, UnsupportedModelError, "part of each"),
    ],
)
def test_settings_that_lie_are_refused(family, settings, error, message, tiny_model, tmp_path):
    family_to_gguf(tiny_model(family, **FAMILIES[family]), tmp_path / "model.gguf", **settings)
    with pytest.raises(error, match=message):
        open_gguf(tmp_path / "model.gguf")
