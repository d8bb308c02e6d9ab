"""LoRA adapters as inputs: the weights are W + s B A, and what does not fit is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.adapters import Adapted, AdapterSource
from treadle.combine.merge.inputs.sources import TensorSource, WeightFiles, stored
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, UnsupportedModelError

QUERY = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
Write = Callable[..., AdapterSource]
Tensors = dict[str, np.ndarray]


def factors(module: str, rows: int, columns: int, rank: int = 4, seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": random.normal(size=(rank, columns)).astype(np.float32),
        f"{prefix}.lora_B.weight": random.normal(size=(rows, rank)).astype(np.float32),
    }


def change(tensors: Tensors, module: str) -> Floats:
    """Return B @ A, the plain way."""
    pair = [tensors[f"base_model.model.{module}.lora_{letter}.weight"] for letter in "BA"]
    product: Floats = pair[0].astype(np.float64) @ pair[1].astype(np.float64)
    return product


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes an adapter's folder and opens it."""

    def build(tensors: Tensors, **config: Any) -> AdapterSource:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        full = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
        (folder / "adapter_config.json").write_text(json.dumps(full))
        return AdapterSource(folder)

    return build


@pytest.fixture
def files() -> Iterator[WeightFiles]:
    opened = WeightFiles()
    yield opened
    opened.close()


def whole(source: TensorSource) -> Floats:
    target = np.empty(source.shape, np.float32)
    source.read(0, target.reshape(-1))
    return target


def applied(
    adapter: AdapterSource, name: str, llama: Path, files: WeightFiles
) -> tuple[TensorSource, TensorSource, Floats]:
    """Return a tensor with the adapter, without it, and its numbers."""
    source = stored(CheckpointReader(llama), name, files)
    assert source is not None
    return adapter.applied(name, source), source, whole(source)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 3}, 0.75),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"q_proj": 1}}, 0.25),
        ({"alpha_pattern": {"k_proj": 1, "layers.1.self_attn.q_proj": 1}}, 2.0),
        ({"alpha_pattern": {"^model.*q_proj": 1}}, 0.25),
        ({"alpha_pattern": {"^layers.*q_proj": 1}}, 2.0),
        ({"r": 16, "rank_pattern": {"q_proj": 4}}, 2.0),
        ({"init_lora_weights": "gaussian", "use_dora": False, "lora_dropout": 0.1}, 2.0),
    ],
)
def test_the_weights_with_an_adapter(
    write: Write, llama: Path, files: WeightFiles, config: dict[str, Any], scale: float
) -> None:
    tensors = factors(QUERY, 64, 64)
    with_it, source, weights = applied(write(tensors, **config), f"{QUERY}.weight", llama, files)
    assert isinstance(with_it, Adapted)
    assert (with_it.shape, with_it.dtype) == (source.shape, source.dtype)
    expected = weights + scale * change(tensors, QUERY)
    assert np.allclose(whole(with_it), expected, atol=1e-5)


def test_what_an_adapter_leaves_alone(write: Write, llama: Path, files: WeightFiles) -> None:
    adapter = write(factors(QUERY, 64, 64))
    with_it, source, _ = applied(adapter, f"{DOWN}.weight", llama, files)
    assert with_it is source


def test_half_precision_factors(write: Write, llama: Path, files: WeightFiles) -> None:
    tensors = {
        name: array.astype(ml_dtypes.bfloat16) for name, array in factors(DOWN, 64, 96).items()
    }
    with_it, _, weights = applied(write(tensors), f"{DOWN}.weight", llama, files)
    assert np.allclose(whole(with_it), weights + 2 * change(tensors, DOWN), atol=1e-5)


def test_transposed_weights_and_embeddings(write: Write, llama: Path, files: WeightFiles) -> None:
    tensors = factors(DOWN, 96, 64)
    adapter = write(tensors, fan_in_fan_out=True)
    with_it, _, weights = applied(adapter, f"{DOWN}.weight", llama, files)
    assert np.allclose(whole(with_it), weights + 2 * change(tensors, DOWN).T, atol=1e-5)
    plain = factors("model.embed_tokens", 64, 320)
    embedding = {
        name.replace("lora_", "lora_embedding_").removesuffix(".weight"): array
        for name, array in plain.items()
    }
    with_it, _, weights = applied(write(embedding), "model.embed_tokens.weight", llama, files)
    expected = 2 * change(plain, "model.embed_tokens").T
    assert np.allclose(whole(with_it), weights + expected, atol=1e-5)
    below = {"base_model.model.model.embed_tokens.base_layer.weight": np.ones_like(weights)}
    with_it, _, _ = applied(write(embedding | below), "model.embed_tokens.weight", llama, files)
    assert np.allclose(whole(with_it), 1 + expected, atol=1e-5)


def test_modules_that_were_trained_as_a_whole(
    write: Write, llama: Path, files: WeightFiles
) -> None:
    norm = np.arange(64, dtype=np.float16)
    adapter = write({"base_model.model.model.norm.weight": norm})
    with_it, _, _ = applied(adapter, "model.norm.weight", llama, files)
    assert with_it.dtype == "F32", "the model's"
    assert np.array_equal(whole(with_it), norm.astype(np.float32))
    part = np.empty(5, np.float32)
    with_it.read(7, part)
    assert part.tolist() == [7, 8, 9, 10, 11]
    assert adapter.require_fit(CheckpointReader(llama)) is None


@given(first=st.integers(0, 64 * 96 - 1), size=st.integers(1, 64 * 96), is_transposed=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_range_of_elements(
    write: Write, llama: Path, files: WeightFiles, first: int, size: int, is_transposed: bool
) -> None:
    tensors = factors(DOWN, 96, 64) if is_transposed else factors(DOWN, 64, 96)
    adapter = write(tensors, fan_in_fan_out=is_transposed)
    with_it, _, weights = applied(adapter, f"{DOWN}.weight", llama, files)
    product = change(tensors, DOWN)
    expected = (weights + 2 * (product.T if is_transposed else product)).reshape(-1)
    target = np.full(min(size, len(expected) - first), np.nan, np.float32)
    with_it.read(first, target)
    assert np.allclose(target, expected[first : first + size], atol=1e-5)


def test_many_rows_are_changed_in_runs(
    write: Write, llama: Path, files: WeightFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.combine.merge.inputs.adapters.CHUNK_ELEMENTS", 300)
    tensors = factors(DOWN, 64, 96)
    with_it, _, weights = applied(write(tensors), f"{DOWN}.weight", llama, files)
    assert np.allclose(whole(with_it), weights + 2 * change(tensors, DOWN), atol=1e-5)


@pytest.mark.parametrize(
    "spelt",
    [
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace(".weight", ".mine.weight"),
        lambda name: name.removesuffix(".weight"),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: name.replace(".self_attn.", "._fsdp_wrapped_module.self_attn._orig_mod."),
    ],
)
def test_keys_as_other_programs_write_them(
    write: Write, llama: Path, files: WeightFiles, spelt: Callable[[str], str]
) -> None:
    tensors = factors(QUERY, 64, 64)
    adapter = write({spelt(name): array for name, array in tensors.items()})
    assert adapter.require_fit(CheckpointReader(llama)) is None
    with_it, _, weights = applied(adapter, f"{QUERY}.weight", llama, files)
    assert np.allclose(whole(with_it), weights + 2 * change(tensors, QUERY), atol=1e-5)


@pytest.mark.parametrize("name", ["norm.modules_to_save", "norm.modules_to_save.default"])
def test_whole_modules_under_the_names_that_peft_has_inside(
    write: Write, llama: Path, files: WeightFiles, name: str
) -> None:
    norm = np.arange(64, dtype=np.float32)
    stem = "base_model.model.model"
    shadowed = {f"{stem}.norm.original_module.weight": np.full(64, np.nan, np.float32)}
    adapter = write({f"{stem}.{name}.weight": norm, **shadowed}, modules_to_save=["norm"])
    with_it, _, _ = applied(adapter, "model.norm.weight", llama, files)
    assert np.array_equal(whole(with_it), norm)
    mlp = {f"{stem}.layers.0.mlp.modules_to_save.up_proj.weight": np.ones((96, 64), np.float32)}
    with_it, _, _ = applied(write(mlp), "model.layers.0.mlp.up_proj.weight", llama, files)
    assert (whole(with_it) == 1).all()


def test_the_hash_is_of_the_content(write: Write, tmp_path: Path) -> None:
    first = write(factors(QUERY, 64, 64)).content_hash
    assert len(first) == 64
    assert write(factors(QUERY, 64, 64)).content_hash == first
    assert write(factors(QUERY, 64, 64), lora_alpha=9).content_hash != first
    assert write(factors(QUERY, 64, 64, seed=1)).content_hash != first


def test_an_adapter_for_another_base(write: Write, llama: Path, files: WeightFiles) -> None:
    reader = CheckpointReader(llama)
    adapter = write(factors(QUERY, 64, 32), base_model_name_or_path="org/small")
    with pytest.raises(CheckpointError) as caught:
        adapter.require_fit(reader)
    assert str(caught.value) == (
        f"The adapter {adapter.folder} is one for another base: it changes '{QUERY}.weight' of "
        f"shape [64, 32], but {llama} has shape [64, 64]; give the model that it was trained on "
        f"('org/small')."
    )
    with pytest.raises(CheckpointError, match=r"changes .* of shape \[64, 32\], but the model has"):
        applied(adapter, f"{QUERY}.weight", llama, files)
    deep = write(factors("model.layers.7.mlp.up_proj", 96, 64))
    with pytest.raises(CheckpointError, match=r"layers.7.mlp.up_proj.weight', which .* not have"):
        deep.require_fit(reader)
    with pytest.raises(CheckpointError, match=r"lm_head.weight' of shape \[310, 64\], but .*320"):
        write(factors("lm_head", 310, 64)).require_fit(reader)


def test_a_base_of_another_name_is_noted(write: Write, llama: Path) -> None:
    reader = CheckpointReader(llama)
    tensors = factors(QUERY, 64, 64)
    assert write(tensors).require_fit(reader) is None
    same = write(tensors, base_model_name_or_path=f"org/{llama.name}")
    assert same.require_fit(reader) is None
    note = write(tensors, base_model_name_or_path="org/other").require_fit(reader)
    assert note is not None
    assert "says that it was trained on 'org/other'" in note


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "an adapter of type 'LOHA'"),
        ({"peft_type": "OFT", "r": 0}, "an adapter of type 'OFT'"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"target_parameters": ["mlp.experts"]}, "LoRA of bare parameters"),
        ({"layer_replication": [[0, 4]]}, "replicated layers"),
    ],
)
def test_other_kinds_of_adapters(write: Write, config: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"says {what}, but only plain LoRA can be app"):
        write(factors(QUERY, 64, 64), **config)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        (
            {"base_model.model.a.lora_magnitude_vector": np.ones(2, np.float32)},
            UnsupportedModelError,
            "'base_model.model.a.lora_magnitude_vector'.*no part of a plain LoRA adapter",
        ),
        (
            {"base_model.model.a.lora_A.weight": np.ones((4, 2), np.int8)},
            UnsupportedModelError,
            r"\(I8\), which is no part",
        ),
        (
            {"base_model.model.a.lora_A.weight": np.ones((4, 2), np.float32)},
            CheckpointError,
            r"Module 'a' in .* has factors of shapes \{'A': \[4, 2\]\}, but two matrices",
        ),
        (factors("a", 6, 5, rank=3), CheckpointError, r"gives it rank 4; give the config"),
        (
            factors("a", 6, 5) | {"a.lora_A.default.weight": np.ones((4, 5), np.float32)},
            CheckpointError,
            r"which mean one tensor; save the adapter again",
        ),
        (
            {
                f"a.lora_{letter}.{name}.weight": np.ones((4, 4), np.float32)
                for letter in "AB"
                for name in ("one", "two")
            },
            UnsupportedModelError,
            r"holds the adapters one, two, but one was expected",
        ),
    ],
)
def test_files_that_do_not_fit(
    write: Write, tensors: Tensors, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write(tensors)


def test_missing_and_broken_files(write: Write, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json, so it is no adapter"):
        AdapterSource(llama)
    adapter = write(factors(QUERY, 64, 64))
    (adapter.folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"has no adapter_model.safetensors; save the adapter"
    ):
        AdapterSource(adapter.folder)
    for text, message in (("{", "is not JSON"), ("[]", "holds no JSON object")):
        (adapter.folder / "adapter_config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            AdapterSource(adapter.folder)


def test_numbers_that_are_not_finite(write: Write, llama: Path, files: WeightFiles) -> None:
    tensors = factors(QUERY, 64, 64)
    tensors[f"base_model.model.{QUERY}.lora_B.weight"][3, 1] = np.inf
    with_it, _, _ = applied(write(tensors), f"{QUERY}.weight", llama, files)
    with pytest.raises(CheckpointError, match="make weights that are not finite; repair or retr"):
        whole(with_it)
    norm = load_file(llama / "model.safetensors")["model.norm.weight"]
    adapter = write({"base_model.model.model.norm.weight": norm * np.nan})
    with_it, _, _ = applied(adapter, "model.norm.weight", llama, files)
    with pytest.raises(CheckpointError, match="holds numbers that are not finite"):
        whole(with_it)
