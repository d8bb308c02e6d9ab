"""Every policy in both executors, against transformers with a mask; the text alone decides."""

import numpy as np
import pytest
import torch

from naive import tokens_of
from products import few
from runtime.evict.answered import SAMPLED, answers, prompt_logprobs, same
from runtime.kept import visible
from runtime.masked import masked_logits
from runtime.retained import with_heads
from treadle.core.errors import CapacityError, SettingsError
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.request import RequestState
from treadle.runtime.transformers_step.generic import GenericExecutor

EXECUTORS = ["generic", *(["native"] if library("step") is not None else [])]
CHUNK, BUDGET, NEW = 8, 12, 16
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.5, "int4": 5.0}


SMALL = {"sinks": 2, "window": 4}
"""What always stays, so that budgets of a few entries leave something to choose."""
BY_PLACE = ["sinks", "random"]
"""Policies that look at positions alone."""
POLICIES = [name for name in EVICTIONS.table if name not in ("oracle", "kivi")]


def policy(name: str, **others: object) -> dict[str, object]:
    own = {} if name in BY_PLACE else SMALL
    return {"method": name, "chunk_tokens": CHUNK, **own, **others}


@pytest.fixture(scope="module")
def make(tiny_model, tmp_path_factory):
    """Return a function to an engine over a shared executor."""
    made = {}
    folders = {}

    def build(architecture="llama", name="generic", **settings):
        key = (architecture, name)
        if architecture not in folders:
            target = tmp_path_factory.mktemp("retained") / architecture
            folders[architecture] = with_heads(tiny_model(architecture), target)
        folder = folders[architecture]
        if key not in made:
            is_native = name == "native"
            made[key] = (
                LlamaStep(folder, "fp32", 1) if is_native else GenericExecutor.from_folder(folder)
            )
        return LLM(
            folder, **{"executor": made[key], "cache_bytes": 2**19, "kv_dtype": "fp32", **settings}
        )

    return build


def expected_logprobs(engine: LLM, folder, prompt: list[int], keeping: Keeping) -> np.ndarray:
    seen = visible(keeping, engine.shape.kv_heads, len(prompt), len(prompt))
    logits = torch.from_numpy(masked_logits(folder, prompt, seen)[:-1])
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].numpy()


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("method", BY_PLACE)
@pytest.mark.parametrize("budget", [BUDGET, 0.25])
def test_a_text_sees_what_its_policy_kept(make, tiny_model, method, budget, name):
    """Prompts that end within a chunk, at its end and before the first one, side by side."""
    settings = {"keep": policy(method), "keep_budget": budget, "max_num_batched_tokens": 20}
    engine = make("llama", name, **settings)
    prompts = [tokens_of(1, length, length)[0].tolist() for length in (70, 64, 5, 33)]
    keeping = Keeping(EVICTIONS.resolve(policy(method)), budget)
    for prompt, found in zip(prompts, prompt_logprobs(engine, prompts), strict=True):
        expected = expected_logprobs(engine, tiny_model("llama"), prompt, keeping)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("kv_dtype", ["fp32", "fp16", "int8", "int4"])
def test_under_a_sliding_window(make, tiny_model, kv_dtype, name):
    settings = {"keep": policy("random"), "keep_budget": 30, "kv_dtype": kv_dtype}
    engine = make("mistral", name, **settings)
    prompt = tokens_of(1, 100)[0].tolist()
    keeping = Keeping(EVICTIONS.resolve(policy("random")), 30)
    (found,) = prompt_logprobs(engine, [prompt])
    expected = expected_logprobs(engine, tiny_model("mistral"), prompt, keeping)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[kv_dtype])


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("method", few(POLICIES, "snapkv", "entropy", "expected", "locret"))
def test_the_text_alone_decides(make, method, name):
    """Alone, batched in chunks of any size, preempted either way: the same answers."""
    keep = {"keep": policy(method), "keep_budget": BUDGET}
    prompts = [tokens_of(1, length, length)[0].tolist() for length in (37, 64, 5, 50)]
    alone = [answers(make("llama", name, **keep), [p])[0] for p in prompts]
    for rows in (16, 64, 256) if name == "native" else (16, 256):
        engine = make("llama", name, max_num_batched_tokens=rows, max_num_seqs=4, **keep)
        assert same(answers(engine, prompts), alone, name)
    one = 2**19 // make("llama", name, page_size=4).load_report().num_pages
    tight = {"cache_bytes": 16 * one, "page_size": 4, "watermark_fraction": 0}
    prompts = [tokens_of(1, length, length)[0].tolist() for length in (5, 9, 11, 37)]
    alone = [answers(make("llama", name, **keep), [p])[0] for p in prompts]
    for preemption in ("recompute", "swap"):
        engine = make("llama", name, preemption=preemption, **tight, **keep)
        assert same(answers(engine, prompts), alone, name)
        after = engine.load_report()
        assert after.num_preemptions > 0
        assert after.num_free_pages == after.num_pages


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("length", few([37, 40, 41], 40, 41))
def test_siblings_answer_as_if_they_were_alone(make, length, name):
    """Where the parent's entries of the prompt are still there, and where some just went."""
    keep = {"keep": policy("random"), "keep_budget": BUDGET}
    params = SamplingParams(
        n=3, temperature=1.2, max_tokens=NEW, ignore_eos=True, seed=3, logprobs=0
    )
    prompt = tokens_of(1, length)[0].tolist()
    together = answers(make("llama", name, **keep), [prompt], params)
    one_by_one = answers(make("llama", name, max_num_seqs=1, **keep), [prompt], params)
    assert len({tuple(tokens) for tokens, _ in together}) > 1
    assert same(together, one_by_one, name)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("num_steps", [0, 1, 3, 9, 15])
def test_a_moved_text_goes_on_with_equal_tokens(make, num_steps, name):
    """Its policy travels with it: the target has none of its own."""
    options = {"max_num_batched_tokens": 16}
    keep = {"keep": policy("random"), "keep_budget": BUDGET}
    prompt = tokens_of(1, 37)[0].tolist()
    whole = answers(make("llama", name, **keep), [prompt])[0][0]
    source, target = make("llama", name, **keep, **options), make("llama", name, **options)
    (request,) = source.submit(prompt, SAMPLED, request_id="r")
    for _ in range(num_steps):
        source.step()
    first = source.export_pages("r")
    assert first.num_pages == 0  # what it keeps changes while it runs
    target.import_pages(first)
    source.pause("r")
    target.import_pages(source.export_pages("r", first.num_pages))
    moved = target.commit("r")
    source.forget("r")
    before = target.load_report().num_rows
    while moved.state is not RequestState.FINISHED:
        target.step()
    assert moved.outputs == whole
    assert target.load_report().num_rows - before == len(prompt) + NEW - 1 - request.num_computed
    assert source.load_report().num_free_pages == source.load_report().num_pages
    assert target.load_report().num_free_pages == target.load_report().num_pages


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("method", POLICIES)
@pytest.mark.parametrize("budget", few([1.0, 128], 1.0))
def test_a_full_budget_changes_nothing(make, method, budget, name):
    prompts = [tokens_of(1, length, length)[0].tolist() for length in (70, 40)]
    kept = make("llama", name, keep=policy(method), keep_budget=budget)
    assert same(answers(kept, prompts), answers(make("llama", name), prompts), name)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("method", few(POLICIES, "sinks", "snapkv", "expected", "locret"))
def test_memory_falls(make, method, name):
    """While the prompt is read, too: never more than budget, chunk and a plane of each head."""
    engine = make("llama", name, keep=policy(method), keep_budget=BUDGET, page_size=4)
    pool, heads = engine._batch.pool, engine._batch.pool.store.num_heads
    (request,) = engine.submit(tokens_of(1, 90)[0].tolist(), SAMPLED)
    entries, planes = [], []
    while request.state is not RequestState.FINISHED:
        engine.step()
        if request.entries is not None:
            entries.append(int(request.entries.lengths.sum()))
            planes.append(request.entries.num_planes)
            assert pool.num_pages - pool.num_free <= max(planes) // heads + heads
    assert max(entries) <= heads * (BUDGET + CHUNK)
    assert max(planes) <= heads * ((BUDGET + CHUNK) / 4 + 1)
    assert pool.num_free == pool.num_pages


def test_more_texts_fit(make):
    """A cache of 12 pages takes two texts of 90 tokens, or four that keep 12 entries."""
    one = make().load_report()
    tight = {"cache_bytes": 12 * 2**19 // one.num_pages, "watermark_fraction": 0}
    prompts = [tokens_of(1, 90, seed)[0].tolist() for seed in range(5)]
    running = []
    for keep in ({}, {"keep": policy("sinks"), "keep_budget": BUDGET}):
        engine = make(**tight, **keep)
        for prompt in prompts:
            engine.submit(prompt, SAMPLED)
        for _ in range(6):
            engine.step()
        running.append(engine.load_report().num_running)
    assert running == [2, 4]
    with pytest.raises(CapacityError, match=r"may grow to 128 tokens, 8 pages of 16.*keep_budget"):
        make(cache_bytes=5 * 2**19 // one.num_pages, keep="random", keep_budget=100).submit(
            prompts[0], SamplingParams(max_tokens=None)
        )


def test_what_is_no_policy_is_refused(make):
    for options, says in (
        (
            {"keep": "sinkss", "keep_budget": 9},
            r"Unknown runtime eviction 'sinkss'.*'sinks'",
        ),
        ({"keep": "sinks"}, r"keep='sinks' needs a keep_budget: entries of each layer.*give it"),
        ({"keep_budget": 9}, r"keep_budget=9, expected keep beside it"),
        (
            {"keep": "sinks", "keep_budget": 4},
            r"keep_budget=4, and keep='sinks' always keeps 4 sinks and a window of 0 tokens; give "
            r"at least 5, or lower sinks or window",
        ),
        ({"keep": "key_norm", "keep_budget": 36}, r"give at least 37"),
        (
            {"keep": "sinks", "keep_budget": 1.5},
            r"keep_budget=1.5, expected entries, or a fraction",
        ),
        ({"keep": "sinks", "keep_budget": 0.0}, r"keep_budget=0.0, expected entries, or a fracti"),
        ({"keep": "sinks", "keep_budget": "9"}, r"keep_budget='9', expected a number"),
        ({"keep": "sinks", "keep_budget": True}, r"keep_budget=True, expected a number"),
        ({"keep": 5, "keep_budget": 9}, r"keep=5, expected a text"),
        ({"keep": policy("sinks", snks=4), "keep_budget": 9}, r"has no setting 'snks'.*'sinks'"),
    ):
        with pytest.raises(SettingsError, match=says):
            make(**options)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_threshold_counts_whatever_the_budget_is(make, name):
    """A budget that nothing exceeds does not switch it off."""
    prompt = tokens_of(1, 90)[0].tolist()
    kept = []
    for budget in (None, 80, 1.0):
        keep = policy("key_norm", threshold=-3.0)
        engine = make("llama", name, keep=keep, keep_budget=budget)
        (out,) = engine.generate([prompt], SamplingParams(max_tokens=1, temperature=0))
        kept.append(out.outputs[0].num_kept)
    assert kept[0] == kept[1] == kept[2]
    assert min(map(min, kept[0])) < 80


def test_a_moved_text_needs_the_same_heads(make, tiny_model, tmp_path):
    """Other heads of the same model would keep other entries."""
    keep = {"keep": policy("kvzap"), "keep_budget": BUDGET}
    source, folder = make("llama", **keep), tmp_path / "other"
    with_heads(tiny_model("llama"), folder, seed=6)
    target = LLM(folder, executor=source.executor, cache_bytes=2**19, kv_dtype="fp32", **keep)
    (request,) = source.submit(tokens_of(1, 20)[0].tolist(), SAMPLED, request_id="r")
    source.step()
    source.pause("r")
    with pytest.raises(SettingsError, match=r"by heads of 'kvzap' with the hash .* same folder"):
        target.import_pages(source.export_pages("r"))
    source.close([request])


@pytest.mark.parametrize("change", ["longer", "fewer", "cut", "queries"])
def test_a_damaged_import_takes_no_pages(make, change):
    keep = {"keep": policy("expected"), "keep_budget": BUDGET}
    source, target = make("llama", **keep), make("llama", **keep)
    (request,) = source.submit(tokens_of(1, 37)[0].tolist(), SAMPLED, request_id="r")
    for _ in range(5):
        source.step()
    source.pause("r")
    whole = source.export_pages("r")
    damaged = {
        "longer": whole._replace(lengths=[length + 40 for length in whole.lengths]),
        "fewer": whole._replace(lengths=whole.lengths[1:]),
        "cut": whole._replace(content=[part[:-1] for part in whole.content]),
        "queries": whole._replace(queries=whole.queries[:-1]),
    }[change]
    with pytest.raises(SettingsError, match="export the request again"):
        target.import_pages(damaged)
    assert target.load_report().num_free_pages == target.load_report().num_pages
    source.close([request])


def test_what_stays_always_stays_by_chance_too(make):
    """Sinks and window of the control, whose heads have unequal budgets."""
    keep = policy("random", sinks=3, window=8, spread=0.9)
    engine = make("llama", keep=keep, keep_budget=12)
    (request,) = engine.submit(tokens_of(1, 70)[0].tolist(), SAMPLED)
    while request.num_computed < 64:
        engine.step()
    for row in request.entries.positions(engine._batch.pool.store):
        assert {0, 1, 2, *range(56, 64)} <= set(row.tolist())
    engine.close([request])


def test_scoring_beside_what_holds_all_pages_is_refused(make):
    """Texts that are scored are no requests: nobody can take their pages."""
    engine = make("llama", cache_bytes=2**17)
    batch = engine._batch
    pages = batch.pool.allocate(batch.pool.num_free - 1)
    with pytest.raises(CapacityError, match="beside other texts that are scored"):
        engine.log_probs([tokens_of(1, 60)[0].tolist()])
    batch.pool.release(pages)


def test_beams_keep_what_they_are_told(make):
    """Evicted as the engine is set, or not at all."""
    prompt, found = tokens_of(1, 60)[0].tolist(), []
    evicting = {"keep": policy("sinks"), "keep_budget": BUDGET}
    for settings, own in ((evicting, {}), (evicting, {"keep": "all"}), ({}, {})):
        engine = make("llama", **settings)
        params = SamplingParams(beam_width=2, max_tokens=8, ignore_eos=True, **own)
        (out,) = engine.generate([prompt], params)
        found.append((out.outputs[0].token_ids, engine.load_report().peak_kept_bytes > 0))
    assert found[0][1]
    assert found[1] == found[2]
    assert not found[1][1]


def test_each_request_keeps_what_it_asks_for(make):
    """Beside others, and as an engine would that keeps so for all."""
    prompts = [tokens_of(1, 70, seed)[0].tolist() for seed in range(3)]
    own = [
        {},
        {"keep": policy("snapkv"), "keep_budget": BUDGET},
        {"keep": policy("locret"), "keep_budget": 0.25},
    ]
    mixed = make("llama", "generic").generate(
        prompts, [SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, **k) for k in own]
    )
    asked = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    for prompt, settings, out in zip(prompts, own, mixed, strict=True):
        (alone,) = make("llama", "generic", **settings).generate([prompt], asked)
        assert alone.outputs[0].token_ids == out.outputs[0].token_ids
        assert alone.outputs[0].num_kept == out.outputs[0].num_kept
    with pytest.raises(SettingsError, match="Did you mean 'snapkv'"):
        SamplingParams(keep="snapvk", keep_budget=50)
    with pytest.raises(SettingsError, match="none beside 'all'"):
        SamplingParams(keep="all", keep_budget=50)
