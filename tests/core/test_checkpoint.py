import json
import os
import struct
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from treadle.core.checkpoint import (
    CheckpointReader,
    Manifest,
    Parent,
    Provenance,
    content_hash,
    model_card,
    read_manifest,
    require_finite,
)
from treadle.core.checkpoint.header import PlannedTensor, build_header
from treadle.core.codec import DTYPES
from treadle.core.errors import CheckpointError

PROVENANCE = Provenance(verb="merge", method="ties", settings={"density": 0.2}, seed=7)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))


def write_shard(file: Path, arrays: dict[str, np.ndarray]) -> None:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    planned = [PlannedTensor(name, codes[a.dtype], a.shape) for name, a in arrays.items()]
    header, infos = build_header(file, planned)
    file.write_bytes(header + b"".join(arrays[info.name].tobytes() for info in infos))


def make_model(folder: Path, *shards: dict[str, np.ndarray], config: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    if len(shards) == 1:
        write_shard(folder / "model.safetensors", shards[0])
        return folder
    weight_map = {}
    for place, arrays in enumerate(shards):
        write_shard(folder / f"part-{place}.safetensors", arrays)
        weight_map |= dict.fromkeys(arrays, f"part-{place}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def ramp(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


# Reading


def test_every_dtype_reads_back(tmp_path: Path) -> None:
    arrays = {
        f"{code}.{kind}": np.ones(shape).astype(dtype)
        for code, dtype in DTYPES.items()
        for kind, shape in [("matrix", (3, 5)), ("scalar", ()), ("empty", (0, 4))]
    }
    reader = CheckpointReader(make_model(tmp_path / "m", arrays))
    assert set(reader.tensors) == set(arrays)
    assert reader.num_bytes == sum(array.nbytes for array in arrays.values())
    for name, array in arrays.items():
        assert reader.array(name).dtype == array.dtype
        assert reader.array(name).shape == array.shape
        assert reader.array(name).tobytes() == array.tobytes()
        assert tuple(reader.tensor(name).shape) == array.shape


def test_a_file_of_safetensors_own_writer_reads_back(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", {"a": ramp(1)})
    tensors = {
        "b": torch.randn(3, 4, dtype=torch.bfloat16),
        "a": torch.arange(5, dtype=torch.uint8),
        "c": torch.randn(2).to(torch.float8_e4m3fn),
    }
    save_file(tensors, folder / "model.safetensors")
    with CheckpointReader(folder) as reader:
        for name, tensor in tensors.items():
            assert reader.tensor(name).dtype == tensor.dtype
            assert torch.equal(reader.tensor(name).float(), tensor.float())


def test_the_order_is_that_on_disk(tmp_path: Path) -> None:
    arrays = {"z": ramp(2), "a": ramp(3), "m": ramp(4)}
    reader = CheckpointReader(make_model(tmp_path / "m", arrays))
    assert list(reader.tensors) == ["z", "a", "m"]
    starts = [info.start_byte for info in reader.tensors.values()]
    assert starts == sorted(starts)


def test_views_are_read_only_and_copy_nothing(tmp_path: Path) -> None:
    reader = CheckpointReader(make_model(tmp_path / "m", {"w": ramp(4, 4)}))
    view = reader.array("w")
    assert np.shares_memory(view, reader.array("w"))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    tensor = reader.tensor("w")
    assert tensor.data_ptr() == view.ctypes.data
    assert reader.tensor("w", torch.float32).data_ptr() == view.ctypes.data
    assert torch.equal(reader.tensor("w", torch.bfloat16), tensor.bfloat16())
    assert reader.read_range("w", 5, 3).tolist() == [5, 6, 7]


def test_writing_to_a_tensor_neither_crashes_nor_reaches_the_file(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", {"w": ramp(4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CheckpointReader(folder).tensor("w").zero_()
    assert CheckpointReader(folder).array("w").tolist() == [0, 1, 2, 3]


def test_views_outlive_the_reader(tmp_path: Path) -> None:
    with CheckpointReader(make_model(tmp_path / "m", {"w": ramp(4)})) as reader:
        view = reader.array("w")
    assert view.tolist() == [0, 1, 2, 3]


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": True},
        {"text_config": {"tie_word_embeddings": True}},
        {"architectures": ["Gemma2ForCausalLM"]},
    ],
)
def test_an_absent_head_is_tied(tmp_path: Path, config: dict) -> None:
    reader = CheckpointReader(make_model(tmp_path / "m", {EMBEDDING: ramp(3, 2)}, config=config))
    assert reader.tied == {"lm_head.weight": EMBEDDING}
    assert np.shares_memory(reader.array("lm_head.weight"), reader.array(EMBEDDING))


@pytest.mark.parametrize(("head", "is_tied"), [(ramp(3, 2), True), (ramp(3, 2) + 1, False)])
def test_a_stored_head_is_tied_if_equal(tmp_path: Path, head: np.ndarray, is_tied: bool) -> None:
    arrays = {EMBEDDING: ramp(3, 2), "lm_head.weight": head}
    folder = make_model(tmp_path / "m", arrays, config={"tie_word_embeddings": True})
    reader = CheckpointReader(folder)
    assert bool(reader.tied) == is_tied
    assert reader.array("lm_head.weight").tolist() == head.tolist()


def test_an_untied_model_has_no_alias(tmp_path: Path) -> None:
    config = {"tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"]}
    folder = make_model(tmp_path / "m", {EMBEDDING: ramp(3, 2)}, config=config)
    reader = CheckpointReader(folder)
    assert reader.tied == {}
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_head.weight' among its 1; check"):
        reader.array("lm_head.weight")


# Errors


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model folder .*/gone; check the path"):
        CheckpointReader(tmp_path / "gone")


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config.json.*give the folder"):
        CheckpointReader(tmp_path)


def test_broken_config(tmp_path: Path) -> None:
    for text in ["{", "[]"]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config.json .*copy or download it again"):
            CheckpointReader(tmp_path)


def test_missing_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor .*as safetensors"):
        CheckpointReader(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"only PyTorch's pytorch_model.bin.*convert it with"):
        CheckpointReader(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", {"a": ramp(2)}, {"b": ramp(2)})
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the shard part-1.safetensors.*copy or down"):
        CheckpointReader(folder)


def test_tensor_absent_from_its_shard(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", {"a": ramp(2)}, {"b": ramp(2)})
    write_shard(folder / "part-1.safetensors", {"c": ramp(2)})
    with pytest.raises(CheckpointError, match=r"Tensor 'b' is missing from .*/part-1.safetensors"):
        CheckpointReader(folder)


def test_index_without_map(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", {"a": ramp(2)}, {"b": ramp(2)})
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index.json has no weight_map"):
        CheckpointReader(folder)


@pytest.mark.parametrize(
    ("num_bytes", "message"),
    [
        (4, "is truncated: its header ends at byte 8, but the file has 4 bytes"),
        (40, r"is truncated: its header ends at byte \d+, but the file has 40 bytes"),
        (-1, r"is truncated: tensor 'w' ends at byte \d+, but the file has \d+ bytes; copy"),
    ],
)
def test_truncated_file(tmp_path: Path, num_bytes: int, message: str) -> None:
    folder = make_model(tmp_path / "m", {"w": ramp(4)})
    file = folder / "model.safetensors"
    os.truncate(file, num_bytes % file.stat().st_size)
    with pytest.raises(CheckpointError, match=message):
        CheckpointReader(folder)


def _entry(**changes: object) -> dict:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", r"has a broken header .*copy or download the file again"),
        ("[]", "has a broken header"),
        ('{"w": {"dtype": "F32"}}', r"has a broken header .KeyError.'shape'."),
        ({"w": _entry(dtype="F3")}, r"'w' in .*model.safetensors has the unknown dtype 'F3'; conv"),
        ({"w": _entry(shape=[2])}, r"bytes 0..4, but F32 of shape \[2\] takes 8 bytes"),
        ({"w": _entry(), "v": _entry()}, "'w' and 'v' overlap"),
    ],
)
def test_broken_header(tmp_path: Path, header: str | dict, message: str) -> None:
    folder = make_model(tmp_path / "m", {"w": ramp(1)})
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(CheckpointError, match=message):
        CheckpointReader(folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_require_finite(dtype: type, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.core.checkpoint.reader._CHUNK_ELEMENTS", 3)
    values = ramp(2, 4, dtype=dtype)
    require_finite("w", values)
    values[1, 1] = bad
    with pytest.raises(CheckpointError, match=rf"'w' in /f holds {bad} at element 5, .*repair"):
        require_finite("w", values, Path("/f"))
    with pytest.raises(CheckpointError, match="Tensor 'w' holds"):
        require_finite("w", values)


def test_integers_are_finite() -> None:
    require_finite("ids", np.arange(4))


# The content hash

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=2, unique=True)


@settings(max_examples=20, deadline=None)
@given(NAMES, st.data())
def test_the_content_hash_ignores_sharding_and_order(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("models")
    arrays = {name: ramp(3, ord(name) - 96) for name in names}
    cut = data.draw(st.integers(1, len(names) - 1))
    shuffled = data.draw(st.permutations(names))
    parts = [{name: arrays[name] for name in part} for part in (shuffled[:cut], shuffled[cut:])]
    whole = content_hash(make_model(root / "whole", arrays))
    assert content_hash(make_model(root / "parts", *parts)) == whole
    changed = arrays | {names[0]: arrays[names[0]] + 1}
    assert content_hash(make_model(root / "changed", changed)) != whole


def test_the_content_hash_sees_names_dtypes_and_shapes(tmp_path: Path) -> None:
    zeros = np.zeros((2, 4), np.float16)
    variants = [{"w": zeros}, {"v": zeros}, {"w": zeros.view(np.int16)}, {"w": zeros.reshape(4, 2)}]
    hashes = {content_hash(make_model(tmp_path / str(i), v)) for i, v in enumerate(variants)}
    assert len(hashes) == len(variants)


def test_the_content_hash_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "m", {"w": ramp(4)})
    first = content_hash(folder)
    with monkeypatch.context() as patch:
        patch.setattr("treadle.core.checkpoint.hashing.hash_tensors", lambda *_: "computed anew")
        assert content_hash(folder) == first
        assert content_hash(CheckpointReader(folder)) == first
        write_shard(folder / "model.safetensors", {"w": ramp(4) + 1})
        os.utime(folder / "model.safetensors", ns=(0, 0))
        assert content_hash(folder) == "computed anew"


def test_an_unwritable_cache_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file"))
    folder = make_model(tmp_path / "m", {"w": ramp(4)})
    assert content_hash(folder) == content_hash(folder)
    assert "Cannot remember content hashes" in caplog.text


def test_removed_weights_leave_the_recorded_hash(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", {"w": ramp(4)})
    manifest = Manifest(content_hash="abc", provenance=PROVENANCE)
    (folder / "treadle.json").write_text(manifest.model_dump_json())
    assert content_hash(folder) != "abc"
    (folder / "model.safetensors").unlink()
    assert content_hash(folder) == "abc"
    (folder / "treadle.json").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        content_hash(folder)


# The manifest


def test_the_manifest_survives_its_file(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    manifest = Manifest(content_hash="abc", provenance=PROVENANCE)
    (tmp_path / "treadle.json").write_text(manifest.model_dump_json())
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a manifest of format 1 .* at top level"),
        ('{"format": 2}', "Input should be 1 at format"),
        ('{"format": 1}', "Field required at provenance"),
    ],
)
def test_a_broken_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "treadle.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_manifest(tmp_path)


def test_the_model_card() -> None:
    parents = (Parent(name="base: one", content_hash="abc"), Parent(name="hub/model"))
    card = model_card("Mine", PROVENANCE.model_copy(update={"parents": parents}))
    assert card.startswith("---\nbase_model:\n- hub/model\nlibrary_name: transformers")
    assert "# Mine\n\nMade by `treadle merge ties`." in card
    assert "| density | `0.2` |\n| from base: one | `abc` |\n\n" in card
    assert "Own words." in model_card("Mine", PROVENANCE, "Own words.")
