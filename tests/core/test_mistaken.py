"""Files that are not what their names say are told for what they are, whoever reads them."""

import gzip
from pathlib import Path

import pytest

from treadle import prune, quantize
from treadle.app.compat import compat
from treadle.app.export import export
from treadle.combine.merge import merge_yaml
from treadle.core.checkpoint import CheckpointReader
from treadle.core.checkpoint.described import read_object
from treadle.core.errors import CheckpointError, DataError
from treadle.core.mistaken import mistaken, pointed
from treadle.model import tiny
from treadle.model.load import load_tokenizer
from treadle.model.text import read_text
from treadle.recipe import load_recipe

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (POINTER.encode(), "Git LFS pointer, not the file of 12,345 bytes"),
        (b"\xef\xbb\xbf" + POINTER.encode(), "Git LFS pointer"),
        (b"/annex/objects/SHA256E-s5--ab.bin\n", "git-annex pointer"),
        (b"<!DOCTYPE html>\n<html>Sign in</html>", "a page of the web"),
        (b"PK\x03\x04" + bytes(99), "a zip archive"),
        (gzip.compress(b"text", mtime=0), "gzip-compressed"),
        (b"GGUF" + bytes(20), "a GGUF file"),
        (b"", "empty"),
        (b'{"a": 1}', ""),
        (b"version 2 of a text\n", ""),
    ],
)
def test_what_a_file_is_instead(content: bytes, what: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    found = mistaken(file)
    assert (what in found) if what else (found == "")
    assert bool(pointed(file)) is ("pointer" in what)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert mistaken(tmp_path / "none") == pointed(tmp_path / "none") == ""


def test_readers_tell_a_pointer(tmp_path: Path) -> None:
    folder = tiny.build("llama", tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(POINTER)
        with pytest.raises(DataError, match=rf"{name}' is a Git LFS pointer"):
            load_tokenizer(folder)
        assert all("Git LFS pointer" in line for line in compat(folder).splitlines()[1:])
        (folder / name).write_bytes(whole)
    (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"safetensors is a Git LFS pointer.*git lfs pull"):
        CheckpointReader(folder)
    (folder / "config.json").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"config.json is a Git LFS pointer"):
        read_object(folder / "config.json")
    for name in ("text.txt", "text.jsonl"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(DataError, match=rf"{name}' is a Git LFS pointer"):
            read_text(str(tmp_path / name))


def test_writers_refuse_to_carry_a_pointer_along(tmp_path: Path) -> None:
    folder = tiny.build("llama", tmp_path / "model")
    (folder / "tokenizer.json").write_text(POINTER)
    for write in (
        lambda: prune(folder, tmp_path / "out", "magnitude", sparsity=0.5),
        lambda: quantize(folder, tmp_path / "out", "rtn", group=32),
        lambda: export(folder, tmp_path / "out", dtype="bfloat16"),
    ):
        with pytest.raises(CheckpointError, match=r"json', which goes along, is a Git LFS"):
            write()
        assert not (tmp_path / "out").exists()


def test_recipes_and_pickles_that_are_pointers(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(POINTER)
    for read in (lambda: merge_yaml(file, tmp_path / "out"), lambda: load_recipe(file)):
        with pytest.raises(DataError, match=r"recipe.yaml' is a Git LFS pointer"):
            read()
    folder = tiny.build("llama", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a Git LFS pointer"):
        CheckpointReader(folder)
