"""Texts scored together: what they share is computed once, and not a bit changes by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import plain_losses, plain_model
from runtime.flat import EXECUTORS, executor_of
from treadle.core.errors import CapacityError, CheckpointError, DataError, SettingsError
from treadle.model.rope import RopeLengths
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.answer.stretches import stretches_of

TEXT = st.lists(st.integers(0, 2), min_size=1, max_size=14)


def whole(stretch, rows):
    before = [] if stretch.parent is None else whole(stretch.parent, rows)
    return [*before, *rows[stretch.row][stretch.begin : stretch.stop]]


@settings(max_examples=60)
@given(rows=st.lists(TEXT, min_size=1, max_size=8), bound=st.integers(0, 8), data=st.data())
def test_stretches_are_the_texts_and_stand_once(rows, bound, data):
    firsts = [data.draw(st.integers(1, max(1, len(row)))) for row in rows]
    lengths = RopeLengths((bound,) if bound else ())
    stretches = stretches_of(rows, firsts, lengths)
    ends = {number: stretch for stretch in stretches for number in stretch.ends}
    assert sorted(ends) == list(range(len(rows)))
    for number, stretch in ends.items():
        assert whole(stretch, rows) == rows[number]
        assert lengths.regime(len(rows[stretch.row]) - 1) == lengths.regime(len(rows[number]) - 1)
    for stretch in stretches:
        begun = [n for n, end in ends.items() if stretch in path_of(end)]
        assert stretch.asked == min(firsts[number] for number in begun)
        assert stretch.parent is None or stretches.index(stretch.parent) < stretches.index(stretch)
        starts = [rows[child.row][child.begin] for child in stretch.children]
        assert len(set(starts)) == len(starts)
    # What four tokens or more have in common stands once, and less than that as often as it comes.
    own = {(lengths.regime(len(row) - 1), *row[:n]) for row in rows for n in range(4, len(row) + 1)}
    assert sum(max(0, stretch.stop - max(stretch.begin, 3)) for stretch in stretches) == len(own)


def path_of(stretch):
    return [stretch] if stretch.parent is None else [stretch, *path_of(stretch.parent)]


def family(seed=0):
    """Texts of few and many tokens in common, one twice, one the start of another."""
    draw = np.random.default_rng(seed)
    few, many = (draw.integers(0, 320, count).tolist() for count in (5, 41))
    tails = [draw.integers(0, 320, count).tolist() for count in (1, 1, 7, 30, 30)]
    rows = [few + tails[2], *(many + tail for tail in tails), many[:20], many + tails[2]]
    rows += [many + tails[3] + tail for tail in tails[:3]] + [few + many, [7]]
    return rows, [1, 41, 41, 42, 50, 1, 3, 48, 71, 70, 1, 46, 1]


@pytest.fixture(scope="module")
def alone(llama):
    """Each text by itself."""
    rows, firsts = family()
    llm = LLM(llama)
    every = [llm.log_probs([row], [first])[0] for row, first in zip(rows, firsts, strict=True)]
    return llm, every


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"page_size": 3},
        {"max_num_batched_tokens": 7, "max_num_seqs": 2},
        {"page_size": 8, "cache_bytes": 10 * 8 * 2 * 3 * (2 * 16 + 1) * 4},
        {"page_size": 1, "max_num_batched_tokens": 50, "max_num_seqs": 1},
    ],
)
def test_texts_together_have_the_bits_of_each_alone(limits, alone, llama):
    rows, firsts = family()
    llm = LLM(llama, **limits)
    found = llm.log_probs(rows, firsts)
    assert [values.tobytes() for values in found] == [values.tobytes() for values in alone[1]]
    report = llm.load_report()
    assert report.num_free_pages == report.num_pages


def test_they_are_the_losses_of_transformers(llama):
    import torch

    model, (rows, firsts) = plain_model(llama), family()
    every = LLM(llama, kv_dtype="fp32").log_probs(rows, firsts)
    for row, first, found in zip(rows, firsts, every, strict=True):
        if len(row) > 1:
            expected = plain_losses(model, torch.tensor([row]))[0, first - 1 :].numpy()
            np.testing.assert_allclose(-found, expected, atol=2e-5)
        else:
            assert found.shape == (0,)


def test_what_is_common_runs_once_and_what_is_not_asked_costs_no_head(llama):
    rows, _ = family()
    llm = LLM(llama)
    before = llm.num_rows
    llm.log_probs([rows[0], rows[0], rows[0][:9]])
    assert llm.num_rows - before == len(rows[0]) - 1
    before = llm.num_rows
    llm.log_probs([[1] * 20 + [token] for token in range(5)])
    assert llm.num_rows - before == 20


def test_a_cache_of_one_text_is_enough(llama):
    rows, firsts = family()
    expected = LLM(llama).log_probs(rows, firsts)
    longest = max(map(len, rows)) - 1
    one = LLM(llama, page_size=4, cache_bytes=10**6)._batch.pool.store
    page_bytes = one.num_bytes // one.num_pages
    llm = LLM(llama, page_size=4, cache_bytes=-(-longest // 4) * page_bytes)
    found = llm.log_probs(rows, firsts)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(CapacityError, match="A text of 120 tokens takes 30 pages of 4, and the ca"):
        llm.log_probs([[1] * 120])


def test_requests_that_wait_have_their_answers_afterwards(llama):
    rows, firsts = family()
    llm, quiet = LLM(llama, page_size=4, cache_bytes=200_000), LLM(llama)
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    (request,) = llm.submit([1, 2, 3] * 20, params)
    llm.step()
    found = llm.log_probs(rows, firsts)
    assert all(
        np.array_equal(a, b) for a, b in zip(found, quiet.log_probs(rows, firsts), strict=True)
    )
    (expected,) = quiet.generate([[1, 2, 3] * 20], params)
    while request.num_new < 6:
        llm.step()
    assert request.outputs == expected.outputs[0].token_ids


@pytest.mark.parametrize("name", EXECUTORS)
def test_texts_that_lose_entries_are_scored_as_requests_are(name, llama):
    """The steps of a prompt whose log-probabilities are reported see the same entries."""
    keep = {"keep": {"method": "sinks", "chunk_tokens": 8}, "keep_budget": 16, "page_size": 4}
    llm = LLM(llama, executor=executor_of(llama, name), kv_dtype="fp32", **keep)
    rows, firsts = family()
    found = llm.log_probs(rows, firsts)
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    for row, first, own in zip(rows, firsts, found, strict=True):
        (output,) = llm.generate([row], asked)
        said = [
            entry[token] for entry, token in zip(output.prompt_logprobs[1:], row[1:], strict=True)
        ]
        np.testing.assert_allclose(own, said[first - 1 :], atol=2e-6)
    plain = LLM(llama, kv_dtype="fp32").log_probs(rows, firsts)
    assert max(abs(a - b).max() for a, b in zip(found, plain, strict=True) if len(a)) > 1e-3
    report = llm.load_report()
    assert report.num_free_pages == report.num_pages


def test_what_is_wrong_is_named(llama):
    llm = LLM(llama)
    for row, says in (([], "The prompt is empty"), ([1, 320], "Token 1 of the prompt is 320")):
        with pytest.raises(DataError, match=says):
            llm.log_probs([row])
    with pytest.raises(SettingsError, match="No adapter 'x'"):
        llm.log_probs([[1, 2]], adapter="x")


@pytest.mark.parametrize("name", EXECUTORS)
def test_logits_that_are_no_numbers_are_refused_and_pages_come_back(name, llama, monkeypatch):
    executor = executor_of(llama, name)
    llm = LLM(llama, executor=executor)
    what, shape = ("log_probs", 2) if name == "native" else ("forward", (2, 320))
    monkeypatch.setattr(executor, what, lambda *_: np.full(shape, np.nan))
    with pytest.raises(CheckpointError, match="The model's logits are NaN"):
        llm.log_probs([[1, 2, 3]])
    assert llm.load_report().num_free_pages == llm.load_report().num_pages
