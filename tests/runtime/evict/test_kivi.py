"""Older entries in 4 or 2 bits: a cache of transformers that is rounded by hand says the same."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from naive import tokens_of
from runtime.evict.answered import SAMPLED, answers, prompt_logprobs, same
from treadle.core.errors import SettingsError
from treadle.native.loader import library
from treadle.runtime import LLM
from treadle.runtime.cache.units import pack_keys, pack_values, unit_form
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.evict.methods.kivi import Kivi
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.request import RequestState
from treadle.runtime.transformers_step.generic import GenericExecutor

EXECUTORS = ["generic", *(["native"] if library("step") is not None else [])]
LONG, CHUNK = 700, 128
PARAMS = dataclasses.replace(SAMPLED, max_tokens=90)
ARCHITECTURES = {"llama": {}, "mistral": {"sliding_window": 300}}
MEMORY = {"cache_bytes": 2**21, "kv_dtype": "fp32"}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function to an engine of a tiny model whose heads have 32 dimensions."""
    made = {}

    def folder_of(architecture: str):
        target = tmp_path_factory.getbasetemp() / f"kivi-{architecture}"
        if not target.exists():
            torch.manual_seed(1)
            config = transformers.AutoConfig.for_model(
                architecture,
                hidden_size=64,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                vocab_size=512,
                max_position_embeddings=1024,
                initializer_range=0.1,
                **ARCHITECTURES[architecture],
            )
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(target)
        return target

    def build(name: str, architecture: str = "llama", **settings) -> LLM:
        folder, key = folder_of(architecture), (name, architecture)
        if key not in made:
            is_native = name == "native"
            made[key] = (
                LlamaStep(folder, "fp32", 1) if is_native else GenericExecutor.from_folder(folder)
            )
        return LLM(folder, executor=made[key], **MEMORY | settings)

    build.folder_of = folder_of
    return build


def by_hand(numbers: torch.Tensor, axis: int, bits: int) -> torch.Tensor:
    """Round runs of 32 numbers over an axis: a scale and a minimum of 16 bits each."""
    found = numbers.clone().movedim(axis, -1).contiguous()
    runs = found.view(*found.shape[:-1], -1, 32)
    for run in runs.reshape(-1, 32):
        low = run.min().half().float()
        scale = ((run.max() - low) / (2**bits - 1)).half().float()
        codes = ((run - low) / (scale if scale > 0 else 1)).round().clamp(0, 2**bits - 1)
        run.copy_(low + scale * codes)
    return runs.reshape(found.shape).movedim(-1, axis)


def expected_logprobs(folder, prompt: list[int], method: Kivi) -> np.ndarray:
    """What transformers says, if older entries are rounded in its cache after each chunk."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    cache, tokens, found = transformers.DynamicCache(), torch.tensor([prompt]), []
    done = 0
    for first in range(0, len(prompt), CHUNK):
        with torch.no_grad():
            out = model(tokens[:, first : first + CHUNK], past_key_values=cache)
        found.append(out.logits[0].log_softmax(-1))
        end = min(first + CHUNK, len(prompt))
        units = max(0, end - method.sinks - method.window) // 256 if end % CHUNK == 0 else done
        own = slice(method.sinks + 256 * done, method.sinks + 256 * units)
        for layer in cache.layers:
            if units > done:
                layer.keys[:, :, own] = by_hand(layer.keys[:, :, own], 2, method.bits)
                layer.values[:, :, own] = by_hand(layer.values[:, :, own], 3, method.bits)
        done = max(done, units)
    logprobs = torch.cat(found)[:-1]
    return logprobs.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].numpy()


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("page_size", [16, 32])
def test_a_packed_number_is_half_a_step_away_at_most(bits, page_size):
    form = unit_form(bits, "fp16", page_size, 64)
    numbers = np.random.default_rng(0).standard_normal((3, 256, 64)).astype(np.float32)
    numbers[0, :32, 5] = 7.0  # a run of equal numbers, and a large dimension
    numbers[1, :, 9] *= 100
    for pack, axis in ((pack_keys, 1), (pack_values, 2)):
        packed = pack(numbers, form, 64 * page_size * 2)
        assert packed.shape == (3, form.num_planes, 64 * page_size * 2)
        rounded = by_hand(torch.from_numpy(numbers), axis, bits).numpy()
        runs = np.moveaxis(numbers, axis, -1).reshape(-1, 32)
        near = np.abs(np.moveaxis(rounded, axis, -1).reshape(-1, 32) - runs)
        step = (runs.max(1) - runs.min(1)) / (2**bits - 1)
        assert (near <= 0.51 * step[:, None] + 1e-3 * np.abs(runs).max(1)[:, None]).all()


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize(
    ("bits", "architecture", "kv_dtype", "page_size"),
    [(4, "llama", "fp32", 16), (2, "llama", "fp16", 16), (4, "mistral", "fp16", 32)],
)
def test_a_text_sees_what_is_rounded(make, bits, architecture, kv_dtype, page_size, name):
    """Texts that are packed once, twice and never, side by side in chunks of any size."""
    method = Kivi(bits=bits, window=64, sinks=3, chunk_tokens=CHUNK)
    own = {"kv_dtype": kv_dtype, "page_size": page_size, "max_num_batched_tokens": 200}
    engine = make(name, architecture, keep=method, **own)
    prompts = [tokens_of(1, length, length)[0].tolist() for length in (LONG, 420, 60)]
    for prompt, found in zip(prompts, prompt_logprobs(engine, prompts), strict=True):
        expected = expected_logprobs(make.folder_of(architecture), prompt, method)
        # In float16 a number may lie on the other side of a step's middle.
        tolerance = 2e-4 if kv_dtype == "fp32" else 0.3
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert np.abs(found - expected).mean() < tolerance / 10
    report = engine.load_report()
    assert report.num_free_pages == report.num_pages


@pytest.mark.parametrize("name", EXECUTORS)
def test_the_text_alone_decides(make, name):
    """Alone, beside others, preempted either way, and as one of several answers."""
    keep = {"keep": {"method": "kivi", "bits": 2, "window": 32}}
    prompts = [tokens_of(1, length, length)[0].tolist() for length in (285, 300, 310)]
    alone = [answers(make(name, **keep), [prompt], PARAMS)[0] for prompt in prompts]
    one = 2**21 // make(name).load_report().num_pages
    tight = {"cache_bytes": 66 * one, "watermark_fraction": 0}
    for own in ({"max_num_batched_tokens": 48}, *(tight | {"preemption": p} for p in WAYS)):
        engine = make(name, **own, **keep)
        assert same(answers(engine, prompts, PARAMS), alone, name)
        after = engine.load_report()
        assert ("preemption" in own) == (after.num_preemptions > 0)
        assert after.num_free_pages == after.num_pages
    params = dataclasses.replace(PARAMS, n=3)
    together = answers(make(name, **keep), prompts[:1], params)
    apart = answers(make(name, max_num_seqs=1, **keep), prompts[:1], params)
    assert same(together, apart, name)


WAYS = ("recompute", "swap")


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("num_steps", [1, 3, 50])
def test_a_moved_text_goes_on_with_equal_tokens(make, num_steps, name):
    prompt = tokens_of(1, 380)[0].tolist()
    keep = {"keep": "kivi"}
    whole = answers(make(name, **keep), [prompt], PARAMS)[0][0]
    source, target = make(name, max_num_batched_tokens=200, **keep), make(name)
    source.submit(prompt, PARAMS, request_id="r")
    for _ in range(num_steps):
        source.step()
    source.pause("r")
    exported = source.export_pages("r", 0)
    with pytest.raises(SettingsError, match="copy has"):
        target.import_pages(exported._replace(lengths=[n + 256 for n in exported.lengths]))
    assert target.load_report().num_free_pages == target.load_report().num_pages
    target.import_pages(exported)
    moved = target.commit("r")
    source.forget("r")
    while moved.state is not RequestState.FINISHED:
        target.step()
    assert moved.outputs == whole
    assert source.load_report().num_free_pages == source.load_report().num_pages
    assert target.load_report().num_free_pages == target.load_report().num_pages


def test_memory_falls_and_is_foretold(make):
    """16 planes become 5 in float16 (4 bits), 3 (2 bits); admission reserves no less."""
    for bits, planes in ((4, 5), (2, 3)):
        method = Kivi(bits=bits, window=32, sinks=0, chunk_tokens=CHUNK)
        engine = make("generic", kv_dtype="fp16", keep=method)
        heads = engine._batch.pool.store.num_heads
        (request,) = engine.submit(tokens_of(1, LONG)[0].tolist(), PARAMS)
        keeping = Keeping(method, None)
        while request.state is not RequestState.FINISHED:
            engine.step()
            if request.entries is None:
                continue
            units = max(0, request.num_computed // CHUNK * CHUNK - 32) // 256
            wide = -(-(request.num_computed - 256 * units) // 16)
            assert request.entries.num_planes == heads * (units * planes + wide)
            foretold = keeping.num_pages(request.num_computed, request.num_prompt, 16)
            assert request.entries.num_planes <= heads * foretold
        assert units == 2


def test_what_cannot_be_packed_is_refused(make, tiny_model):
    for settings in ({"kv_dtype": "int8"}, {"page_size": 4}):
        with pytest.raises(SettingsError, match="Choose kv_dtype='fp16' and page_size=16"):
            make("generic", keep="kivi", **settings)
    with pytest.raises(SettingsError, match="heads have 16 each; choose kv_dtype='int8'"):
        LLM(tiny_model("llama"), keep="kivi")
    with pytest.raises(SettingsError, match="'kivi' keeps every entry"):
        make("generic", keep="kivi", keep_budget=64)
    with pytest.raises(SettingsError, match="bits"):
        make("generic", keep={"method": "kivi", "bits": 3})


@pytest.mark.parametrize("name", EXECUTORS)
def test_fewer_bits_are_further_away(make, name):
    """Beside a cache of the same kind that is cut to its newest entries, as a control."""
    prompt = tokens_of(1, LONG)[0].tolist()
    (full,) = prompt_logprobs(make(name), [prompt])
    apart = []
    for keep in (
        {"keep": "kivi"},
        {"keep": {"method": "kivi", "bits": 2}},
        {"keep": "random", "keep_budget": 0.2},
    ):
        (found,) = prompt_logprobs(make(name, **keep), [prompt])
        apart.append(float(np.abs(found - full).mean()))
    assert 0 < apart[0] < apart[1] < apart[2]
