"""StreamingLLM: the first tokens and the newest, in every head alike."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kept import cached_of, keep_of, kept_sets
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.evict.keeping import Keeping, least_budget
from treadle.runtime.evict.methods.sinks import Sinks


@given(
    budget=st.integers(1, 9),
    sinks=st.integers(0, 5),
    chunk=st.integers(1, 5),
    num_tokens=st.integers(1, 30),
)
def test_it_keeps_the_first_and_the_newest(budget, sinks, chunk, num_tokens):
    """Token by token: with chunks of one the cache is the paper's {0..sinks-1} and window."""
    if budget <= sinks:
        return
    keeping = Keeping(Sinks(sinks=sinks, chunk_tokens=chunk), budget)
    for place, heads in enumerate(kept_sets(keeping, (1, 2), num_tokens, num_tokens)):
        seen = set(heads[0])
        assert [set(own) for own in heads] == [seen] * 3
        boundary = place // chunk * chunk  # entries went after so many tokens
        first = boundary - (budget - sinks)
        expected = {p for p in range(place + 1) if p < sinks or p >= first or boundary <= budget}
        assert seen == expected


def test_an_empty_place_is_no_sink():
    """A head whose sinks are gone keeps newer ones instead."""
    positions = np.asarray([[0, 5, 9, -1], [1, 8, 9, 7]], np.int32)
    kept = keep_of(Sinks(sinks=1), cached_of(positions, (1, 1), 10), 3)
    assert kept.tolist() == [[True, True, True, False], [False, True, True, True]]


@pytest.mark.parametrize(("sinks", "least"), [(0, 1), (4, 5)])
def test_the_least_budget_leaves_a_window(sinks, least):
    assert least_budget(Sinks(sinks=sinks)) == least
    keeping = Keeping(Sinks(sinks=sinks), 0.001)
    assert keeping.entries(10, 10) == least


@pytest.mark.slow
@pytest.mark.parametrize("budget", [32, 64])
def test_it_beats_chance_on_a_real_text(budget):
    """SmolLM2 on a page of the standard library: what it says of each token, 320 of them."""
    text = Path(str(textwrap.__file__)).read_text()
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    losses = []
    for keep in ("sinks", "random"):
        llm = LLM(
            "packaged:smollm2",
            weights="q8",
            cache_bytes=2**26,
            keep={"method": keep, "chunk_tokens": 32},
            keep_budget=budget,
        )
        tokens = llm.get_tokenizer()(text)["input_ids"][:320]
        (out,) = llm.generate([tokens], params)
        found = [entry[t] for entry, t in zip(out.prompt_logprobs[1:], tokens[1:], strict=True)]
        losses.append(-np.mean(found[budget:]))
    assert losses[0] < losses[1] - 0.1
