"""Log-probabilities of asked tokens, against logits of all tokens in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import tokens_of
from runtime.flat import ints, pool_of, rows_of
from treadle.native.loader import library
from treadle.runtime.executor import Targets
from treadle.runtime.native_step.llama import LlamaStep

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
TABLE = list(range(16))


def targets_of(asked) -> Targets:
    starts = np.cumsum([0, *map(len, asked)])
    return Targets(ints([token for some in asked for token in some]), ints(starts))


def naive(logits: np.ndarray, asked) -> np.ndarray:
    found = []
    for row, some in zip(logits.astype(np.float64), asked, strict=True):
        whole = sum(np.exp(value - row.max()) for value in row)
        found += [row[token] - row.max() - np.log(whole) for token in some]
    return np.array(found)


@pytest.mark.parametrize(
    ("model_type", "vocab_size"), [("llama", 320), ("gemma2", 256), ("qwen3", 517), ("llama", 7)]
)
@pytest.mark.parametrize("form", ["fp32", "q8"])
def test_they_are_those_of_all_logits(model_type, vocab_size, form, tiny_model):
    step = LlamaStep(tiny_model(model_type, vocab_size=vocab_size), form, 2)
    draw = np.random.default_rng(vocab_size)
    tokens = draw.integers(0, vocab_size, 40).tolist()
    wanted = [0, 3, 4, 11, 39]
    asked = [draw.integers(0, vocab_size, count).tolist() for count in (1, 0, 3, 2, 1)]
    asked[2][0] = vocab_size - 1
    rows = rows_of([(tokens, 0, TABLE)], wanted=wanted)
    logits = step.forward(rows, pool_of(step))
    found = step.log_probs(rows, pool_of(step), targets_of(asked))
    np.testing.assert_allclose(found, naive(logits, asked), atol=2e-6)
    step.close()


@pytest.fixture(scope="module")
def steps_of_threads(tiny_model):
    made = [LlamaStep(tiny_model("llama", vocab_size=1100), "fp32", n) for n in (1, 2, 3)]
    yield made
    for step in made:
        step.close()


@settings(max_examples=15)
@given(chunks=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_neither_the_batch_nor_threads_change_a_bit(chunks, steps_of_threads):
    tokens = tokens_of(1, sum(chunks))[0].tolist()
    asked = [[token, 3 * token] for token in tokens]
    seen = set()
    for step in steps_of_threads:
        whole = step.log_probs(rows_of([(tokens, 0, TABLE)]), pool_of(step), targets_of(asked))
        pool, first, parts = pool_of(step), 0, []
        for count in chunks:
            rows = rows_of([(tokens[first : first + count], first, TABLE)])
            parts.append(step.log_probs(rows, pool, targets_of(asked[first : first + count])))
            first += count
        seen |= {whole.tobytes(), np.concatenate(parts).tobytes()}
    assert len(seen) == 1


def test_a_step_in_which_nothing_is_asked_still_writes_its_keys(steps_of_threads):
    step, pool = steps_of_threads[0], pool_of(steps_of_threads[0])
    rows = rows_of([([5, 6, 7], 0, TABLE)], wanted=[])
    assert step.log_probs(rows, pool, targets_of([])).shape == (0,)
    assert pool.layers[-1].keys.any()


def test_logits_that_are_no_numbers_are_none_here(steps_of_threads):
    step, pool = steps_of_threads[0], pool_of(steps_of_threads[0])
    rows = rows_of([([5], 0, TABLE)])
    step.log_probs(rows, pool, targets_of([[1]]))
    pool.layers[0].values[:] = np.nan
    rows = rows_of([([6], 1, TABLE)])
    assert np.isnan(step.log_probs(rows, pool, targets_of([[1]]))).all()
