"""The side file of retaining heads: what is written is read, and nothing else is."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.retained import KINDS, drawn, with_heads
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model.retaining import file_name, read_heads, require_shape, write_heads

SIZES = [(4, 2, 16)] * 2


def changed_manifest(folder: Path, **values: object) -> None:
    file = folder / "treadle.json"
    manifest = json.loads(file.read_text())
    for entry in manifest["side_files"]:
        entry.update(values)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("policy", KINDS)
def test_what_is_written_is_read(policy: str, llama: Path, tmp_path: Path) -> None:
    folder = with_heads(llama, tmp_path / "model", policy)
    found, expected = read_heads(folder, policy), drawn(policy, SIZES, 64)
    assert found[:3] == expected[:3]
    for mine, theirs in zip(found.layers, expected.layers, strict=True):
        for part, other in zip(mine, theirs, strict=True):
            assert (part is None) == (other is None)
            assert part is None or np.array_equal(part, other)
    require_shape(found, SIZES, 64)


def test_a_folder_without_heads_is_told_how_to_get_them(llama: Path, tmp_path: Path) -> None:
    message = "has no retaining-locret.safetensors; train them .*treadle sparsify locret"
    with pytest.raises(SettingsError, match=message):
        read_heads(llama, "locret")
    folder = with_heads(llama, tmp_path / "model", "kvzap")
    with pytest.raises(SettingsError, match=message):
        read_heads(folder, "locret")


def test_heads_of_other_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = with_heads(llama, tmp_path / "model", "locret")
    tensors = load_file(folder / "model.safetensors")
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first] + 1}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"was trained on other weights .* train the heads"):
        read_heads(folder, "locret")


def test_a_newer_version_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = with_heads(llama, tmp_path / "model", "locret")
    changed_manifest(folder, version=2)
    with pytest.raises(CheckpointError, match="is of version 2, and this treadle reads 1"):
        read_heads(folder, "locret")


@pytest.mark.parametrize("damage", ["cut", "kind", "part", "note"])
def test_damage_is_refused(damage: str, llama: Path, tmp_path: Path) -> None:
    folder = with_heads(llama, tmp_path / "model", "locret")
    file = folder / file_name("locret")
    tensors = load_file(file)
    said = {"kind": "mlp", "reads": "projections", "activation": "silu"}
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "kind":
        note = json.dumps({**said, "kind": "forest"})
        save_file(tensors, file, {"retaining_heads": note})
    elif damage == "part":
        note = json.dumps(said)
        save_file(
            {**tensors, "layers.0.third": tensors["layers.0.first"]},
            file,
            {"retaining_heads": note},
        )
    else:
        save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"is damaged .* copy it again, or train the heads"):
        read_heads(folder, "locret")


@pytest.mark.parametrize(
    ("sizes", "hidden", "message"),
    [
        (SIZES[:1], 64, "of a model of 2 layers, and this one has 1"),
        ([(4, 2, 16), (4, 4, 16)], 64, "of layer 1 have the shape"),
        ([(4, 2, 16), (2, 2, 16)], 64, "of layer 1 have the shape"),
    ],
)
def test_heads_of_another_shape_are_refused(sizes, hidden: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        require_shape(drawn("locret", SIZES, 64), sizes, hidden)


def test_heads_that_read_another_stream_are_refused() -> None:
    with pytest.raises(CheckpointError, match="of layer 0 have the shape"):
        require_shape(drawn("kvzap", SIZES, 64), SIZES, 32)


def test_writing_and_reading_keep_the_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_heads(tmp_path / name, drawn("gated", SIZES, 64))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
