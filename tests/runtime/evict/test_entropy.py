"""The tokens that were hard to foresee stay."""

import numpy as np
import pytest

from runtime.evict.seen import CHUNK, TOKENS, best, see
from runtime.kept import cached_of
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.evict.methods.entropy import Entropy


def surprises(folder, executor) -> np.ndarray:
    llm = LLM(folder, executor=executor, cache_bytes=2**20, kv_dtype="fp32")
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    (out,) = llm.generate([TOKENS], asked)
    own = [-entry[t] for entry, t in zip(out.prompt_logprobs[1:], TOKENS[1:], strict=True)]
    return np.asarray([0.0, *own])


def test_it_keeps_what_was_hard_to_foresee(retained, stepping):
    seen = see(retained, stepping, {"method": "entropy", "sinks": 2, "window": 4}, 14)
    worth = surprises(retained, stepping)[:CHUNK]
    expected = best(worth[None], 14, 2, 4)[0]
    assert seen.kept == [expected] * len(seen.kept)


def test_old_tokens_fade():
    positions = np.asarray([[0, 9, 19]], np.int32)
    noted = {"surprises": np.full(20, 2.0, np.float32)}
    found = Entropy(chunk_tokens=10, decay=0.5).score(cached_of(positions, (1,), 20, **noted))
    assert found.tolist() == [[1.0, 1.0, 2.0]]


@pytest.mark.parametrize("told", [None, 0])
def test_a_preempted_text_knows_what_it_knew(retained, stepping, told):
    """Logits of the prompt are told or not, and rows run again: the same entries stay."""
    keep = {"method": "entropy", "chunk_tokens": 16, "sinks": 1, "window": 2}
    asked = SamplingParams(
        max_tokens=24, temperature=1.1, seed=1, ignore_eos=True, prompt_logprobs=told
    )

    def answer(**settings) -> list[int]:
        options = {"cache_bytes": 2**20, "kv_dtype": "fp32", **settings}
        llm = LLM(retained, executor=stepping, keep=keep, keep_budget=9, **options)
        (request,) = llm.submit(TOKENS[:37], asked)
        if settings:
            for _ in range(12):
                llm.step()
            llm._batch.preemption.restart(request)
        while request.finish_reason is None:
            llm.step()
        told_of = [list(entry) for entry in request.prompt_logprobs]
        assert len(told_of) == (0 if told is None else 36)
        return request.outputs

    assert answer() == answer(max_num_batched_tokens=5)


def test_it_keeps_more_surprise_than_chance(retained, stepping):
    worth = surprises(retained, stepping)
    keeps = ({"method": "entropy", "sinks": 0, "window": 0}, {"method": "random", "spread": 0.0})
    own, other = (see(retained, stepping, keep, 12).kept for keep in keeps)
    assert np.mean(worth[own]) > np.mean(worth[other])
