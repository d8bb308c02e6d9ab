"""Every setting of a GGUF file is read, known to change nothing, or refused by its name."""

import json
import math

import numpy as np
import pytest
from gguf.constants import Keys
from transformers import AutoTokenizer, Gemma2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gguf_models import OVERRIDES, to_gguf
from products import few
from treadle.core.errors import CheckpointError, DataError, UnsupportedModelError
from treadle.model.gguf.config import gguf_config
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.model import open_gguf
from treadle.model.gguf.tokenizer import end_tokens, gguf_tokenizer, tokenizer_files
from treadle.model.load import skeleton

IDLE = {
    *("vocab_size", "pooling_type", "tensor_data_layout", "rope.scaling.finetuned"),
    *("attention.layer_norm_epsilon",),
}
"""What llama.cpp's graphs of these architectures do not read, or read for embeddings alone."""
OWN = [
    str(key).removeprefix("{arch}.")
    for group in (Keys.LLM, Keys.Attention, Keys.Rope)
    for name, key in vars(group).items()
    if isinstance(key, str) and not name.startswith("_") and "{arch}." in key
]
"""Every key of an architecture's namespace that the gguf library knows."""


@pytest.fixture
def written(tiny_model, tmp_path):
    def write(model_type="llama", **settings) -> GgufFile:
        folder = tiny_model(model_type, **OVERRIDES[model_type])
        to_gguf(folder, tmp_path / "model.gguf", **settings)
        return GgufFile(tmp_path / "model.gguf")

    return write


def _config(file: GgufFile, model_type: str) -> dict:
    return gguf_config(file, model_type, "")


def _outcome(file: GgufFile, model_type: str) -> tuple[dict, str]:
    try:
        return _config(file, model_type), ""
    except (UnsupportedModelError, CheckpointError) as error:
        return {}, str(error)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text"])
def test_no_known_key_is_passed_over(model_type, written):
    file = written(model_type)
    architecture = file.settings["general.architecture"]
    plain, sound = _config(file, model_type), dict(file.settings)
    assert len(OWN) > 80
    passed_over = set()
    for key in [*OWN, "a_key_of_tomorrow"]:
        for value in (3, 0.37, "xyz", True, [7, 7]):
            file.settings = sound | {f"{architecture}.{key}": value}
            found, refusal = _outcome(file, model_type)
            assert not refusal or key in refusal or "positions" in refusal, key
            if (refusal and value in (3, 0.37)) or (found and found != plain):
                break
        else:
            passed_over.add(key)
    # Read with scaled positions only, where a factor stands beside them.
    scaled = {"rope.scaling.original_context_length"}
    scaled |= {"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}
    assert passed_over - scaled <= IDLE


def test_what_says_nothing_is_taken(written):
    neutral = {"expert_count": 0, "logit_scale": 1.0, "attention.causal": True}
    neutral |= {"rope.scaling.attn_factor": 1.0, "rope.scaling.factor": 0.0}
    file = written(**{f"llama.{key}": value for key, value in neutral.items()})
    assert _config(file, "llama") == _config(written(), "llama")


def test_gemma_2_without_caps_has_those_of_its_class(written):
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    with open_gguf(written("gemma2", **{f"gemma2.{cap}": None for cap in caps}).path) as reader:
        found = skeleton(reader).config
    assert [getattr(found, cap) for cap in caps] == [getattr(Gemma2Config(), cap) for cap in caps]
    assert [getattr(found, cap) for cap in caps] == [50.0, 30.0]
    with pytest.raises(CheckpointError, match=r"gemma2.attn_logit_softcapping: 0.*positive number"):
        _config(written("gemma2", **{f"gemma2.{caps[0]}": 0.0}), "gemma2")


def test_a_factor_without_a_type_is_linear_as_in_llama_cpp(written):
    scaled = _config(written(**{"llama.rope.scaling.factor": 4.0}), "llama")
    assert scaled["rope_parameters"] == {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}
    none = {"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "none"}
    assert _config(written(**none), "llama")["rope_theta"] == 1e4


def _ramped(betas: tuple[float, float], factor: float, original: int) -> list[float]:
    """YaRN's frequencies of a head of 16, one by one, as its paper has them."""
    low, high = (
        16 * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(1e4)) for beta in betas
    )
    low, high = max(math.floor(low), 0), min(math.ceil(high), 15)
    found = []
    for pair in range(8):
        plain = 1e4 ** (-2 * pair / 16)
        share = min(1.0, max(0.0, (pair - low) / (high - low)))
        found.append(plain / factor * share + plain * (1 - share))
    return found


def test_yarn_ramps_between_the_betas_of_the_file(written):
    yarn = {"type": "yarn", "factor": 4.0, "original_context_length": 64}
    yarn |= {"yarn_beta_fast": 8.0, "yarn_beta_slow": 0.5}
    file = written(**{f"llama.rope.scaling.{key}": value for key, value in yarn.items()})
    with open_gguf(file.path) as reader:
        config = skeleton(reader).config
    found, scale = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    np.testing.assert_allclose(found.numpy(), _ramped((8.0, 0.5), 4.0, 64), rtol=1e-5)
    assert scale == pytest.approx(0.1 * math.log(4.0) + 1)


def test_gemma_3_slides_where_the_file_says(written):
    def said(pattern):
        file = written("gemma3_text", **{"gemma3.rope.freq_base_swa": 5e3})
        file.settings["gemma3.attention.sliding_window_pattern"] = pattern
        return _config(file, "gemma3_text")

    third = said(3)
    assert [kind == "full_attention" for kind in third["layer_types"]] == [0, 0, 1, 0, 0, 1, 0]
    assert third["rope_parameters"]["sliding_attention"]["rope_theta"] == 5e3
    listed = said([True, False, True, True, True, True, False])["layer_types"]
    assert [kind == "full_attention" for kind in listed] == [0, 1, 0, 0, 0, 0, 1]
    with pytest.raises(CheckpointError, match="each of 7 layers"):
        said([True, False])


WRONG = {
    **dict.fromkeys(("split.count", "general.alignment"), ("x", -1, 1.5, [1])),
    **dict.fromkeys(
        (
            *("llama.block_count", "llama.context_length", "llama.embedding_length"),
            *("llama.feed_forward_length", "llama.attention.head_count"),
            *("llama.attention.head_count_kv", "llama.attention.key_length"),
            "llama.rope.dimension_count",
        ),
        ("x", -1, 1.5, True, ["x"], [0, 0], 2**31),
    ),
    **dict.fromkeys(
        ("llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"),
        ("x", -1.0, math.nan, True, [1.0], 0.0),
    ),
    "llama.rope.scaling.factor": ("x", math.inf, [2.0]),
    **dict.fromkeys(
        ("general.architecture", "llama.rope.scaling.type", "tokenizer.chat_template"), (3, ["x"])
    ),
    **dict.fromkeys(("tokenizer.ggml.model", "tokenizer.ggml.pre"), (3, ["x"])),
    **dict.fromkeys(("tokenizer.ggml.tokens", "tokenizer.ggml.merges"), (3, "x", [3])),
    "tokenizer.ggml.token_type": (3, "x", ["x"], [1]),
    **dict.fromkeys(
        ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id"), ("x", -1, 1.5, [1], True)
    ),
    **dict.fromkeys(("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"), ("x", 1)),
}
"""Key -> values of a type, or out of the bounds, that it cannot have."""
QUICK = ("split.count", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon")


@pytest.mark.parametrize("key", few(WRONG, *QUICK, "tokenizer.ggml.token_type"))
def test_a_value_of_a_wrong_type_is_named(key, llama, tmp_path):
    for value in WRONG[key]:
        path = tmp_path / "model.gguf"
        to_gguf(llama, path, **{key: value})
        with pytest.raises((CheckpointError, DataError), match=key.removeprefix("llama.")) as found:
            _use(path)
        assert str(path) in str(found.value)
        assert "config.json" not in str(found.value)


def _use(path) -> None:
    with open_gguf(path) as reader:
        skeleton(reader)
    gguf_tokenizer(GgufFile(path))
    end_tokens(GgufFile(path))


def test_texts_begin_and_end_with_the_tokens_that_the_file_says(written, tmp_path):
    said = {"bos_token_id": 5, "add_bos_token": True, "add_eos_token": True}
    file = written(**{f"tokenizer.ggml.{key}": value for key, value in said.items()})
    plain = gguf_tokenizer(written())("a b").input_ids
    (end,) = end_tokens(file)
    assert gguf_tokenizer(file)("a b").input_ids == [5, *plain, end]
    for name, content in tokenizer_files(file).items():
        written_as = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(written_as)
    assert AutoTokenizer.from_pretrained(tmp_path)("a b").input_ids == [5, *plain, end]
