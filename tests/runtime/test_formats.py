"""Quantised models and GGUF files, run: the native step, the generic one, and the doors."""

import json
import warnings

import numpy as np
import pytest
import torch

from coded_models import (
    CASES,
    COMPRESSED,
    GPTQ,
    dense_twin,
    gptq,
    pack_quantized,
    rounded_inputs,
    write_coded,
)
from gguf_models import OVERRIDES, to_gguf
from naive import plain_model, tokens_of
from products import fast_where
from treadle.core.errors import CheckpointError, DataError, SettingsError, UnsupportedModelError
from treadle.judge.bench import bench
from treadle.native import SlowPathWarning
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams, choice
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.choice import agreement, choose_executor
from treadle.runtime.executor import StepRows
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor

TOKENS = tokens_of(1, 40)[0].tolist()
needs_kernel = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


def native_logits(path, weights="auto", num_segments=1) -> np.ndarray:
    """Logits of all tokens, as one text or as texts of one token each."""
    step, count = LlamaStep(path, weights, 1), len(TOKENS)
    pool = KeyValues(step.shape.kv_heads, step.shape.head_dim, count, 8, "fp32")
    length = count // num_segments
    pages_each = -(-length // 8)
    places = np.tile(np.arange(length, dtype=np.int32), num_segments)
    tables = np.arange(num_segments * pages_each, dtype=np.int32)
    slots = np.repeat(tables[::pages_each], length) * np.int32(8) + places
    starts = np.arange(0, count + 1, length, dtype=np.int32)
    contexts = np.full(num_segments, length, np.int32)
    page_starts = np.arange(0, len(tables) + 1, pages_each, dtype=np.int32)
    wanted = np.arange(count, dtype=np.int32)
    tokens = np.array(TOKENS, np.int32)
    rows = StepRows(tokens, places, slots, starts, contexts, page_starts, tables, wanted)
    found = step.forward(rows, pool)
    step.close()
    return found


def logits_of(folder) -> np.ndarray:
    with torch.no_grad():
        return plain_model(folder)(input_ids=torch.tensor([TOKENS])).logits[0].numpy()


def noise_beside(folder, path, weights="auto", rounds_head=True) -> float:
    """How far the native step is from a dense model whose matrices meet inputs of 8 bits.

    The median over texts of one token: where an input falls on the other side of a half, all that
    follows differs.
    """
    model = plain_model(folder)
    rounded_inputs(model if rounds_head else model.model)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(TOKENS)[:, None]).logits[:, 0].numpy()
    found = native_logits(path, weights, len(TOKENS))
    apart = np.sqrt(((found - expected) ** 2).mean(axis=1)) / expected.std()
    return float(np.median(apart))


@needs_kernel
@pytest.mark.parametrize(
    ("kind", "model_type"),
    fast_where(
        lambda kind, model_type: kind == "Q4_1" or model_type == "llama",
        *(["Q8_0", "Q4_0", "Q4_1"], OVERRIDES),
    ),
)
def test_codes_of_a_gguf_file_are_used_as_they_are(kind, model_type, tiny_model, tmp_path):
    folder = tiny_model(model_type, **OVERRIDES[model_type])
    decoded = to_gguf(folder, tmp_path / "model.gguf", kind)
    twin = dense_twin(folder, tmp_path / "twin", decoded)
    assert noise_beside(twin, tmp_path / "model.gguf") < 1e-5
    exact = native_logits(tmp_path / "model.gguf", "fp32")
    np.testing.assert_allclose(exact, logits_of(twin), atol=1e-3)


@needs_kernel
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_floats_of_a_gguf_file_lose_nothing(kind, llama, tmp_path):
    decoded = to_gguf(llama, tmp_path / "model.gguf", kind)
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    np.testing.assert_allclose(native_logits(tmp_path / "model.gguf"), logits_of(twin), atol=1e-3)
    forms = LlamaStep(tmp_path / "model.gguf").weights.forms
    assert forms == ({"fp16"} if kind == "F16" else {"fp32"})


@needs_kernel
@pytest.mark.parametrize("kind", ["Q4_K", "IQ4_NL", "IQ3_S"])
def test_blocks_of_a_gguf_file_compute_what_their_values_say(kind, tiny_model, tmp_path):
    folder = tiny_model("llama", hidden_size=256, intermediate_size=512)
    decoded = to_gguf(folder, tmp_path / "model.gguf", kind)
    twin = dense_twin(folder, tmp_path / "twin", decoded)
    exact = native_logits(tmp_path / "model.gguf", "fp32")
    np.testing.assert_allclose(exact, logits_of(twin), atol=1e-3)


@needs_kernel
@pytest.mark.parametrize("case", CASES)
def test_quantised_folders(case, llama, tmp_path):
    pack, config, options, outcome = CASES[case]
    decoded = write_coded(llama, tmp_path / "model", pack, config, **options)
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    keeps_codes = outcome.startswith("q")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SlowPathWarning)
        found = native_logits(tmp_path / "model")
    assert len(caught) == (not keeps_codes)
    if keeps_codes:
        # The head and the embedding stay in float32, and so does what the head reads.
        assert noise_beside(twin, tmp_path / "model", rounds_head=False) < 1e-5
        step = LlamaStep(tmp_path / "model")
        assert step.weights.forms == {outcome, "fp32"}
        assert not step.weights.is_rounded
    else:
        assert outcome in str(caught[0].message)
        assert "14 quantised matrices" in str(caught[0].message)
        np.testing.assert_allclose(found, logits_of(twin), atol=0.1)
    exact = native_logits(tmp_path / "model", "fp32")
    np.testing.assert_allclose(exact, logits_of(twin), atol=1e-3)


@needs_kernel
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_not_rounded_a_second_time(symmetric, llama, tmp_path):
    """A block need not reach the ends of its row's grid: alone, it would get a finer one."""
    options = {"size": -1, "symmetric": symmetric}
    decoded = write_coded(llama, tmp_path / "model", pack_quantized, COMPRESSED, **options)
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    assert noise_beside(twin, tmp_path / "model", rounds_head=False) < 1e-5
    assert noise_beside(twin, twin, "q4_0" if symmetric else "q4_1") > 0.03


@needs_kernel
def test_another_form_goes_through_floats(llama, tmp_path):
    decoded = to_gguf(llama, tmp_path / "model.gguf", "Q4_1")
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    for form in ("q8", "q4_0", "fp16"):
        found = native_logits(tmp_path / "model.gguf", form)
        np.testing.assert_array_equal(found, native_logits(twin, form))
    stored = native_logits(tmp_path / "model.gguf", "q4_1")
    np.testing.assert_array_equal(stored, native_logits(tmp_path / "model.gguf"))


@needs_kernel
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_the_check_compares_with_the_decoded_model(kind, llama, tmp_path, monkeypatch):
    to_gguf(llama, tmp_path / "model.gguf", kind)
    executor = choose_executor(tmp_path / "model.gguf")
    assert isinstance(executor, LlamaStep)
    assert agreement(tmp_path / "model.gguf", executor).noise_fraction < 0.1
    monkeypatch.setattr(choice.agreed, "is_known", lambda signature: False)
    real = LlamaStep.forward

    def wrong(self, rows, pool):
        found = real(self, rows, pool)
        return found + np.float32(0.4) * np.roll(found, 1, axis=1)

    monkeypatch.setattr(choice.LlamaStep, "forward", wrong)
    with pytest.warns(SlowPathWarning, match="disagrees with transformers"):
        assert isinstance(choose_executor(tmp_path / "model.gguf"), GenericExecutor)


def answers(path, **options) -> list[list[int]]:
    llm = LLM(path, page_size=8, **options)
    outputs = llm.generate([TOKENS[:9], TOKENS[5:30]], GREEDY)
    return [output.outputs[0].token_ids for output in outputs]


def test_the_generic_executor_runs_what_is_quantised(llama, tmp_path):
    """Through decoded weights in float32: the answers of the dense model."""
    decoded = to_gguf(llama, tmp_path / "model.gguf", "Q4_1")
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    write_coded(llama, tmp_path / "model", gptq, GPTQ, shift=1)
    executor = GenericExecutor.from_folder(tmp_path / "model.gguf")
    assert answers(tmp_path / "model.gguf", executor=executor) == answers(twin)
    executor = GenericExecutor.from_folder(tmp_path / "model")
    assert len(answers(tmp_path / "model", executor=executor)[0]) == 12


def test_llm_answers_texts_from_a_gguf_file(llama, tmp_path):
    decoded = to_gguf(llama, tmp_path / "model.gguf", "Q8_0")
    twin = dense_twin(llama, tmp_path / "twin", decoded)
    llm, dense = (LLM(path, weights="fp32") for path in (str(tmp_path / "model.gguf"), twin))
    assert llm.prompts.eos_tokens == dense.prompts.eos_tokens
    texts = ["def main():", "The sky is"]
    params = SamplingParams(max_tokens=8, temperature=0.0)
    found, expected = (model.generate(texts, params) for model in (llm, dense))
    for one, other in zip(found, expected, strict=True):
        assert one.prompt_token_ids == other.prompt_token_ids
        assert one.outputs[0].text == other.outputs[0].text


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tokenizer.ggml.merges": ["~~ ~~"]}, "joins '~~ ~~'"),
        ({"tokenizer.ggml.merges": ["one"]}, "joins 'one'"),
        ({"tokenizer.ggml.pre": "bloom"}, "splits text as 'bloom'"),
    ],
)
def test_a_tokenizer_that_cannot_be_had_leaves_token_ids(llama, tmp_path, settings, why):
    to_gguf(llama, tmp_path / "model.gguf", **settings)
    llm = LLM(tmp_path / "model.gguf")
    params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
    assert len(llm.generate([[5, 6, 7]], params)[0].outputs[0].token_ids) == 3
    with pytest.raises(DataError, match=f"{why}.*token ids"):
        llm.generate(["A text"], params)


def test_models_that_cannot_be_read_are_refused_without_a_warning(llama, tmp_path):
    write_coded(llama, tmp_path / "model", pack_quantized, {"quant_method": "fp8"})
    with pytest.raises(UnsupportedModelError, match="quant_method 'fp8'"):
        LLM(tmp_path / "model")
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(CheckpointError, match="truncated"):
        LLM(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="No model folder at"):
        LLM(tmp_path / "absent.gguf")
    with pytest.raises(SettingsError, match=r"No weight form 'q5'.*auto, fp32"):
        LLM(llama, weights="q5")


def test_bench_takes_a_gguf_file(llama, tmp_path):
    to_gguf(llama, tmp_path / "model.gguf", "Q4_1")
    method = {"method": "throughput", "prompt_tokens": 8, "new_tokens": 4, "rounds": 1}
    result = bench(tmp_path / "model.gguf", tmp_path / "out", method)
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert written["inputs"][0]["content_hash"]
    assert any(m.name == "load" for m in result.measurements)
    if library("step") is not None:
        # A busy machine adds what it noticed of itself.
        assert result.notes[0] == (
            "Computed by the native step, matrices in q4_1, keys and values in fp16."
        )


def test_scales_that_are_not_finite_are_found(llama, tmp_path):
    path = tmp_path / "model.gguf"
    to_gguf(llama, path, "Q8_0")
    from treadle.model.gguf.file import GgufFile

    start = GgufFile(path).tensors["blk.1.ffn_up.weight"].raw.start_byte
    content = bytearray(path.read_bytes())
    content[start : start + 2] = np.float16("inf").tobytes()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"up_proj.weight'.*holds inf"):
        LLM(path)
