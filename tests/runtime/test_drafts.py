"""Several tokens of a request in a step: drafts run beside, and what was wrong is rolled back."""

from functools import cache

import numpy as np
import pytest

from naive import tokens_of
from runtime.engines import Small, continuation
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.request import RequestState
from treadle.runtime.transformers_step.generic import GenericExecutor

NEW = 24
EXECUTORS = ["generic", *(["native"] if library("step") is not None else [])]


@pytest.fixture(scope="module", params=EXECUTORS)
def executor_of(request, tiny_model):
    """Return a function from an architecture to its executor."""

    @cache
    def build(architecture):
        folder = tiny_model(architecture)
        is_native = request.param == "native"
        return LlamaStep(folder, "fp32", 1) if is_native else GenericExecutor.from_folder(folder)

    return build


@pytest.fixture(scope="module")
def executor(executor_of):
    return executor_of("llama")


def answer(engine: LLM, prompt, params, draft) -> tuple:
    """The answer, its logprobs and the steps that chose it; `draft` is asked before each."""
    (request,) = engine.submit(prompt, params, request_id="r")
    count = 0
    while request.state is not RequestState.FINISHED:
        request.drafts = draft(request.outputs)
        count += bool(engine.step())
    found = [value for entry in request.logprobs for value in entry.values()]
    return request.outputs, found, count, request.finish_reason


@pytest.mark.parametrize("temperature", [0, 1.3])
@pytest.mark.parametrize(
    "keep", [{}, {"keep": {"method": "random", "chunk_tokens": 7}, "keep_budget": 9}]
)
def test_an_answer_is_what_it_is_without_drafts(llama, executor, temperature, keep):
    def engine():
        return LLM(llama, executor=executor, cache_bytes=2**19, **keep)

    params = SamplingParams(
        temperature=temperature, max_tokens=NEW, ignore_eos=True, seed=3, logprobs=0
    )
    prompt = tokens_of(1, 30)[0].tolist()
    plain = answer(engine(), prompt, params, lambda so_far: [])
    right = answer(engine(), prompt, params, lambda so_far: plain[0][len(so_far) :][:4])
    half = answer(engine(), prompt, params, lambda so_far: [*plain[0][len(so_far) :][:2], 1, 2])
    wrong = answer(engine(), prompt, params, lambda so_far: [1, 2, 3])
    for found in (right, half, wrong):
        assert (found[0], found[3]) == (plain[0], "length")
        np.testing.assert_allclose(found[1], plain[1], atol=1e-4)
    assert plain[2] == NEW
    assert right[2] < NEW // 2
    assert right[2] <= half[2] < wrong[2] == NEW


def test_a_stop_within_the_drafts_ends_the_answer(llama, executor):
    engine = LLM(llama, executor=executor, cache_bytes=2**19)
    plain = engine.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=9))[0].outputs[0]
    stop = plain.token_ids[2]
    params = SamplingParams(temperature=0, max_tokens=9, stop_token_ids=[stop])
    expected = plain.token_ids[: plain.token_ids.index(stop) + 1]
    found = answer(engine, [5, 6, 7], params, lambda so_far: plain.token_ids[len(so_far) :])
    assert (found[0], found[3]) == (expected, "stop")
    report = engine.load_report()
    assert report.num_free_pages + report.num_cached_pages == report.num_pages


def test_drafts_share_the_budget_and_never_run_past_the_end():
    small = Small(num_pages=12, max_num_batched_tokens=4)
    requests = [small.add(str(n), [n + 1] * 3, 6) for n in range(2)]
    while not all(r.num_new for r in requests):
        small.step()
    for request in requests:
        prompt = request.tokens[: request.num_prompt]
        request.drafts = [*continuation(prompt, 9)[request.num_new :]]
    before = small.runner.num_rows
    small.step()
    assert small.runner.num_rows - before == 4
    small.run()
    for request in requests:
        assert request.outputs == continuation(request.tokens[:3], 6)


def test_rows_roll_back_and_run_again():
    small = Small(num_pages=12, page_size=4)
    request = small.add("a", [3, 1, 4, 1, 5, 9, 2, 6], 9)
    for _ in range(4):
        small.step()
    held = len(request.pages)
    small.batch.holdings.roll_back(request, 5)
    assert request.num_computed == 11 - 5
    assert len(request.pages) == held - 1
    small.run()
    assert request.outputs == continuation(request.tokens[:8], 9)
    assert small.pool.num_free + small.tree.num_evictable == 12


def bushy(right: list[int], vocab: int) -> tuple[list[int], list[int]]:
    """A tree in which two wrong tokens, each with one behind it, stand before each right one."""
    tokens: list[int] = []
    parents: list[int] = []
    place = -1
    for token in right:
        for number in (1, 2):
            tokens += [(token + number) % vocab, token]
            parents += [place, len(tokens) - 2]
        tokens.append(token)
        parents.append(place)
        place = len(tokens) - 1
    return tokens, parents


@pytest.mark.parametrize("temperature", [0, 1.3])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3_text"])
def test_a_tree_answers_as_token_by_token(tiny_model, executor_of, architecture, temperature):
    """Sliding windows, pages of three tokens, a long prompt beside in the same steps."""
    executor, folder = executor_of(architecture), tiny_model(architecture)
    params = SamplingParams(
        temperature=temperature, max_tokens=NEW, ignore_eos=True, seed=3, logprobs=0
    )
    prompt = tokens_of(1, 30)[0].tolist()
    other = tokens_of(1, 100, 7)[0].tolist()

    def answers(draft):
        engine = LLM(folder, executor=executor, cache_bytes=2**19, page_size=3, kv_dtype="fp32")
        (request,) = engine.submit(prompt, params, request_id="r")
        for _ in range(3):
            engine.step()
        (beside,) = engine.submit(other, params, request_id="s")
        count = 0
        while {request.state, beside.state} != {RequestState.FINISHED}:
            for one in (request, beside):
                if one.num_new:
                    one.drafts, one.draft_parents = draft(one)
            count += bool(engine.step())
        engine.close([request, beside])
        report = engine.load_report()
        assert report.num_free_pages + report.num_cached_pages == report.num_pages
        found = [entry[token] for r in (request, beside) for entry, token in _chosen(r)]
        return {r.id: r.outputs for r in (request, beside)}, found, count

    plain, chances, num_steps = answers(lambda request: ([], []))

    def draft(request):
        right = plain[request.id][request.num_new :][:4]
        return bushy(right, executor.shape.vocab_size)

    tree, found, count = answers(draft)
    assert tree == plain
    np.testing.assert_allclose(found, chances, atol=1e-4)
    assert count < num_steps / 2


def _chosen(request):
    return zip(request.logprobs, request.outputs, strict=True)


def test_long_prompts_beside_trees_run_in_segments_that_masks_cover():
    small = Small(num_pages=80, max_num_batched_tokens=200, rope_bounds=(150,))
    first = small.add("a", [3, 1, 4], 20)
    small.step()
    small.add("b", list(range(1, 97)) * 2, 3)
    while first.state is not RequestState.FINISHED:
        right = continuation(first.tokens[:3], 26)[first.num_new :][:4]
        first.drafts, first.draft_parents = bushy(right, 97)
        small.step()
    small.run()
    assert first.outputs == continuation([3, 1, 4], 20)
    assert first.num_accepted > 6
    assert first.num_drafted > first.num_accepted


def test_drafts_take_no_pages_from_others():
    small = Small(num_pages=5, page_size=4, max_num_batched_tokens=40)
    requests = [small.add(str(n), [n + 1] * 3, 5) for n in range(2)]
    while not all(r.num_new for r in requests):
        small.step()
    for request in requests:
        request.drafts = continuation(request.tokens[:3], 6)[request.num_new :]
        request.drafts += [0] * 20
    small.run()
    assert small.batch.num_preemptions == 0
    for request in requests:
        assert request.outputs == continuation(request.tokens[:3], 5)
