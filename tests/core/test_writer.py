import errno
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from written_models import MANIFEST, PLAN, begin, bytes_of, left_in, values_of, write_model

from treadle.core.checkpoint import (
    CheckpointReader,
    PlannedTensor,
    SideFile,
    content_hash,
    copy_checkpoint,
    read_manifest,
)
from treadle.core.errors import CheckpointError, SettingsError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))


# The layout


def test_a_single_file_loads_in_safetensors(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "out")
    assert left_in(folder) == {"config.json", "README.md", "treadle.json", "model.safetensors"}
    loaded = load_file(folder / "model.safetensors")
    with CheckpointReader(folder) as reader:
        assert set(loaded) == set(reader.tensors) == {tensor.name for tensor in PLAN}
        for tensor in PLAN:
            assert torch.equal(loaded[tensor.name], reader.tensor(tensor.name))
            assert reader.array(tensor.name).tobytes() == values_of(tensor).tobytes()
    assert b'"__metadata__":{"format":"pt"}' in (folder / "model.safetensors").read_bytes()


def test_shards_keep_the_order_and_the_bound(tmp_path: Path) -> None:
    plan = [
        PlannedTensor(name, "F32", (size,)) for name, size in zip("zyxw", (4, 4, 9, 1), strict=True)
    ]
    folder = write_model(tmp_path / "out", plan, max_shard_bytes=32)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 72}
    assert [int(file[6:11]) for file in index["weight_map"].values()] == [1, 1, 2, 3]
    assert list(CheckpointReader(folder).tensors) == list("zyxw")
    for file in set(index["weight_map"].values()):
        assert load_file(folder / file)


def test_wider_types_come_first_and_lie_aligned(tmp_path: Path) -> None:
    plan = [PlannedTensor("odd", "U8", (3,)), PlannedTensor("wide", "F64", (2,))]
    reader = CheckpointReader(write_model(tmp_path / "out", plan))
    assert list(reader.tensors) == ["wide", "odd"]
    assert reader.tensors["wide"].start_byte % 8 == 0


class Piece(NamedTuple):
    name: str
    first: int
    stop: int


@st.composite
def plans_and_pieces(draw: st.DrawFn) -> tuple[list[PlannedTensor], list[Piece]]:
    codes = st.sampled_from(["F32", "BF16", "F16", "I64", "U8", "BOOL"])
    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    plan = [
        PlannedTensor(f"t{place}", code, shape)
        for place, (code, shape) in enumerate(draw(st.lists(st.tuples(codes, shapes), max_size=5)))
    ]
    pieces = []
    for tensor in plan:
        cuts = draw(st.sets(st.integers(0, tensor.num_elements), max_size=3))
        pieces += [
            Piece(tensor.name, *pair) for pair in pairwise(sorted({0, tensor.num_elements} | cuts))
        ]
    return plan, draw(st.permutations(pieces))


@settings(max_examples=25, deadline=None)
@given(plans_and_pieces(), st.sampled_from([1, 40, 10_000]), st.integers(1, 4))
def test_any_order_and_any_threads_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[list[PlannedTensor], list[Piece]],
    max_shard_bytes: int,
    num_threads: int,
) -> None:
    plan, pieces = drawn
    root = tmp_path_factory.mktemp("models")
    expected = write_model(root / "whole", plan, max_shard_bytes=max_shard_bytes)
    flat = {tensor.name: values_of(tensor).reshape(-1) for tensor in plan}
    with begin(root / "pieces", plan, max_shard_bytes=max_shard_bytes) as writer:

        def store(piece: Piece) -> None:
            writer.write_range(piece.name, piece.first, flat[piece.name][piece.first : piece.stop])

        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(store, pieces))
        writer.finish(MANIFEST, "card\n")
    assert bytes_of(root / "pieces") == bytes_of(expected)
    reader = CheckpointReader(expected)
    for tensor in plan:
        assert reader.array(tensor.name).tobytes() == values_of(tensor).tobytes()


# Writing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_and_arrays_are_cast(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.core.checkpoint.writer._CHUNK_ELEMENTS", 3)
    values = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    plan = [PlannedTensor(name, "BF16", (5, 6)) for name in ("torch", "numpy")]
    with begin(tmp_path / "out", plan) as writer:
        writer.write("torch", values.to(dtype).T)
        writer.write("numpy", values.to(dtype).to(torch.float32).numpy().T)
        assert writer.read("torch").dtype == ml_dtypes.bfloat16
        writer.finish(MANIFEST, "")
    reader = CheckpointReader(tmp_path / "out")
    for name in ("torch", "numpy"):
        assert torch.equal(reader.tensor(name), values.to(dtype).to(torch.bfloat16).T)


def test_what_was_written_reads_back_at_once(tmp_path: Path) -> None:
    with begin(tmp_path / "out") as writer:
        writer.write("b", np.ones(5))
        assert writer.read("b").astype(int).tolist() == [1] * 5
        writer.write_range("b", 1, np.zeros(2))
        assert writer.read("b").astype(int).tolist() == [1, 0, 0, 1, 1]
        assert not writer.read("b").flags.writeable


def test_wrong_writes_are_refused(tmp_path: Path) -> None:
    with begin(tmp_path / "out") as writer:
        with pytest.raises(CheckpointError, match=r"'x' is not among the 4 planned .*; plan it"):
            writer.write("x", np.ones(3))
        with pytest.raises(CheckpointError, match=r"'a' .* has shape \[3, 4\], but \[4, 3\] was"):
            writer.write("a", np.ones((3, 4)))
        with pytest.raises(
            CheckpointError, match=r"Elements 4..6 do not fit into tensor 'b' .* 5;"
        ):
            writer.write_range("b", 4, np.ones(2))
        with pytest.raises(SettingsError, match="'c' holds F64, but U8 was expected"):
            writer.write("c", np.ones((2, 2)))


@pytest.mark.parametrize("piece", [slice(0, 3), slice(1, 5)])
def test_a_gap_is_noticed(tmp_path: Path, piece: slice) -> None:
    plan = [PlannedTensor("w", "F32", (5,))]
    with begin(tmp_path / "out", plan) as writer:
        writer.write_range("w", piece.start, np.ones(piece.stop - piece.start))
        writer.write_range("w", piece.start, np.ones(1))  # twice is no more
        for finish in (lambda: writer.mark_done(["w"]), lambda: writer.finish(MANIFEST, "")):
            with pytest.raises(
                CheckpointError, match=r"1 of the 1 tensors .* among them 'w'; write"
            ):
                finish()
    assert left_in(tmp_path) == {".out.partial"}


def test_impossible_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'a' is planned 2 times; plan each name once"):
        begin(tmp_path / "out", [*PLAN, PLAN[0]])
    with pytest.raises(SettingsError, match="'a' is planned with the unknown dtype 'F12'; choose"):
        begin(tmp_path / "out", [PlannedTensor("a", "F12", ())])
    with pytest.raises(SettingsError, match="max_shard_bytes is 0; give at least 1"):
        begin(tmp_path / "out", max_shard_bytes=0)
    with pytest.raises(SettingsError, match=r"needs a config.json; give the parent or the config"):
        begin(tmp_path / "out", config=None)
    assert left_in(tmp_path) == set()


# Finishing


def test_small_files_of_the_parent_go_along(tmp_path: Path) -> None:
    parent = write_model(tmp_path / "parent")
    carried = {"tokenizer.json", "merges.txt", "chat_template.jinja", "generation_config.json"}
    for name in [*carried, "result.json", "pytorch_model.bin", "optimizer.pt", "notes.txt"]:
        (parent / name).write_text("{}" if name.endswith("config.json") else "parent's")
    with begin(tmp_path / "out", parent=CheckpointReader(parent), config=None) as writer:
        for tensor in PLAN:
            writer.write(tensor.name, values_of(tensor))
        (writer.folder / "tokenizer.json").write_text("own")
        writer.finish(MANIFEST, "own card")
    out = tmp_path / "out"
    weights = {"config.json", "README.md", "treadle.json", "model.safetensors"}
    assert left_in(out) == weights | carried
    assert (out / "tokenizer.json").read_text() == "own"
    assert (out / "README.md").read_text() == "own card"
    assert CheckpointReader(out).config == {"model_type": "llama"}


def test_the_manifest_gets_the_content_hash(tmp_path: Path) -> None:
    with begin(tmp_path / "out") as writer:
        for tensor in PLAN:
            writer.write(tensor.name, values_of(tensor))
        manifest = writer.finish(MANIFEST, "")
    assert read_manifest(tmp_path / "out") == manifest
    (tmp_path / "cache" / "content_hashes.json").unlink()
    assert content_hash(tmp_path / "out") == manifest.content_hash


def test_a_listed_side_file_must_be_there(tmp_path: Path) -> None:
    side = SideFile(
        path="router.safetensors", kind="router", version=1, base_hash="", required=True
    )
    manifest = MANIFEST.model_copy(update={"side_files": (side,)})
    with begin(tmp_path / "out") as writer:
        for tensor in PLAN:
            writer.write(tensor.name, values_of(tensor))
        with pytest.raises(
            CheckpointError, match=r"side file router.safetensors .* does not exist"
        ):
            writer.finish(manifest, "")
        (writer.folder / side.path).write_text("here")
        writer.finish(manifest, "")
    assert (tmp_path / "out" / side.path).read_text() == "here"


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    old = bytes_of(write_model(tmp_path / "out"))
    with pytest.raises(SettingsError, match=r"/out already exists; choose another .* --overwrite"):
        begin(tmp_path / "out")
    assert bytes_of(tmp_path / "out") == old


def test_overwrite_replaces_model_folders_only(tmp_path: Path) -> None:
    write_model(tmp_path / "out", [PlannedTensor("old", "F32", (2,))])
    write_model(tmp_path / "out", overwrite=True)
    assert set(CheckpointReader(tmp_path / "out").tensors) == {tensor.name for tensor in PLAN}
    assert left_in(tmp_path) == {"out"}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    with pytest.raises(SettingsError, match=r"is no model folder .* remove it yourself"):
        begin(tmp_path / "home", overwrite=True)


def test_a_model_can_replace_itself(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "out")
    copied = copy_checkpoint(folder, folder, dtype="bfloat16", overwrite=True)
    assert copied.tensors["a"].dtype == "BF16"


def test_a_failed_replacement_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bytes_of(write_model(tmp_path / "out"))
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == ".out.partial":
            raise OSError(errno.EIO, "broken disk")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="broken disk"):
        write_model(tmp_path / "out", overwrite=True)
    assert bytes_of(tmp_path / "out") == old
    assert left_in(tmp_path) == {"out", ".out.partial"}


def test_an_interrupted_replacement_is_undone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path / "out").rename(tmp_path / ".out.old")
    with pytest.raises(SettingsError, match="already exists"):
        begin(tmp_path / "out")
    assert left_in(tmp_path) == {"out"}
    assert "Restored" in caplog.text
