"""GGUF files written by the gguf library read back as the models that they were made of."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from coded_models import decoded_blocks
from gguf_models import OVERRIDES, to_gguf
from naive import config_of
from treadle.core.errors import CapacityError, CheckpointError, DataError, UnsupportedModelError
from treadle.model.coded import Obstacle
from treadle.model.gguf import tokenizer as tokens_of_gguf
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.model import open_gguf
from treadle.model.gguf.tokenizer import end_tokens, gguf_tokenizer
from treadle.model.load import resolve, skeleton
from treadle.model.rope import RotaryFactors
from treadle.native.blocks import weights_of
from treadle.runtime.native_step.rope import ropes_of

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


@pytest.fixture
def file(llama, tmp_path) -> Path:
    to_gguf(llama, tmp_path / "model.gguf", "Q4_1")
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_reads_back(kind, llama, tmp_path):
    expected = to_gguf(llama, tmp_path / "model.gguf", kind)
    original = load_file(llama / "model.safetensors")
    with open_gguf(tmp_path / "model.gguf") as reader:
        assert reader.tensors.keys() == original.keys()
        for name, values in original.items():
            found = reader.array(name).astype(np.float32)
            np.testing.assert_array_equal(found, expected.get(name, values), err_msg=name)
            coded = reader.coded(name)
            assert (coded is None) == (kind in KINDS[:3] or values.ndim == 1)
            if coded is not None:
                np.testing.assert_allclose(decoded_blocks(coded), found, atol=1e-6)


WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
BLOCKS = ("Q5_0", "Q5_1", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")


@pytest.mark.parametrize("kind", [*BLOCKS, "IQ2_XXS", "IQ3_S", "TQ2_0"])
def test_blocks_read_back_and_are_handed_out_as_they_lie(kind, tiny_model, tmp_path):
    folder = tiny_model("llama", **WIDE)
    expected = to_gguf(folder, tmp_path / "model.gguf", kind)
    with open_gguf(tmp_path / "model.gguf") as reader:
        for name, values in expected.items():
            np.testing.assert_array_equal(reader.array(name), values, err_msg=name)
            found = reader.coded(name)
            if kind not in BLOCKS:
                assert found == Obstacle(f"no kernel multiplies {kind}")
                continue
            assert (found.form, found.cols) == (kind.lower(), values.shape[1])
            assert len(found.raw) == len(values)
            np.testing.assert_array_equal(weights_of(found.form, found.raw), values, err_msg=name)


@pytest.mark.parametrize("model_type", OVERRIDES)
def test_every_architecture_has_the_config_and_tensors_of_its_folder(
    model_type, tiny_model, tmp_path
):
    folder = tiny_model(model_type, **OVERRIDES[model_type])
    to_gguf(folder, tmp_path / "model.gguf")
    wanted = config_of(folder)
    with open_gguf(tmp_path / "model.gguf") as reader:
        found = skeleton(reader).config.to_dict()
        for name, values in load_file(folder / "model.safetensors").items():
            np.testing.assert_allclose(reader.array(name), values, atol=1e-6, err_msg=name)
        assert (reader.tied != {}) == wanted["tie_word_embeddings"]
    assert found.pop("model_type") == ("llama" if model_type == "mistral" else model_type)
    assert found["head_dim"] == 16
    for key in ("hidden_size", "rms_norm_eps", "rope_parameters", "layer_types"):
        assert found.get(key) == wanted.get(key), key
    if model_type.startswith("gemma"):
        for key in ("query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping"):
            assert found[key] == wanted[key], key
        assert found["hidden_activation"] == wanted["hidden_activation"]


def write(path: Path, architecture="llama", tensors=(), **settings) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in settings.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        (writer.add_string if isinstance(value, str) else add)(key.replace("__", "."), value)
    for name, values, kind in tensors:
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_cut_anywhere_is_called_truncated(file):
    whole = file.read_bytes()
    for part in [10, 30, 60, 200, 1000, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:part])
        with pytest.raises(CheckpointError, match=r"is truncated.*copy or download"):
            open_gguf(file)


def test_what_is_no_gguf_file_is_named(tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError, match="There is no file"):
        open_gguf(path)
    for content, what in (
        (b"", "is empty"),
        (b"PK\x03\x04 something else", "is a zip archive"),
        (b"something else", r"begins with b'.*a GGUF file begins with b'GG"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=what):
            open_gguf(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(CheckpointError, match=r"is GGUF version 1.*convert the model again"):
        open_gguf(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 77))
    with pytest.raises(CheckpointError, match="broken header"):
        open_gguf(path)


def test_a_type_that_is_not_read_names_the_tensor_and_the_mend(tmp_path):
    values = np.zeros((32, 256), np.float32)
    raw = np.zeros((32, 36 * 4), np.uint8)
    tensors = [("a", values, None), ("blk.0.attn_q.weight", raw, gguf.GGMLQuantizationType.NVFP4)]
    path = write(tmp_path / "k.gguf", tensors=tensors)
    with pytest.raises(
        UnsupportedModelError, match=r"'blk.0.attn_q.weight'.*NVFP4, but only F32,.*such as Q4_K_M"
    ):
        open_gguf(path)


def test_what_a_file_may_lack_is_named(llama, tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(UnsupportedModelError, match=r"architecture 'mamba'.*Hugging Face folder"):
        open_gguf(write(path, "mamba"))
    with pytest.raises(CheckpointError, match=r"lacks the setting llama.attention.head_count"):
        open_gguf(write(path))
    to_gguf(llama, path, **{"llama.rope.dimension_count": 8})
    with pytest.raises(UnsupportedModelError, match="rotates a part of each head"):
        open_gguf(path)


def edited(file: Path, out: Path, change) -> Path:
    """Write a GGUF file again with other tensors."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if field.name.startswith("llama."):
            value = field.contents()
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(field.name, value)
    for tensor in change({t.name: np.array(t.data) for t in reader.tensors}).items():
        writer.add_tensor(*tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_missing_foreign_and_misshapen_tensors(llama, tmp_path):
    whole, path = tmp_path / "whole.gguf", tmp_path / "model.gguf"
    to_gguf(llama, whole)

    def without(tensors):
        del tensors["blk.1.ffn_up.weight"]
        return tensors

    with (
        open_gguf(edited(whole, path, without)) as reader,
        pytest.raises(CheckpointError, match=r"'model.layers.1.mlp.up_proj.weight' is missing"),
    ):
        skeleton(reader)

    def foreign(tensors):
        return tensors | {"blk.0.ssm_a.weight": np.zeros((2, 2), np.float32)}

    with pytest.raises(UnsupportedModelError, match=r"'blk.0.ssm_a.weight'.*none that a llama"):
        open_gguf(edited(whole, path, foreign))

    def misshapen(tensors):
        return tensors | {"blk.0.ffn_up.weight": np.zeros((4, 64), np.float32)}

    with (
        open_gguf(edited(whole, path, misshapen)) as reader,
        pytest.raises(CheckpointError, match=r"has shape \[4, 64\]"),
    ):
        skeleton(reader)

    def uneven(tensors):
        return tensors | {"blk.0.attn_q.weight": np.zeros((63, 64), np.float32)}

    with pytest.raises(CheckpointError, match="63 rows, which 4 heads do not share"):
        open_gguf(edited(whole, path, uneven))


def test_llama_3_frequencies_and_scaled_positions(llama, tmp_path):
    def turned(reader):
        module = skeleton(reader)
        return ropes_of(module.model.rotary_emb, RotaryFactors(module))[0]

    whole, path = tmp_path / "whole.gguf", tmp_path / "model.gguf"
    to_gguf(llama, whole)
    factors = np.array([1, 1, 1.5, 2, 4, 8, 8, 8], np.float32)
    with open_gguf(edited(whole, path, lambda t: t | {"rope_freqs.weight": factors})) as reader:
        assert "rope_freqs.weight" not in reader.tensors
        rope = turned(reader)
    with open_gguf(whole) as reader:
        plain = turned(reader)
    np.testing.assert_allclose(rope.frequencies, plain.frequencies / factors, rtol=1e-6)
    assert rope.frequencies.shape == (1, 8)  # the same factors whatever a text's length
    assert rope.scaling == 1.0


def test_verbs_that_read_folders_get_one_in_the_cache(file, llama, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    assert resolve(file, takes_files=True) == file
    folder = resolve(file)
    assert folder.parent == tmp_path / "cache" / "models"
    assert "is unpacked once, as floats of 16 bits" in caplog.text
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(file) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with open_gguf(file) as reader:
        for name, values in load_file(folder / "model.safetensors").items():
            np.testing.assert_array_equal(values, reader.array(name).astype(values.dtype))
    to_gguf(llama, file, "Q8_0")  # another model under the same name
    assert resolve(file) != folder
    monkeypatch.setenv("TREADLE_CACHE", str(file / "no folder"))
    with pytest.raises(CapacityError, match="let TREADLE_CACHE name a folder with room, or run"):
        resolve(file)


def test_the_tokenizer_is_the_folders(llama, file):
    expected, source = AutoTokenizer.from_pretrained(llama), GgufFile(file)
    found = gguf_tokenizer(source)
    for text in ("def inspect(object):\n    return 12 + naïve", "<|end|>x<|end|>", " a  b"):
        assert found(text).input_ids == expected(text).input_ids
        assert found.decode(found(text).input_ids) == text
    assert end_tokens(source) == {expected.eos_token_id}
    assert found.eos_token == "<|end|>"


def spelled(tmp_path: Path, architecture="llama", **settings) -> GgufFile:
    """A file with a tokenizer of the SentencePiece kind."""
    tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA4>", "\u2581", "a", "b", "ab", "\u2581ab", "c"]
    tokens += ["bc", "<end_of_turn>", "<extra>"]
    types = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 3, 4]
    writer = gguf.GGUFWriter(tmp_path / "spelled.gguf", architecture)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([0.0] * 8 + [-2.0, -3.0, 0.0, -1.0, 0.0, 0.0])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for key, value in settings.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile(tmp_path / "spelled.gguf")


def test_a_sentencepiece_vocabulary_merges_by_score(tmp_path):
    file = spelled(tmp_path)
    tokenizer = gguf_tokenizer(file)
    # bc (-1) merges before ab (-2); a space stands before the text; ä falls back to bytes.
    assert tokenizer("ab").input_ids == [1, 9]
    assert tokenizer("abc").input_ids == [1, 5, 6, 11]
    assert tokenizer("ä<extra></s>").input_ids == [1, 5, 3, 4, 13, 2]
    assert tokenizer.decode([9, 5, 6, 3, 4]) == "ab aä"
    assert end_tokens(file) == {2, 12}
    bare = gguf_tokenizer(spelled(tmp_path, add_bos_token=False, add_space_prefix=False))
    assert bare("ab").input_ids == [8]


def test_gemma_merges_by_place(tmp_path):
    # ab stands before bc in the file, whatever the scores say.
    assert gguf_tokenizer(spelled(tmp_path, "gemma2"))("abc").input_ids == [1, 8, 10]


def test_splits_are_those_of_the_model(llama, file, monkeypatch):
    source = GgufFile(file)
    pieces = {}
    for pre in ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o"):
        source.settings["tokenizer.ggml.pre"] = pre
        split = tokens_of_gguf._built(source).pre_tokenizer.pre_tokenize_str("I'll say 12345 ABc")
        pieces[pre] = [piece.replace("Ġ", " ") for piece, _ in split]
    assert pieces["gpt-2"] == ["I", "'ll", " say", " 12345", " ABc"]
    assert pieces["smollm"] == ["I", "'ll", " say", " ", "1", "2", "3", "4", "5", " ABc"]
    assert pieces["llama-bpe"] == ["I", "'ll", " say", " ", "123", "45", " ABc"]
    assert pieces["dbrx"] == pieces["llama-bpe"]
    assert pieces["gpt-4o"] == ["I'll", " say", " ", "123", "45", " ABc"]
    assert pieces["qwen2"] == ["I", "'ll", " say", " ", "1", "2", "3", "4", "5", " ABc"]
    assert pieces["tekken"] == ["I", "'ll", " say", " ", "1", "2", "3", "4", "5", " ABc"]
    source.settings["tokenizer.ggml.pre"] = "bloom"
    with pytest.raises(DataError, match=r"splits text as 'bloom'.*known how: default, gpt-2"):
        gguf_tokenizer(source)
    source.settings["tokenizer.ggml.model"] = "rwkv"
    with pytest.raises(DataError, match="kind 'rwkv', but gpt2 and llama"):
        gguf_tokenizer(source)


def test_phi3_takes_the_space_behind_its_marks(tmp_path):
    tokenizer = gguf_tokenizer(spelled(tmp_path, "phi3"))
    assert tokenizer("ab<end_of_turn>  ab").input_ids == tokenizer("ab<end_of_turn>ab").input_ids
    assert tokenizer("ab<s>  ab").input_ids != tokenizer("ab<s>ab").input_ids
    plain = gguf_tokenizer(spelled(tmp_path))
    assert plain("ab<end_of_turn>  ab").input_ids != plain("ab<end_of_turn>ab").input_ids


def test_texts_begin_and_words_stay_whole_as_the_split_is_named(file):
    source = GgufFile(file)
    source.settings["tokenizer.ggml.bos_token_id"] = 5
    for pre, begins in (("llama-bpe", True), ("dbrx", False), ("tekken", True), ("gpt-4o", False)):
        source.settings["tokenizer.ggml.pre"] = pre
        assert (gguf_tokenizer(source)("a").input_ids[0] == 5) == begins, pre


def test_the_files_of_a_folder_hold_the_same_tokenizer(llama, file, tmp_path):
    for name, content in tokens_of_gguf.tokenizer_files(GgufFile(file)).items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    found, expected = AutoTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(llama)
    assert found("a = [1, 2]").input_ids == expected("a = [1, 2]").input_ids
