"""The bound: what is known to matter stays."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.evict.seen import CHUNK, TOKENS, best, see
from treadle.core.errors import SettingsError
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.evict.cached import prompt_key


@pytest.fixture
def known(tmp_path, stepping):
    """A file of scores of one prompt, and the scores."""
    heads = sum(stepping.shape.kv_heads)
    scores = np.random.default_rng(2).random((heads, len(TOKENS)), np.float32)
    save_file({prompt_key(TOKENS): scores}, tmp_path / "oracle.safetensors")
    return str(tmp_path / "oracle.safetensors"), scores


def test_it_keeps_what_it_was_told(retained, stepping, known):
    keep = {"method": "oracle", "path": known[0], "sinks": 1, "window": 2}
    assert see(retained, stepping, keep, 12).kept == best(known[1][:, :CHUNK], 12, 1, 2)


def test_generated_tokens_stay(retained, stepping, known):
    keep = {"method": "oracle", "path": known[0], "chunk_tokens": 10, "sinks": 0, "window": 0}
    llm = LLM(retained, executor=stepping, keep=keep, keep_budget=30, cache_bytes=2**20)
    asked = SamplingParams(max_tokens=22, temperature=0, ignore_eos=True)
    (request,) = llm.submit(TOKENS, asked)
    while request.num_computed < len(TOKENS) + 20:
        llm.step()
    positions = request.entries.positions(llm._batch.pool.store)
    assert all(set(range(60, 80)) <= set(row.tolist()) for row in positions)


def test_a_prompt_that_was_not_measured_is_refused(retained, stepping, known, tmp_path):
    keep = {"method": "oracle", "path": known[0], "chunk_tokens": 10, "sinks": 0, "window": 0}
    llm = LLM(retained, executor=stepping, keep=keep, keep_budget=5, cache_bytes=2**20)
    with pytest.raises(SettingsError, match=r"holds no scores of a prompt of 59 tokens"):
        llm.generate([TOKENS[1:]], SamplingParams(max_tokens=1))
    keep["path"] = str(tmp_path / "none")
    llm = LLM(retained, executor=stepping, keep=keep, keep_budget=5, cache_bytes=2**20)
    with pytest.raises(SettingsError, match=r"No file .*none"):
        llm.generate([TOKENS], SamplingParams(max_tokens=1))
    del keep["path"]
    llm = LLM(retained, executor=stepping, keep=keep, keep_budget=5, cache_bytes=2**20)
    with pytest.raises(SettingsError, match=r"ask by evaluate recall"):
        llm.generate([TOKENS], SamplingParams(max_tokens=1))


def test_it_knows_a_text_that_begins_with_a_measured_prompt(retained, stepping, known):
    """Behind it the tokens that nobody scored stay."""
    keep = {"method": "oracle", "path": known[0], "chunk_tokens": 64, "sinks": 0, "window": 0}
    llm = LLM(retained, executor=stepping, keep=keep, keep_budget=20, cache_bytes=2**20)
    (request,) = llm.submit([*TOKENS, 5, 6, 7, 8, 9], SamplingParams(max_tokens=1))
    while request.num_computed < 64:
        llm.step()
    positions = request.entries.positions(llm._batch.pool.store)
    for row, scores in zip(positions, known[1], strict=True):
        best = np.argsort(scores)[-16:]
        assert set(row[row >= 0].tolist()) == {60, 61, 62, 63, *best.tolist()}
