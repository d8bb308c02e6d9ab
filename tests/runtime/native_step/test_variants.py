"""Every variant of every architecture in the native step against transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naive import plain_model, tokens_of
from products import few
from runtime.adapters import merged, write_adapter
from runtime.flat import pool_of, rows_of
from runtime.native_step.variants import VARIANTS, build
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model.adapters import Adapter
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.probe import Probe, probe_text
from treadle.runtime.transformers_step.generic import GenericExecutor

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
TOLERANCE = 1e-4
NEW = 8
SETTINGS = {"kv_dtype": "fp32", "cache_bytes": 2**20, "page_size": 8, "max_num_batched_tokens": 24}
PARAMS = SamplingParams(
    temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0, prompt_logprobs=0
)
PROMPTS = [tokens_of(1, size, seed=size)[0].tolist() for size in (5, 61, 18)]
MLP = ("gate", "up", "down")
TABLES = [list(range(16 * place, 16 * place + 16)) for place in range(4)]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = build(name, tmp_path_factory.mktemp("variant"))
        return made[name]

    return get


def gap(model, prompt, output) -> float:
    """How far log-probabilities are from transformers'; tokens must be the likeliest."""
    answer, text = output.outputs[0].token_ids, [*prompt, *output.outputs[0].token_ids]
    with torch.no_grad():
        right = torch.log_softmax(model(input_ids=torch.tensor([text[:-1]])).logits[0], -1).numpy()
    last = right[len(prompt) - 1 :]
    chosen = last[range(NEW), answer]
    assert (last.max(-1) - chosen < TOLERANCE).all()
    entries = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    found = [entry[token] for entry, token in zip(entries, text[1:], strict=True)]
    return float(np.abs(found - right[range(len(text) - 1), text[1:]]).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_answers_are_those_of_transformers(name, folder_of):
    """In a batch and in chunks, again by cached starts, and alone in one piece."""
    folder = folder_of(name)
    model, step = plain_model(folder), LlamaStep(folder, "fp32", 2)
    engine = LLM(folder, executor=step, **SETTINGS)
    for _ in ("cold", "warm"):
        for prompt, out in zip(PROMPTS, engine.generate(PROMPTS, PARAMS), strict=True):
            assert gap(model, prompt, out) < TOLERANCE
    alone = LLM(folder, executor=step, **{**SETTINGS, "max_num_batched_tokens": 256})
    (out,) = alone.generate([PROMPTS[1]], PARAMS)
    assert gap(model, PROMPTS[1], out) < TOLERANCE
    step.close()


def together(step, prompts) -> np.ndarray:
    parts = zip(prompts, TABLES, strict=False)
    rows = rows_of([(prompt, 0, table) for prompt, table in parts])
    return step.forward(rows, pool_of(step))


@pytest.mark.parametrize("name", few(VARIANTS, "phi3", "gpt_neox", "gpt2", "qwen2_moe"))
@pytest.mark.parametrize("form", ["fp32", "q8", "q4_1"])
def test_neighbours_chunks_and_threads_do_not_change_a_bit(name, form, folder_of):
    one, two = (LlamaStep(folder_of(name), form, threads) for threads in (1, 2))
    alone = [together(one, [prompt]) for prompt in PROMPTS]
    assert np.array_equal(together(two, PROMPTS), np.concatenate(alone))
    pool, parts = pool_of(two), []
    for first in range(0, 61, 7):
        rows = rows_of([(PROMPTS[1][first : first + 7], first, TABLES[0])])
        parts.append(two.forward(rows, pool))
    assert np.array_equal(np.concatenate(parts), alone[1])
    one.close()
    two.close()


@pytest.mark.parametrize("name", few(VARIANTS, "phi3", "gpt2", "gpt_neox", "qwen2_moe"))
@pytest.mark.parametrize(("form", "most"), [("fp16", 0.01), ("q8", 0.05), ("q4_1", 0.5)])
def test_forms_of_weights_lose_as_much_as_they_round(name, form, most, folder_of):
    """In some rows: in others a mixture chooses another expert, or sees what did."""
    step, model = LlamaStep(folder_of(name), form, 1), plain_model(folder_of(name))
    with torch.no_grad():
        right = model(input_ids=torch.tensor(PROMPTS[1:2])).logits[0].numpy()
    errors = np.sqrt(((together(step, PROMPTS[1:2]) - right) ** 2).mean(-1)) / right.std()
    assert 0 < np.quantile(errors, 0.1) < most
    step.close()


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("phi3", ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]),
        ("gpt_neox", ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"]),
        ("opt", ["self_attn.k_proj", "self_attn.out_proj", "fc1", "fc2"]),
        (
            "qwen2_moe",
            [
                *("self_attn.v_proj", "mlp.shared_expert_gate"),
                *(f"mlp.shared_expert.{m}_proj" for m in MLP),
            ],
        ),
    ],
)
def test_adapters_on_fused_matrices_are_cut_as_these_are(name, modules, folder_of, tmp_path):
    folder = folder_of(name)
    prefix = {"gpt_neox": "gpt_neox.layers.1.", "opt": "model.decoder.layers.1."}
    names = [prefix.get(name, "model.layers.1.") + module for module in modules]
    adapter = write_adapter(tmp_path / "adapter", folder, names)
    step = LlamaStep(folder, "fp32", 2)
    step.add_adapter(0, Adapter(adapter))
    rows = rows_of([(PROMPTS[1], 0, TABLES[0])], adapters=np.zeros(1, np.int32))
    found = step.forward(rows, pool_of(step))
    whole = merged(tmp_path / "merged", folder, adapter, 2.0)
    with torch.no_grad():
        right = plain_model(whole)(input_ids=torch.tensor([PROMPTS[1]])).logits[0].numpy()
    np.testing.assert_allclose(found, right, atol=TOLERANCE)
    step.close()


@pytest.mark.parametrize("name", few(VARIANTS, "gpt2", "gpt_neox", "olmoe"))
def test_probes_see_what_transformers_sees(name, folder_of):
    probe = Probe("sum", has_inputs=True)
    steps = LlamaStep(folder_of(name), "fp32", 2), GenericExecutor.from_folder(folder_of(name))
    found, right = (probe_text(step, PROMPTS[1], probe) for step in steps)
    np.testing.assert_allclose(found.states, right.states, atol=TOLERANCE)
    for own, other in zip(found.mass, right.mass, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-3)
    for own, other in zip(found.inputs, right.inputs, strict=True):
        # Products of queries and keys are scaled by either: opt has scaled its queries.
        own = own._replace(turned_queries=own.turned_queries * own.scale, scale=1)
        other = other._replace(turned_queries=other.turned_queries * other.scale, scale=1)
        for part, same in zip(own, other, strict=True):
            if same is not None:
                np.testing.assert_allclose(part, same, atol=TOLERANCE)
    steps[0].close()


@pytest.mark.parametrize("name", few(VARIANTS, "gpt2", "phi3 turned in part", "olmoe"))
@pytest.mark.parametrize("keep", ["key_norm", "snapkv", "tova"])
def test_policies_keep_what_they_keep_of_the_generic_executor(name, keep, folder_of):
    """Of a text without a token twice, whose keys would be as long as each other."""
    prompt = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:61].tolist()
    method = {"method": keep, "chunk_tokens": 16, "window": 4}
    own = {**SETTINGS, "keep": method, "keep_budget": 20}
    folder, answers = folder_of(name), []
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0)
    step = LlamaStep(folder, "fp32", 2)
    for executor, settings in (
        *((step, own), (GenericExecutor.from_folder(folder), own)),
        (step, SETTINGS),
    ):
        (out,) = LLM(folder, executor=executor, **settings).generate([prompt], params)
        (answer,) = out.outputs
        pairs = zip(answer.logprobs, answer.token_ids, strict=True)
        answers.append(np.array([entry[token] for entry, token in pairs]))
    np.testing.assert_allclose(answers[0], answers[1], atol=TOLERANCE)
    assert np.abs(answers[0] - answers[2]).max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", few(VARIANTS, "gpt2", "gpt_neox", "qwen3_moe"))
def test_speculation_changes_no_token(name, folder_of):
    folder = folder_of(name)
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    step, prompt = LlamaStep(folder, "fp32", 2), PROMPTS[2] * 3
    skip = {"method": "skip", "blocks": [1], "cache_tokens": 256}
    ways = [{}, {"speculate": "suffix"}, {"speculate": skip}]
    engines = [LLM(folder, executor=step, **SETTINGS, **way) for way in ways]
    answers = [e.generate([prompt], params)[0].outputs[0].token_ids for e in engines]
    assert list(answers[0]) == list(answers[1]) == list(answers[2])
    step.close()


@pytest.mark.parametrize("name", ["gpt2", "smollm3", "qwen2_moe"])
def test_queries_turn_as_is_said_of_their_layer(name, folder_of):
    step = LlamaStep(folder_of(name), "fp32", 1)
    inputs = probe_text(step, PROMPTS[2], Probe(None, has_states=False, has_inputs=True)).inputs
    turns = step.turns(np.arange(len(PROMPTS[2]), dtype=np.int32))
    for own, (cosines, sines) in zip(inputs, turns, strict=True):
        first, last = np.split(own.turned_queries, 2, axis=-1)
        cosines, sines = cosines[:, None], sines[:, None]
        back = np.concatenate([first * cosines + last * sines, last * cosines - first * sines], -1)
        np.testing.assert_allclose(back, own.queries, atol=TOLERANCE)
    step.close()


def test_heads_that_turn_in_part_are_said_to(folder_of):
    step = LlamaStep(folder_of("phi3 turned in part"), "fp32", 1)
    with pytest.raises(UnsupportedModelError, match="turns 8 of a head's 16 numbers"):
        step.turns(np.arange(3, dtype=np.int32))


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_positions_that_no_table_has_are_refused(name, folder_of):
    step = LlamaStep(folder_of(name), "fp32", 1)
    last = rows_of([([7], 127, TABLES[0])])
    assert np.isfinite(step.forward(last, pool_of(step))).all()
    with pytest.raises(SettingsError, match="text of 129 tokens does not fit a model of 128 pos"):
        step.forward(rows_of([([7], 128, [*TABLES[0], 20])]), pool_of(step))
    step.close()


@pytest.mark.parametrize(
    ("model_type", "overrides", "says"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before = True, and the"),
        ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim = 64, and the config says 32"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine = True"),
        ("gpt2", {"activation_function": "mish"}, "has no activation 'mish'"),
    ],
)
def test_variants_that_it_does_not_compute_are_named(model_type, overrides, says, tiny_model):
    with pytest.raises(UnsupportedModelError, match=says):
        LlamaStep(tiny_model(model_type, **overrides))


def test_bundles_of_fused_matrices_are_refused(folder_of):
    step = LlamaStep(folder_of("gpt2"), "fp32", 1)
    with pytest.raises(UnsupportedModelError, match="not 'gpt2'; make a plain model"):
        step.hold_experts([])
