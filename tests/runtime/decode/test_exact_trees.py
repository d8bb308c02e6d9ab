"""A tree of 32 branches says what 32 separate requests say, whatever happens to its branches."""

import numpy as np
import pytest

from naive import tokens_of
from products import few
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.decode.recorded import recording_of
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.request import RequestState
from treadle.runtime.schedule.search import TreeSearch
from treadle.runtime.transformers_step.generic import GenericExecutor
from treadle.runtime.trees.asked import AskedSearch

PROMPT = tokens_of(1, 37, seed=5)[0].tolist()
LEAVES = 32
TIE = 1e-3


def shape() -> dict:
    """Four branches of 9 tokens, each with four of 3 to 6, each of these with two of 7."""
    nodes: list[dict] = [{"parent": None, "tokens": 9} for _ in range(4)]
    for first in range(4):
        for number in range(4):
            nodes.append({"parent": first, "tokens": 3 + number})
            nodes += [{"parent": len(nodes) - 1, "tokens": 7} for _ in range(2)]
    return {"prompt": PROMPT, "nodes": nodes}


CASES = [
    (kind, model_type)
    for kind in ("native", "generic")
    for model_type in ("llama", "mistral", "gemma2", "gpt2")
    if kind == "generic" or (model_type in ("llama", "mistral") and library("step") is not None)
]
SOME = few(CASES, CASES[0], ("generic", "mistral"))


@pytest.fixture(scope="module", params=SOME, ids=str)
def case(request, tiny_model):
    kind, model_type = request.param
    folder = tiny_model(model_type)
    made = LlamaStep(folder, "fp32", 1) if kind == "native" else None
    return folder, made or GenericExecutor.from_folder(folder)


def engine(case, **settings) -> LLM:
    folder, executor = case
    given = {"cache_bytes": 2**21, "kv_dtype": "fp32", "executor": executor, "page_size": 8}
    return LLM(folder, **{**given, **settings})


def starts_of(found: TreeSearch, number: int) -> list[int]:
    """The places of a branch's tokens that no greedy choice explains: they begin a node."""
    return [node.branched for node in found.tree.path(number)[1:]]


def check(case, found: TreeSearch, texts: dict[int, list[int]] | None = None) -> int:
    """Ask for each branch on its own, behind its last fork; returns the number of ties."""
    given = texts or {number: found.tree.text(number) for number in found.ranked}
    plain = engine(case)
    prompts, rests = [], []
    for number, text in given.items():
        last = max(starts_of(found, number))
        prompts.append(text[: last + 1])
        rests.append(text[last + 1 :])
    params = [
        SamplingParams(temperature=0, max_tokens=len(rest), ignore_eos=True, logprobs=2)
        for rest in rests
    ]
    ties = 0
    for rest, out in zip(rests, plain.generate(prompts, params), strict=True):
        answer = out.outputs[0]
        if answer.token_ids == rest:
            continue
        at = next(n for n, (a, b) in enumerate(zip(answer.token_ids, rest, strict=True)) if a != b)
        best = sorted(answer.logprobs[at].values(), reverse=True)
        assert best[0] - best[1] < TIE, "another token, and no tie"
        ties += 1
    return ties


def finish(llm: LLM, found: TreeSearch, disturb=lambda step: None) -> TreeSearch:
    step = 0
    while not found.is_done:
        llm.step()
        disturb(step)
        step += 1
        assert step < 3000
    if found.error is not None:
        raise found.error
    report = llm.load_report()
    is_alone = len(llm._batch) == 0
    assert not is_alone or report.num_free_pages + report.num_cached_pages == report.num_pages
    return found


def begun(llm: LLM) -> TreeSearch:
    replay = recording_of(shape()).controller
    return llm._searching.begin(PROMPT, AskedSearch(replay, None, None, False))


def test_alone_and_in_company(case):
    llm = engine(case, max_num_seqs=40)
    found = begun(llm)
    others = llm.submit(PROMPT[:20], SamplingParams(n=3, max_tokens=12, seed=1))
    finish(llm, found)
    assert len(found.ranked) == LEAVES
    assert check(case, found) <= 1
    assert found.num_rows == len(PROMPT) + 4 * 9 + 16 * 4.5 + 32 * 7  # each token once
    llm.close(others)


def test_in_waves_and_chunks(case):
    """More branches than places: those whose logits are known wait for the others."""
    llm = engine(case, max_num_seqs=5, max_num_batched_tokens=7)
    found = finish(llm, begun(llm))
    assert len(found.ranked) == LEAVES
    assert check(case, found) <= 1


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_after_preemption(case, preemption):
    llm = engine(case, max_num_seqs=12, preemption=preemption)
    draw, found = np.random.default_rng(1), begun(llm)

    def disturb(step):
        for request in found.requests:
            if request.holds_cache and draw.random() < 0.2:
                llm._batch._preempt(request)

    finish(llm, found, disturb)
    assert llm.load_report().num_preemptions > 50
    assert len(found.ranked) == LEAVES
    assert check(case, found) <= 1


def test_in_a_cache_that_is_too_small_for_all_at_once(case):
    pool = engine(case)._batch.pool
    page_bytes = pool.store.num_bytes // pool.num_pages
    needed = len(PROMPT) // 8 + LEAVES + 8 + 24  # that fork is refused below it
    small = engine(case, cache_bytes=needed * page_bytes, max_num_seqs=40)
    others = small.submit(PROMPT[::-1], SamplingParams(n=4, max_tokens=60, seed=3))
    found = finish(small, begun(small))
    assert len(found.ranked) == LEAVES
    assert check(case, found) <= 1
    small.close(others)


def test_after_branches_left_and_came_back(case):
    llm = engine(case, max_num_seqs=12)
    draw, found = np.random.default_rng(2), begun(llm)
    count = [0]

    def disturb(step):
        for request in found.requests:
            if request.state is not RequestState.FINISHED and draw.random() < 0.05:
                llm.pause(request.id)
                exported = llm.export_pages(request.id)
                llm.forget(request.id)
                llm.import_pages(exported)
                llm.commit(request.id)
                count[0] += 1

    finish(llm, found, disturb)
    assert count[0] > 20
    assert len(found.ranked) == LEAVES
    assert check(case, found) <= 1


def test_a_branch_that_moves_away_goes_on_as_it_would_have(case):
    """On another engine a branch is a request like any other, and the tree does without it."""
    here, there = engine(case, max_num_seqs=40), engine(case)
    found, moved = begun(here), {}

    def disturb(step):
        ready = [leaf for leaf, r in found._requests.items() if found.tree.node(leaf).tag > 3]
        for leaf in [] if moved else ready[:3]:
            request = found._requests[leaf]
            here.pause(request.id)
            there.import_pages(here.export_pages(request.id))
            moved[leaf] = there.commit(request.id)
            here.forget(request.id)

    finish(here, found, disturb)
    assert len(moved) == 3
    assert sum(found.tree.node(n).reason == "migrated" for n in found.ranked) == 3
    while any(request.state is not RequestState.FINISHED for request in moved.values()):
        there.step()
    assert all(r.num_new == r.params.max_tokens for r in moved.values())
    texts = {leaf: list(request.tokens) for leaf, request in moved.items()}
    whole = {n: found.tree.text(n) for n in found.ranked if n not in moved}
    assert check(case, found, {**texts, **whole}) <= 1


def test_heads_that_keep_their_own_entries(case):
    """What branches keep of the cache is what separate texts with the same prompt keep."""
    policy = {"keep": {"method": "random", "chunk_tokens": 5}, "keep_budget": 12}
    llm = engine(case, max_num_seqs=12, **policy)
    found = finish(llm, begun(llm))
    other = engine(case, max_num_seqs=3, max_num_batched_tokens=6, **policy)
    again = finish(other, begun(other))
    texts = [[f.tree.text(n) for n in sorted(f.ranked)] for f in (found, again)]
    same = sum(a in texts[1] for a in texts[0])
    assert len(found.ranked) == LEAVES
    assert same >= LEAVES - 2  # up to ties
