"""Beam search: as written in loops, as transformers does it, and better than greedy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import plain_model, tokens_of
from runtime.decode.toy import PROMPT, answers, logprob_of, logs_after, searched
from treadle.core.errors import DataError, SettingsError
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.decode.methods.beam import Beam
from treadle.runtime.decode.tables import CONTROLLERS

EARLY = {"enough": True, "heuristic": False, "never": "never"}


def naive(width: int, penalty: float, early: str, ends: set[int], most: int) -> list:
    """Texts and scores, best first: every continuation of every beam, sorted."""
    beams, pool = [(0.0, [])], []
    for length in range(1, most + 1):
        every = [
            (total + logs[token], [*text, token])
            for total, text in beams
            for logs in [logs_after([*PROMPT, *text])]
            for token in range(len(logs))
        ]
        best = sorted(every, key=lambda one: -one[0])[: max(2, 1 + len(ends)) * width]
        is_end = [text[-1] in ends or length == most for _, text in best]
        pool += [
            (total / length**penalty, text)
            for (total, text), ended in list(zip(best, is_end, strict=True))[:width]
            if ended
        ]
        pool = sorted(pool, key=lambda one: -one[0])[:width]
        beams = [one for one, ended in zip(best, is_end, strict=True) if not ended][:width]
        if not beams:
            break
        if len(pool) == width:
            reached = most if early == "never" and penalty > 0 else length
            if early == "enough" or beams[0][0] / reached**penalty <= pool[-1][0]:
                break
    return pool


@settings(max_examples=40)
@given(
    width=st.integers(1, 4),
    penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
    early=st.sampled_from(list(EARLY)),
    num_ends=st.integers(0, 40),
    most=st.integers(1, 6),
)
def test_it_finds_what_loops_find(width, penalty, early, num_ends, most):
    ends = set(range(5, 5 + num_ends))
    method = Beam(width=width, length_penalty=penalty, early_stopping=early)
    found = searched(method, most, ends=frozenset(ends))
    expected = naive(width, penalty, early, ends, most)
    assert answers(found) == [text for _, text in expected]
    scores = [found.tree.node(number).score for number in found.ranked]
    np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("early", "penalty", "max_tokens"),
    [("heuristic", 1.0, 12), ("enough", 0.5, 20), ("never", 2.0, 16), ("heuristic", 0.0, 20)],
)
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_it_finds_what_transformers_finds(model_type, early, penalty, max_tokens, tiny_model):
    folder = tiny_model(model_type)
    model, llm = plain_model(folder), LLM(folder, kv_dtype="fp32", cache_bytes=2**21)
    num_ties = 0
    for prompt in (row.tolist() for row in tokens_of(3, 30)):
        tokens = torch.tensor([prompt])
        ends = [0, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]  # or a random model ends nothing
        expected = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=max_tokens,
            do_sample=False,
            length_penalty=penalty,
            early_stopping=EARLY[early],
            eos_token_id=ends,
            pad_token_id=319,
            return_dict_in_generate=True,
            output_scores=True,
        )
        method = Beam(width=4, length_penalty=penalty, early_stopping=early)
        found = search(llm, prompt, method, max_tokens, ends)
        scores = expected.sequences_scores.tolist()
        np.testing.assert_allclose([b.score for b in found.branches], scores, atol=2e-4)
        for place, branch in enumerate(found.branches):
            right = [t for t in expected.sequences[place, len(prompt) :].tolist() if t != 319]
            gaps = [abs(scores[place] - s) for n, s in enumerate(scores) if n != place]
            if branch.token_ids != right:
                assert min(gaps) < 1e-3, "no tie explains it"
                num_ties += 1
    assert num_ties <= 1


def search(llm: LLM, prompt, method, max_tokens, ends):
    """`LLM.search` with other end tokens than the model's."""
    own, llm.prompts.eos_tokens = llm.prompts.eos_tokens, frozenset(ends)
    try:
        return llm.search(prompt, method, max_tokens=max_tokens)
    finally:
        llm.prompts.eos_tokens = own


def test_one_beam_is_greedy_and_more_beams_are_better():
    def best(width: int, first: int) -> list[int]:
        return answers(searched(Beam(width=width), 8, prompt=[first, 2]))[0]

    gains = []
    for first in range(12):
        greedy = [first, 2]
        for _ in range(8):
            greedy.append(int(logs_after(greedy).argmax()))
        assert best(1, first) == greedy[2:]
        gains.append(logprob_of(best(4, first), [first, 2]) - logprob_of(greedy[2:], [first, 2]))
    assert np.mean(gains) > 0.5
    assert min(gains) > -1


def test_it_shares_and_gives_back_what_it_prunes():
    found = searched(Beam(width=4), 8)
    alone = sum(node.end - node.num_unrun for node in found.tree.ends())
    assert found.num_rows < alone / 2
    assert len(found.tree.nodes) < 4 * 8 + 5
    depth = max(len(found.tree.path(number)) for number in found.ranked)
    assert depth <= 1 + 4 + 1  # the prompt, no more forks than beams live, the last token


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_more_beams_than_the_vocabulary_has_tokens(max_tokens):
    found = searched(Beam(width=100), max_tokens)
    assert len(found.ranked) == (97 if max_tokens == 1 else 100)


def test_beams_by_sampling_params(llama):
    llm = LLM(llama, kv_dtype="fp32", cache_bytes=2**21)
    prompt, params = list(range(9, 40)), SamplingParams(n=3, beam_width=4, max_tokens=9)
    plain = SamplingParams(temperature=0, max_tokens=9)
    beams, other = llm.generate([prompt, prompt], [params, plain])
    tree = llm.search(prompt, {"method": "beam", "width": 4}, max_tokens=9)
    assert [a.token_ids for a in beams.outputs] == [b.token_ids for b in tree.branches[:3]]
    assert [a.text for a in beams.outputs] == [b.text for b in tree.branches[:3]]
    assert [a.index for a in beams.outputs] == [0, 1, 2]
    assert beams.finished
    assert beams.prompt_token_ids == prompt
    assert other.outputs[0].token_ids == llm.generate([prompt], plain)[0].outputs[0].token_ids
    assert params.temperature == 0
    assert SamplingParams.from_dict(params.to_dict()) == params
    with_stop = SamplingParams(n=2, beam_width=2, stop_token_ids=[beams.outputs[0].token_ids[0]])
    (stopped,) = llm.generate([prompt], with_stop)
    assert any(answer.finish_reason == "stop" for answer in stopped.outputs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_width": 0}, r"beam_width=0, expected at least 1"),
        ({"beam_width": 2, "n": 3}, r"n=3, expected at most beam_width=2"),
        ({"beam_width": 2, "temperature": 0.5}, r"temperature=0.5, expected 0 beside beam_width"),
        ({"beam_width": 2, "top_p": 0.9}, r"top_p=0.9 has no effect on a beam search; leave top_p"),
        ({"beam_width": 2, "stop": "x"}, r"stop=\('x',\) has no effect on a beam search"),
        ({"beam_width": 2, "logprobs": 1}, r"logprobs=1 has no effect"),
        ({"beam_width": 2, "seed": 1}, r"seed=1 has no effect"),
    ],
)
def test_what_a_beam_search_does_not_do_is_refused(given, message):
    with pytest.raises(SettingsError, match=message):
        SamplingParams(**given)


def test_beams_are_no_single_request(llama):
    llm = LLM(llama, cache_bytes=2**20)
    with pytest.raises(SettingsError, match=r"beam_width=2, expected None here"):
        llm.submit([1, 2], SamplingParams(beam_width=2))
    with pytest.raises(DataError, match=r"stop_token_ids names token 999"):
        llm.generate([[1, 2]], SamplingParams(beam_width=2, stop_token_ids=[999]))
    with pytest.raises(SettingsError, match=r"'beam'.*width.*0|width=0"):
        CONTROLLERS.resolve({"method": "beam", "width": 0})
    assert llm.load_report().num_waiting == 0
