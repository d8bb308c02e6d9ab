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


def test_flipped_bytes_and_another_policy_are_refused(llama: Path, tmp_path: Path) -> None:
    """The file says whose heads it holds, and what their numbers are."""
    folder = with_heads(llama, tmp_path / "model", "locret", "gated")
    file = folder / file_name("locret")
    whole = bytearray(file.read_bytes())
    whole[-40] ^= 1
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="numbers are not those that were written"):
        read_heads(folder, "locret")
    file.write_bytes((folder / file_name("gated")).read_bytes())
    with pytest.raises(CheckpointError, match="it holds heads of 'gated'"):
        read_heads(folder, "locret")


def _parts(policy: str) -> list[tuple[str, str]]:
    own = [
        n for n, part in drawn(policy, SIZES, 64).layers[0]._asdict().items() if part is not None
    ]
    return [(policy, name) for name in own]


@pytest.mark.parametrize(
    ("policy", "name"), [*_parts("locret"), *_parts("kvzap"), *_parts("gated")]
)
def test_every_part_has_its_shape_and_finite_numbers(policy: str, name: str) -> None:
    """Dropped, wider, one row shorter, NaN: what C would read beyond the end of is refused."""
    heads = drawn(policy, SIZES, 64)
    part = getattr(heads.layers[1], name)
    wide = np.repeat(part, 2, axis=-1) if name != "sinks" else part[..., :8]
    damaged = [wide, part[:-1], np.full_like(part, np.nan)]
    damaged += [] if name in ("first_bias", "second_bias", "first") else [None]
    for other in damaged:
        layers = (heads.layers[0], heads.layers[1]._replace(**{name: other}))
        with pytest.raises(CheckpointError, match="layer 1 have a"):
            require_shape(heads._replace(layers=layers), SIZES, 64)
    require_shape(heads, SIZES, 64)


@pytest.mark.parametrize(
    ("sizes", "hidden", "message"),
    [
        (SIZES[:1], 64, "of a model of 2 layers, and this one has 1"),
        ([(4, 2, 16), (4, 4, 16)], 64, "of layer 1 have a 'first' of shape"),
        ([(4, 2, 16), (2, 2, 16)], 64, "of layer 1 have a 'first' of shape"),
    ],
)
def test_heads_of_another_shape_are_refused(sizes, hidden: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        require_shape(drawn("locret", SIZES, 64), sizes, hidden)


def test_heads_that_read_another_stream_are_refused() -> None:
    with pytest.raises(CheckpointError, match="of layer 0 have a 'first' of shape"):
        require_shape(drawn("kvzap", SIZES, 64), SIZES, 32)


def test_writing_and_reading_keep_the_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_heads(tmp_path / name, drawn("gated", SIZES, 64), "gated")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
