"""Numbers follow from a request alone, however its positions turn; longrope asks how long it is."""

from itertools import product

import numpy as np
import pytest
import torch

from naive import plain_model
from products import ALIKE
from runtime.flat import EXECUTORS, executor_of
from runtime.rope_models import BOUND, LONGEST, PLACED, ROPES, answered, overrides, parameters, told
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import UnsupportedModelError
from treadle.model import tiny
from treadle.model.rope import RotaryFactors
from treadle.model.scoring import BlockScorer
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.cache.pages import page_bytes
from treadle.runtime.choice import agreement
from treadle.runtime.native_step.llama import LLAMA_LIKE, LlamaStep
from treadle.runtime.probe import Probe, probe_text
from treadle.runtime.request import RequestState
from treadle.runtime.scoring import RuntimeScorer

TOLERANCE = 5e-5
NEW = 12
LENGTHS = (100, BOUND - NEW // 2, 40)
"""Of prompts: one longer than the bound, one that grows over it, one that stays below."""
SETTINGS = {"kv_dtype": "fp32", "cache_bytes": 2**20, "max_num_batched_tokens": 24, "page_size": 8}
PARAMS = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0)

KNOWN = {
    "phi3": {"default", "longrope"},
    "phi": ROPES.keys() - {"proportional"},  # which turns whole heads, and phi a part
}
"""Architecture -> the rope types that transformers computes with it, where these are not all."""


def crosses() -> list:
    """Every architecture by every rope type by both steps; the fast ones cross each pair that
    differs in code."""
    found = []
    for model_type, rope, executor in product(tiny.CONFIGS, ROPES, EXECUTORS):
        is_native = executor == "native"
        is_known = rope in KNOWN.get(model_type, ROPES)
        if (is_native and model_type not in LLAMA_LIKE) or not is_known:
            continue
        if model_type in PLACED and rope != "default":
            continue
        is_fast = model_type in PLACED or model_type == "llama"
        is_fast |= rope == "longrope" and model_type not in ALIKE
        marks = [] if is_fast else [pytest.mark.slow]
        found.append(pytest.param(model_type, rope, executor, marks=marks))
    return found


def prompts() -> list[list[int]]:
    draw = np.random.default_rng(5)
    return [draw.integers(1, tiny.VOCAB_SIZE, length).tolist() for length in LENGTHS]


def gap(output, model, prompt) -> float:
    """Largest difference of a log-probability of an output, and of its prompt where asked."""
    (answer,) = output.outputs
    found = [entry[t] for entry, t in zip(answer.logprobs, answer.token_ids, strict=True)]
    right = answered(model, prompt, answer.token_ids)
    assert len(found) == NEW
    if output.prompt_logprobs is not None:
        asked = zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
        found, right = [entry[t] for entry, t in asked] + found, told(model, prompt) + right
    return float(np.abs(np.subtract(found, right)).max())


@pytest.mark.parametrize(("model_type", "rope", "executor"), crosses())
def test_a_request_is_what_transformers_says_of_it(model_type, rope, executor, tiny_model):
    """In chunks beside a longer one, then by its cached start, then alone."""
    folder = tiny_model(model_type, **overrides(model_type, rope))
    model, step = plain_model(folder), executor_of(folder, executor)
    assert step.shape.rope_bounds == ((BOUND,) if rope == "longrope" else ())
    engine, asked = LLM(folder, executor=step, **SETTINGS), prompts()
    seen = SamplingParams(
        temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0, prompt_logprobs=0
    )
    for prompt, out in zip(asked, engine.generate(asked, seen), strict=True):
        assert gap(out, model, prompt) < TOLERANCE
    for prompt, out in zip(asked, engine.generate(asked, PARAMS), strict=True):
        assert out.outputs[0].num_cached_tokens == (len(prompt) - 1) // 8 * 8
        assert gap(out, model, prompt) < TOLERANCE
    alone = LLM(folder, executor=step, **{**SETTINGS, "max_num_batched_tokens": 256})
    (out,) = alone.generate([asked[1]], seen)
    assert gap(out, model, asked[1]) < TOLERANCE


def test_answers_that_grow_over_the_bound_are_those_of_generate(tiny_model):
    folder = tiny_model("phi3", **overrides("phi3", "longrope"))
    model, prompt = plain_model(folder), prompts()[1]
    tokens = torch.tensor([prompt])
    reference = model.generate(
        *(tokens,), attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False
    )[0, len(prompt) :].tolist()
    engine = LLM(folder, executor=executor_of(folder, "generic"), **SETTINGS)
    (out,) = engine.generate([prompt], PARAMS)
    assert out.outputs[0].token_ids[: len(reference)] == reference
    # Its start by the new factors, which an answer computed, is what a longer prompt finds.
    longer = [*prompt, *out.outputs[0].token_ids, 5]
    (again,) = engine.generate([longer], PARAMS)
    assert again.outputs[0].num_cached_tokens == (len(longer) - 2) // 8 * 8
    assert gap(again, model, longer) < TOLERANCE


@pytest.fixture(scope="module", params=EXECUTORS)
def long_rope(request, tiny_model):
    """A model whose longer texts turn otherwise, a step of it, and transformers' own."""
    kind = "llama" if request.param == "native" else "phi3"
    folder = tiny_model(kind, **overrides(kind, "longrope"))
    step = executor_of(folder, request.param)
    return (lambda **more: LLM(folder, executor=step, **{**SETTINGS, **more})), plain_model(folder)


def finish(engine, requests) -> None:
    while any(request.state is not RequestState.FINISHED for request in requests):
        engine.step()


def gap_of(request, model) -> float:
    found = [e[t] for e, t in zip(request.logprobs, request.outputs, strict=True)]
    right = answered(model, request.tokens[: request.num_prompt], request.outputs)
    return float(np.abs(np.subtract(found, right)).max())


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_texts_that_make_room_for_each_other_while_they_grow(long_rope, preemption):
    make, model = long_rope
    shape = make().shape
    engine = make(
        cache_bytes=12 * page_bytes(shape.kv_heads, shape.head_dim, SETTINGS["page_size"], "fp32"),
        preemption=preemption,
        watermark_fraction=0,
        policy="fair",
    )
    asked = [prompts()[1], prompts()[1][:-1], [*prompts()[1][:40], *prompts()[2][:17]]]
    outs = engine.generate(asked, PARAMS)
    assert sum(out.outputs[0].num_preemptions for out in outs) > 0
    for prompt, out in zip(asked, outs, strict=True):
        assert gap(out, model, prompt) < TOLERANCE
    report = engine.load_report()
    assert report.num_free_pages + report.num_cached_pages == report.num_pages


def test_drafts_never_run_over_the_bound(long_rope):
    make, model = long_rope
    (plain,) = make().generate([prompts()[1]], PARAMS)
    engine, num_steps = make(), 0
    (request,) = engine.submit(prompts()[1], PARAMS)
    while request.state is not RequestState.FINISHED:
        request.drafts = plain.outputs[0].token_ids[request.num_new :][:5]
        engine.step()
        num_steps += 1
    assert request.outputs == plain.outputs[0].token_ids
    assert num_steps < NEW
    assert gap_of(request, model) < TOLERANCE


def test_siblings_each_grow_over_the_bound(long_rope):
    make, model = long_rope
    params = SamplingParams(
        n=3, temperature=1.2, max_tokens=NEW, ignore_eos=True, seed=3, logprobs=0
    )
    engine = make(max_num_seqs=2)
    requests = engine.submit(prompts()[1], params)
    finish(engine, requests)
    assert len({tuple(request.outputs) for request in requests}) > 1
    for request in requests:
        assert gap_of(request, model) < TOLERANCE


@pytest.mark.parametrize("moves_at", [BOUND - 1, BOUND, BOUND + 1, BOUND + 3])
def test_a_text_that_grew_since_its_first_pages_were_copied(long_rope, moves_at):
    make, model = long_rope
    source, target = make(), make()
    (request,) = source.submit(prompts()[1], PARAMS, request_id="r")
    while request.num_new < 2:
        source.step()
    first = source.export_pages("r")
    target.import_pages(first)
    assert first.num_pages == (len(request.tokens) - 1) // 8
    while len(request.tokens) < moves_at:
        source.step()
    source.pause("r")
    target.import_pages(source.export_pages("r", first.num_pages))
    moved = target.commit("r")
    source.forget("r")
    finish(target, [moved])
    assert len(moved.outputs) == NEW
    assert gap_of(moved, model) < TOLERANCE


@pytest.mark.parametrize("length", [BOUND, BOUND + 1])
def test_vectors_and_one_step_of_a_text(long_rope, length):
    make, model = long_rope
    tokens, engine = prompts()[0][:length], make(max_num_seqs=4, max_num_batched_tokens=7)
    with torch.no_grad():
        right = model.model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
    (vector,) = engine.embed([tokens])
    np.testing.assert_allclose(vector, right.mean(0), atol=1e-5)
    seen = probe_text(engine.executor, tokens, Probe())
    np.testing.assert_allclose(seen.logits[0], logits, atol=1e-4)


def test_what_heads_keep_follows_from_the_text_as_it_grows(long_rope):
    make, _ = long_rope
    keep = {"keep": {"method": "random", "chunk_tokens": 16}, "keep_budget": 24}

    def told_of(outs):
        return [[e[t] for e, t in zip(o.logprobs, o.token_ids, strict=True)] for o in outs]

    together = [out.outputs[0] for out in make(**keep).generate(prompts(), PARAMS)]
    one = make(**keep, max_num_seqs=1, max_num_batched_tokens=5)
    alone = [one.generate([prompt], PARAMS)[0].outputs[0] for prompt in prompts()]
    assert [o.token_ids for o in together] == [o.token_ids for o in alone]
    np.testing.assert_allclose(told_of(together), told_of(alone), atol=TOLERANCE)


def test_scorers_score_each_row_by_its_own_length(tiny_model):
    """By blocks and by the runtime: short rows beside long ones, and those next to the bound."""
    folder = tiny_model("phi3", **overrides("phi3", "longrope"))
    draw = np.random.default_rng(3)
    lengths = (30, LONGEST, BOUND - 1, BOUND, BOUND + 1, BOUND + 2, 2, 90)
    rows = [draw.integers(1, tiny.VOCAB_SIZE, length).tolist() for length in lengths]
    right, model = [], plain_model(folder)
    right = [np.negative(told(model, row)) for row in rows]
    engine = LLM(folder, executor=executor_of(folder, "generic"), **SETTINGS)
    with CheckpointReader(folder) as reader:
        blocks = BlockScorer(reader).token_losses(rows)
    for scored in (blocks, RuntimeScorer(engine).token_losses(rows)):
        for found, expected in zip(scored, right, strict=True):
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_kinds_of_layers_may_have_bounds_of_their_own(executor, tiny_model):
    """gemma3 names its rotary parameters by kind of layer: texts fall into three regimes."""
    kinds = ["sliding_attention", "full_attention"]
    turned = {
        kind: parameters("longrope", bound=bound)
        for kind, bound in zip(kinds, (20, 50), strict=True)
    }
    folder = tiny_model("gemma3_text", layer_types=kinds, rope_parameters=turned)
    model, step = plain_model(folder), executor_of(folder, executor)
    assert step.shape.rope_bounds == (20, 50)
    engine, draw = LLM(folder, executor=step, **SETTINGS), np.random.default_rng(8)
    asked = [draw.integers(1, tiny.VOCAB_SIZE, length).tolist() for length in (18, 47, 60)]
    for prompt, out in zip(asked, engine.generate(asked, PARAMS), strict=True):
        (answer,), text = out.outputs, list(prompt)
        for token, entry in zip(answer.token_ids, answer.logprobs, strict=True):
            text.append(token)
            assert entry[token] == pytest.approx(told(model, text)[-1], abs=TOLERANCE)
    if executor == "native":
        assert agreement(folder, step).largest < 1e-3


def test_the_native_step_is_compared_by_every_set_of_factors(tiny_model):
    step = LlamaStep(tiny_model("llama", **overrides("llama", "longrope")), "fp32", 1)
    folder = tiny_model("llama", **overrides("llama", "longrope"))
    assert agreement(folder, step).largest < 1e-3
    frequencies = step._ropes[0].frequencies
    frequencies[1] = frequencies[0]  # as if long texts turned like short ones
    assert agreement(folder, step).largest > 0.1


def test_factors_that_change_where_no_config_says_are_refused(tiny_model):
    model = plain_model(tiny_model("phi3", **overrides("phi3", "longrope")))
    rotary = model.model.rotary_emb
    turned = rotary.forward

    def forward(values, position_ids):
        if int(position_ids.max()) >= 100:
            position_ids = 2 * position_ids
        return turned(values, position_ids)

    rotary.forward = forward
    with pytest.raises(UnsupportedModelError, match=r"texts of 65 and 128 tokens by other factors"):
        RotaryFactors(model)


def test_factors_that_nobody_can_follow_are_refused(tiny_model):
    """As code of a checkpoint's own may hold them."""

    class Hidden(torch.nn.Module):
        def forward(self, values, places):
            raise NotImplementedError

    model = plain_model(tiny_model("phi3", **overrides("phi3", "longrope")))
    model.model.rotary_emb = Hidden()
    with pytest.raises(UnsupportedModelError, match="has no rotary embedding that takes"):
        RotaryFactors(model)
    late = plain_model(tiny_model("phi3", **overrides("phi3", "longrope")))
    late.model.rotary_emb._buffers["inv_freq"] = None  # as it is before the first call
    with pytest.raises(UnsupportedModelError, match="cannot be asked how it turns texts of 64"):
        RotaryFactors(late)
