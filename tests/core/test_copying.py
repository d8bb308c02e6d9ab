import os
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from written_models import MANIFEST, PLAN, begin, values_of, write_model

from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    Parent,
    PlannedTensor,
    SideFile,
    content_hash,
    copy_checkpoint,
    read_manifest,
)
from treadle.core.checkpoint.header import build_header
from treadle.core.errors import SettingsError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))


def test_a_copy_has_the_same_numbers(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m")
    (source / "tokenizer.json").write_text("{}")
    copied = copy_checkpoint(source, tmp_path / "copy", max_shard_bytes=20)
    assert content_hash(copied) == content_hash(source)
    assert (copied.folder / "tokenizer.json").is_file()
    assert len(list(copied.folder.glob("*.safetensors"))) == 2
    manifest = read_manifest(copied.folder)
    assert manifest is not None
    assert manifest.provenance.parents == (Parent(name="m", content_hash=content_hash(source)),)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        (
            {"dtype": "float32", "text_config": {"dtype": "float32"}},
            {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}},
        ),
    ],
)
def test_a_cast_changes_floats_and_config(tmp_path: Path, config: dict, expected: dict) -> None:
    source = write_model(tmp_path / "m", config=config)
    copied = copy_checkpoint(source, tmp_path / "copy", dtype="bfloat16")
    dtypes = {name: info.dtype for name, info in copied.tensors.items()}
    assert dtypes == {"a": "BF16", "b": "BF16", "c": "U8", "d": "BF16"}
    assert copied.config == expected
    assert copied.array("a").tobytes() == values_of(PLAN[0]).astype(ml_dtypes.bfloat16).tobytes()
    with pytest.raises(SettingsError, match="'int8' is unknown; choose one of"):
        copy_checkpoint(source, tmp_path / "x", dtype="int8")
    with pytest.raises(SettingsError, match="'I8' is no float; choose float32, float16 or bf"):
        copy_checkpoint(source, tmp_path / "x", dtype="I8")


def test_a_tied_head_is_copied_once(tmp_path: Path) -> None:
    plan = [PlannedTensor(n, "F32", (2,)) for n in ("embed_tokens.weight", "lm_head.weight")]
    with begin(tmp_path / "m", plan, config={"tie_word_embeddings": True}) as writer:
        for tensor in plan:
            writer.write(tensor.name, np.ones(2))
        writer.finish(MANIFEST, "")
    copied = copy_checkpoint(tmp_path / "m", tmp_path / "copy")
    assert list(copied.tensors) == ["embed_tokens.weight"]
    assert copied.array("lm_head.weight").tolist() == [1, 1]


@pytest.mark.parametrize("is_required", [True, False])
def test_side_files_follow_equal_numbers_only(
    tmp_path: Path, is_required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    side = SideFile(path="x/y.bin", kind="y", version=1, base_hash="", required=is_required)
    with begin(tmp_path / "m") as writer:
        for tensor in PLAN:
            writer.write(tensor.name, values_of(tensor))
        (writer.folder / "x").mkdir()
        (writer.folder / side.path).write_text("y")
        writer.finish(MANIFEST.model_copy(update={"side_files": (side,)}), "")
    copied = copy_checkpoint(tmp_path / "m", tmp_path / "copy")
    manifest = read_manifest(copied.folder)
    assert manifest is not None
    own = side.model_copy(update={"base_hash": content_hash(tmp_path / "m")})
    assert manifest.side_files == (own,)
    assert (copied.folder / side.path).read_text() == "y"
    if is_required:
        with pytest.raises(SettingsError, match=r"computes with x/y.bin, .* without a dtype"):
            copy_checkpoint(tmp_path / "m", tmp_path / "cast", dtype="bfloat16")
    else:
        cast = copy_checkpoint(tmp_path / "m", tmp_path / "cast", dtype="bfloat16")
        assert not (cast.folder / "x").exists()
        assert "Leaving out x/y.bin" in caplog.text


def test_an_interrupted_copy_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.core.checkpoint.copying._SYNC_BYTES", 1)
    source = write_model(tmp_path / "m")
    written: list[str] = []
    write_range = CheckpointWriter.write_range

    def stop_at_third(self: CheckpointWriter, name: str, *rest: object) -> None:
        written.append(name)
        if len(written) == 3:
            raise KeyboardInterrupt
        write_range(self, name, *rest)

    monkeypatch.setattr(CheckpointWriter, "write_range", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        copy_checkpoint(source, tmp_path / "copy")
    copied = copy_checkpoint(source, tmp_path / "copy")
    assert sorted(written) == sorted([*(t.name for t in PLAN), written[2]])
    assert content_hash(copied) == content_hash(source)


COPIED = """
    import re, sys, threading
    from pathlib import Path
    from treadle.core.checkpoint import copy_checkpoint

    def anonymous_kib():
        return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    peak, stop = [anonymous_kib()], threading.Event()
    start = peak[0]

    def watch():
        while not stop.wait(0.005):
            peak[0] = max(peak[0], anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    copy_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), dtype=sys.argv[3] or None)
    stop.set()
    watcher.join()
    print((peak[0] - start) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["", "float32"])
def test_a_large_copy_takes_little_memory(tmp_path: Path, dtype: str) -> None:
    plan = [PlannedTensor("large", "BF16", (250, 10**6)), PlannedTensor("b", "BF16", (10**8,))]
    source = _sparse_model(tmp_path / "sparse", plan)
    command = [sys.executable, "-c", textwrap.dedent(COPIED), source, tmp_path / "copy", dtype]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256 * 2**20
    assert CheckpointReader(tmp_path / "copy").tensors["large"].shape == (250, 10**6)


def _sparse_model(folder: Path, plan: list[PlannedTensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header, infos = build_header(folder / "model.safetensors", plan)
    (folder / "model.safetensors").write_bytes(header)
    os.truncate(folder / "model.safetensors", infos[-1].start_byte + infos[-1].num_bytes)
    return folder
