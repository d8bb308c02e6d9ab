"""Sampling against a plain reading of each filter, and its independence of everything around."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from treadle.core.errors import SettingsError
from treadle.runtime import SamplingParams
from treadle.runtime.answer.sample import choose, distribution, logprobs_of, penalised, request_key
from treadle.runtime.request import Request

VOCAB = 12


def asking(params: SamplingParams, tokens: list[int], num_prompt: int, key: int = 1) -> Request:
    return Request("r", tokens, num_prompt, params, key)


def some_logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, VOCAB).astype(np.float32)


def normal(values: np.ndarray) -> np.ndarray:
    return values / values.sum()


@given(
    arrays.arrays(np.float32, VOCAB, elements=st.floats(-8, 8, width=16), unique=True),
    st.floats(0.2, 3),
    st.integers(0, VOCAB),
    st.floats(0.05, 1),
    st.floats(0, 0.9),
)
def test_filters_equal_those_of_transformers(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found = normal(distribution(logits.astype(np.float64), params))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    kept = torch.softmax(scores, -1).sort(descending=True).values.cumsum(-1)
    if bool(((kept - top_p).abs() < 1e-6).any()):
        return  # the sum meets top_p to the last digits: either answer is right
    scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
    scores = MinPLogitsWarper(min_p)(None, scores) if min_p > 0 else scores
    np.testing.assert_allclose(found, torch.softmax(scores, -1)[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 6.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary(spread, top_p):
    """The part that is sorted first gives what sorting everything gives, with ties and without."""
    draw = np.random.default_rng(1).normal(0, spread, 6000)
    scores = np.round(draw * 4) / 4 if spread == 1.0 else draw
    found = distribution(scores.copy(), SamplingParams(top_p=top_p))
    chances = normal(np.exp(scores - scores.max()))
    order = np.argsort(-chances, kind="stable")
    expected = order[: int(np.searchsorted(np.cumsum(chances[order]), top_p * (1 - 1e-12))) + 1]
    assert abs(np.count_nonzero(found) - expected.size) <= 1  # the sum's last digits
    assert set(np.flatnonzero(found)) ^ set(expected) <= {
        order[expected.size - 1],
        *order[expected.size : expected.size + 1],
    }


def test_draws_follow_the_distribution():
    params = SamplingParams(temperature=0.8, top_k=9, top_p=0.95, min_p=0.02)
    logits = some_logits()
    expected = normal(distribution(logits.astype(np.float64), params))
    drawn = [
        choose(logits, asking(params, [0] * place, 1), frozenset()) for place in range(1, 4001)
    ]
    counts = np.bincount(drawn, minlength=VOCAB)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    assert stats.chisquare(counts[kept], expected[kept] * len(drawn)).pvalue > 0.001


def test_repetition_penalty_is_that_of_transformers():
    params = SamplingParams(repetition_penalty=1.7)
    tokens = [3, 3, 5, 7]
    found = penalised(some_logits(), asking(params, tokens, 2), frozenset())
    expected = RepetitionPenaltyLogitsProcessor(1.7)(
        torch.tensor([tokens]), torch.from_numpy(some_logits())[None].double()
    )
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-6)


def test_presence_and_frequency_count_new_tokens_only():
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    found = penalised(some_logits(), asking(params, [3, 4, 4, 4, 5], 2), frozenset())
    change = np.zeros(VOCAB)
    change[[4, 5]] = [-0.5 - 2 * 0.25, -0.5 - 0.25]
    np.testing.assert_allclose(found, some_logits() + change, atol=1e-6)


def test_bias_moves_and_early_ends_are_banned():
    params = SamplingParams(temperature=0, logit_bias={4: 100}, min_tokens=2)
    request = asking(params, [1, 2], 2)
    assert choose(some_logits(), request, frozenset()) == 4
    assert choose(some_logits(), request, frozenset({4})) != 4
    request.tokens += [5, 6]
    assert choose(some_logits(), request, frozenset({4})) == 4


def test_of_equal_tokens_the_lower_one():
    flat = np.zeros(VOCAB, np.float32)
    assert choose(flat, asking(SamplingParams(temperature=0), [1], 1), frozenset()) == 0
    kept = distribution(flat.astype(np.float64), SamplingParams(top_k=3))
    assert np.flatnonzero(kept).tolist() == [0, 1, 2]


def test_one_token_left_is_taken():
    for params in (SamplingParams(top_k=1), SamplingParams(top_p=1e-6), SamplingParams(min_p=1.0)):
        for place in range(1, 20):
            request = asking(params, [0] * place, 1)
            assert choose(some_logits(), request, frozenset()) == int(np.argmax(some_logits()))


def test_keys_depend_on_what_they_should():
    assert request_key(0, "a", 0, 7) == request_key(5, "b", 0, 7)
    others = {request_key(0, "a", 0, None), request_key(0, "a", 1, None)}
    others |= {
        request_key(0, "b", 0, None),
        request_key(1, "a", 0, None),
        request_key(0, "a", 0, 7),
    }
    assert len(others) == 5


def test_logprobs_hold_the_token_and_the_best():
    found = logprobs_of(some_logits(), 3, 2)
    expected = torch.log_softmax(torch.from_numpy(some_logits()).double(), 0)
    assert set(found) == {3, *expected.topk(2).indices.tolist()}
    assert all(abs(value - float(expected[token])) < 1e-6 for token, value in found.items())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": -1}, r"temperature=-1, expected at least 0"),
        ({"top_p": 0}, r"top_p=0, expected above 0"),
        ({"min_p": 2}, r"min_p=2, expected 0 to 1"),
        ({"top_k": -2}, r"top_k=-2, expected at least -1"),
        ({"n": 0}, r"n=0, expected at least 1"),
        ({"n": 10**9}, r"n=1000000000, expected at most 1024"),
        ({"prompt_logprobs_start": 3}, r"prompt_logprobs_start=3, expected prompt_logprobs beside"),
        ({"max_tokens": 0}, r"max_tokens=0, expected at least 1"),
        ({"presence_penalty": 3}, r"presence_penalty=3, expected -2 to 2"),
        ({"repetition_penalty": 0}, r"repetition_penalty=0, expected above 0"),
        ({"logit_bias": {1: 101}}, r"logit_bias\[1\]=101.0, expected -100 to 100"),
        ({"stop": ""}, r"stop=\('',\), expected strings that are not empty"),
        ({"min_tokens": 9, "max_tokens": 3}, r"min_tokens=9 contradicts max_tokens=3; raise"),
        ({"n": 2, "temperature": 0}, r"n=2 with temperature=0 .*raise the temperature or set n=1"),
        ({"top_p": 0.9, "temperature": 0}, r"top_p=0.9 has no effect at temperature=0.*leave"),
    ],
)
def test_refused_settings(values, says):
    with pytest.raises(SettingsError, match=says):
        SamplingParams(**values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_tokens": 5.5}, r"Found max_tokens=5.5, expected a whole number; change max_tokens"),
        ({"max_tokens": "5"}, r"max_tokens='5', expected a whole number"),
        ({"max_tokens": True}, r"max_tokens=True, expected a whole number"),
        ({"top_k": 2.5}, r"top_k=2.5, expected a whole number"),
        ({"n": "2"}, r"n='2', expected a whole number"),
        ({"n": None}, r"n=None, expected a whole number"),
        ({"logprobs": "a"}, r"logprobs='a', expected a whole number"),
        ({"prompt_logprobs_start": 0}, r"prompt_logprobs_start=0, expected at least 1"),
        ({"seed": "a"}, r"seed='a', expected a whole number"),
        ({"seed": 1.5}, r"seed=1.5, expected a whole number"),
        ({"temperature": "a"}, r"temperature='a', expected a number"),
        ({"temperature": True}, r"temperature=True, expected a number"),
        ({"temperature": float("inf")}, r"temperature=inf, expected a finite number"),
        ({"top_p": float("nan")}, r"top_p=nan, expected a finite number"),
        ({"repetition_penalty": float("inf")}, r"repetition_penalty=inf, expected a finite"),
        ({"ignore_eos": "no"}, r"ignore_eos='no', expected True or False"),
        ({"stop": 5}, r"stop=5, expected a list of strings"),
        ({"stop": [5]}, r"stop=5, expected a text"),
        ({"stop": b"a"}, r"stop=b'a', expected a list of strings"),
        ({"stop_token_ids": 5}, r"stop_token_ids=5, expected a list of token ids"),
        ({"stop_token_ids": [1.5]}, r"stop_token_ids=1.5, expected a whole number"),
        ({"logit_bias": [1]}, r"logit_bias=\[1\], expected a mapping of token ids to numbers"),
        ({"logit_bias": {"5": 100}}, r"a token of logit_bias='5', expected a whole number"),
        ({"logit_bias": {5: "a"}}, r"logit_bias\[5\]='a', expected a number"),
        ({"structured_outputs": "x"}, r"structured_outputs='x', expected StructuredOutputs"),
        ({"stop": ["a" * 900, ""]}, r"stop=\('aaaa.*a\.\.\., expected strings that"),
    ],
)
def test_values_of_another_type_are_refused(values, says):
    with pytest.raises(SettingsError, match=says):
        SamplingParams(**values)


def test_numbers_of_numpy_are_numbers():
    found = SamplingParams(
        max_tokens=np.int64(3),
        temperature=np.float32(0.5),
        seed=np.uint64(2**63),
        stop_token_ids=np.array([4, 5]),
        logit_bias={np.int32(7): np.float64(1)},
        stop=None,
    )
    plain = SamplingParams(
        max_tokens=3, temperature=0.5, seed=2**63, stop_token_ids=(4, 5), logit_bias={7: 1}
    )
    assert found == plain
    assert json.loads(json.dumps(found.to_dict())) == json.loads(json.dumps(plain.to_dict()))


def test_misspelt_setting_is_answered_with_the_near_one():
    with pytest.raises(SettingsError, match=r"No sampling parameter 'max_token'.*max_tokens"):
        SamplingParams.from_dict({"max_token": 3})


def test_a_request_survives_json():
    params = SamplingParams(n=2, stop="x", logit_bias={3: 1.5}, stop_token_ids=[4], logprobs=1)
    request = asking(params, [1, 2, 3], 2, key=2**62 + 1)
    request.logprobs.append({3: -0.25})
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again.to_dict() == request.to_dict()
    assert again.params == params
