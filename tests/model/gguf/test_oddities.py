"""What GGUF files in the world are like: each oddity is read right, or refused by its name."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from damage.gguf_files import content, misspelt, put, tensor, value
from gguf_models import to_gguf
from treadle.core.errors import CheckpointError, TreadleError, UnsupportedModelError
from treadle.model.gguf.file import GgufFile, part_paths
from treadle.model.gguf.model import open_gguf
from treadle.model.load import skeleton
from treadle.model.source import name_later, source_hash
from treadle.runtime import LLM, SamplingParams

READ = {
    "no rope base": {"llama.rope.freq_base": None},
    "no length of keys": {"llama.attention.key_length": None},
    "an alignment of 64": {"general.alignment": 64},
    "an alignment of 4096": {"general.alignment": 4096},
    "unknown keys": {"general.hobby": "weaving", "quantize.imatrix.entries": 7, "loom.warps": 3},
    "arrays of arrays": {"general.nested": [[1, 2], [3]], "general.words": [["a"], ["b", "c"]]},
    "heads of each layer, all the same": {"llama.attention.head_count": [4, 4]},
    "key heads of each layer": {"llama.attention.head_count_kv": [2, 2]},
    "widths of each layer": {"llama.feed_forward_length": [96, 96]},
    "a vocabulary's size that is said again": {"llama.vocab_size": 512},
    "a factor of positions that is 0": {"llama.rope.scaling.factor": 0.0},
}
"""Oddity -> settings, of a file that computes what its folder computes."""


@pytest.mark.parametrize("oddity", READ)
def test_what_is_odd_and_right_is_read(oddity, llama, tmp_path):
    to_gguf(llama, tmp_path / "model.gguf", **READ[oddity])
    _require_same(tmp_path / "model.gguf", llama)


def _require_same(file: Path, folder: Path) -> None:
    with open_gguf(file) as reader:
        module = skeleton(reader)
        for name, expected in load_file(folder / "model.safetensors").items():
            np.testing.assert_array_equal(reader.array(name), expected, err_msg=name)
    assert module.config.rope_parameters["rope_theta"] == 10_000.0
    assert module.config.head_dim == 16


def test_a_file_that_mixes_types_is_read(llama, tmp_path):
    kinds = "Q4_0,F16,Q5_1,IQ4_NL,BF16,Q8_0,MXFP4"
    expected = to_gguf(llama, tmp_path / "model.gguf", kinds)
    with open_gguf(tmp_path / "model.gguf") as reader:
        for name, values in expected.items():
            np.testing.assert_array_equal(reader.array(name).astype(np.float32), values)


def _with_tensor(name: str, values: np.ndarray) -> Callable[[Path], None]:
    """Write the file again with one more tensor, or another in its place."""

    def change(file: Path) -> None:
        source = GgufFile(file)
        writer = gguf.GGUFWriter(file.with_suffix(".more"), "llama")
        for key, said in source.settings.items():
            if key != "general.architecture" and said != []:
                writer.add_key_value(key, said, gguf.GGUFValueType.get_type(said))
        tensors = {own: source.raw(own).view(np.float32) for own in source.tensors} | {name: values}
        for own, numbers in tensors.items():
            shape = source.tensors[own].shape if own in source.tensors else numbers.shape
            writer.add_tensor(own, numbers if own == name else numbers.reshape(shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        file.with_suffix(".more").rename(file)

    return change


def _counted(change: int) -> Callable[[Path], None]:
    return content(lambda raw: _put(raw, 8, struct.unpack_from("<Q", raw, 8)[0] + change))


def _put(raw: bytearray, place: int, number: int) -> bytearray:
    struct.pack_into("<Q", raw, place, number)
    return raw


EMBEDDED = "llama.embedding_length"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (content(lambda raw: raw[:-4000]), r"is truncated: tensor '.*copy or download"),
    "a header cut short": (content(lambda raw: raw[:300]), r"is truncated: its header goes on"),
    "one tensor fewer counted": (_counted(-1), r"goes on for \d+ bytes beyond the tensors"),
    "one tensor more counted": (_counted(1), r"truncated|broken header|has the shape|of the type"),
    "bytes behind the last tensor": (
        content(lambda raw: raw + b"x" * 100),
        r"goes on for 100 bytes beyond",
    ),
    "overlapping tensors": (
        tensor("blk.0.attn_q.weight", 24, "<Q", 0),
        r"'blk.0.attn_q.weight'.*overlaps the one before it",
    ),
    "a gap between tensors": (
        tensor("blk.0.attn_q.weight", 24, "<Q", 1 << 18),
        r"'blk.0.attn_q.weight'.*leaves a gap",
    ),
    "one name twice": (
        content(lambda raw: raw.replace(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight")),
        r"two tensors 'blk.0.attn_k.weight'",
    ),
    "one key twice": (
        content(lambda raw: raw.replace(b"llama.rope.freq_base", b"llama.context_length")),
        r"says llama.context_length twice",
    ),
    "a tensor type of tomorrow": (
        tensor("blk.0.attn_q.weight", 20, "<I", 200),
        r"'blk.0.attn_q.weight'.*number 200, but only.*Q4_K_M",
    ),
    "five axes": (tensor("blk.0.attn_q.weight", 0, "<I", 5), r"has the shape|truncated|broken"),
    "a width that lies": (value(EMBEDDED, "<I", 128), r"has shape \[\d+, 64\].*128"),
    "heads that lie": (value("llama.attention.head_count", "<I", 8), r"has shape|do not share"),
    "layers that lie: more": (value("llama.block_count", "<I", 3), r"layers?\.2.*missing|3"),
    "layers that lie: fewer": (value("llama.block_count", "<I", 1), r"layers\.1|blocks|layers"),
    "a required setting that is missing": (
        misspelt("llama.feed_forward_length"),
        r"lacks the setting llama.feed_forward_length; convert",
    ),
    "a big-endian file": (put(4, ">I", 3), r"big-endian"),
    "a tensor that no llama has": (
        _with_tensor("blk.0.ssm_a.weight", np.zeros((2, 2), np.float32)),
        r"'blk.0.ssm_a.weight'.*none that a llama",
    ),
}
"""Oddity -> what makes it so, and what is said of it."""


@pytest.mark.parametrize("oddity", REFUSED)
def test_what_is_wrong_is_refused_by_name(oddity, llama, tmp_path):
    change, message = REFUSED[oddity]
    to_gguf(llama, tmp_path / "model.gguf")
    change(tmp_path / "model.gguf")
    with pytest.raises(TreadleError, match=message), open_gguf(tmp_path / "model.gguf") as reader:
        skeleton(reader)


SETTINGS = {
    "an alignment that is no power of two": ({"general.alignment": 48}, "power of two"),
    "an alignment of 0": ({"general.alignment": 0}, "power of two"),
    "heads that differ by layer": (
        {"llama.attention.head_count": [4, 2]},
        r"attention.head_count for each layer.*Hugging Face folder",
    ),
    "more tokens than rows": (
        {"tokenizer.ggml.tokens": [f"t{number}" for number in range(9999)]},
        r"lists 9999 tokens.*has \d+ rows",
    ),
    "a setting of tomorrow": (
        {"llama.attention.warp": 3},
        r"llama.attention.warp: 3.*not computed",
    ),
}


@pytest.mark.parametrize("oddity", SETTINGS)
def test_settings_that_nobody_computes_with_are_refused_by_name(oddity, llama, tmp_path):
    settings, message = SETTINGS[oddity]
    to_gguf(llama, tmp_path / "model.gguf", **settings)
    with pytest.raises((CheckpointError, UnsupportedModelError), match=message):
        open_gguf(tmp_path / "model.gguf")


@pytest.fixture
def parts(llama, tmp_path) -> list[Path]:
    to_gguf(llama, tmp_path / "model.gguf", part_tensors=8)
    found = sorted(tmp_path.glob("model-*.gguf"))
    assert len(found) == 3
    return found


def test_any_part_of_a_split_model_opens_all(parts, llama, tmp_path):
    for path in parts:
        assert part_paths(path) == parts
        _require_same(path, llama)
    assert len({source_hash(path) for path in parts}) == 1
    to_gguf(llama, tmp_path / "whole.gguf")
    greedy = SamplingParams(temperature=0, max_tokens=4)
    (found,) = LLM(parts[1]).generate([[5, 6, 7]], greedy)
    (expected,) = LLM(tmp_path / "whole.gguf").generate([[5, 6, 7]], greedy)
    assert found.outputs[0].token_ids == expected.outputs[0].token_ids


def test_a_part_that_changes_is_noticed(parts):
    name = name_later(parts[0])
    name()
    parts[2].write_bytes(parts[2].read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="changed after they were loaded"):
        name()


def _say(path: Path, key: str, form: str, number: int) -> None:
    value(key, form, number)(path)


def _rename_tensor(parts: list[Path], name: str, other: str) -> None:
    for path in parts:
        path.write_bytes(path.read_bytes().replace(name.encode(), other.encode()))


SPLITS: dict[str, tuple[Callable[[list[Path]], Path], str]] = {
    "a missing part": (
        lambda parts: (parts[1].unlink(), parts[2])[1],
        r"one of 3 parts.*'model-00002-of-00003.gguf' is missing \(1 of 3\); download it",
    ),
    "a part under another name": (
        lambda parts: parts[0].rename(parts[0].with_name("mine.gguf")),
        r"one of 3 parts.*its name does not say which.*NAME-00001-of-00003.gguf",
    ),
    "parts in each other's place": (
        lambda parts: (parts[1].write_bytes(parts[2].read_bytes()), parts[0])[1],
        r"00002-of-00003.gguf' says that it is part 3 of 3, but its name says 2 of 3",
    ),
    "a count that lies": (
        lambda parts: (_say(parts[2], "split.count", "<H", 4), parts[0])[1],
        r"00003-of-00003.gguf' says that it is part 3 of 4",
    ),
    "a part of another model": (
        lambda parts: (_say(parts[1], "split.tensors.count", "<i", 900), parts[0])[1],
        r"part of another model.*split.tensors.count: 900, but \d+ was expected",
    ),
    "a tensor in two parts": (
        lambda parts: (
            _rename_tensor(parts, "blk.1.ffn_up.weight", "blk.0.ffn_up.weight"),
            parts[0],
        )[1],
        r"'blk.0.ffn_up.weight' is in '.*' and in '",
    ),
    "a part that is cut short": (
        lambda parts: (parts[1].write_bytes(parts[1].read_bytes()[:-900]), parts[0])[1],
        r"00002-of-00003.gguf' is truncated",
    ),
}


@pytest.mark.parametrize("oddity", SPLITS)
def test_parts_that_do_not_make_a_model_are_refused_by_name(oddity, parts):
    change, message = SPLITS[oddity]
    path = change(parts)
    with pytest.raises(CheckpointError, match=message):
        open_gguf(path)
