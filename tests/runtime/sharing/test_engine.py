"""Texts that share pages in an engine: equal answers in every mode, and what is counted."""

import pytest

from naive import tokens_of
from treadle.core.errors import SettingsError
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.sharing.plan import EXACT, MODES

needs_kernel = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)


def answers(llm: LLM, starts: int = 3):
    """Texts of which some share a start of 100 tokens, and some do not."""
    shared = tokens_of(starts, 100, seed=5).tolist()
    own = tokens_of(12, 9, seed=6).tolist()
    prompts = [shared[n % starts] + tail for n, tail in enumerate(own)]
    llm.generate([[*start, 1] for start in shared], SamplingParams(max_tokens=1))  # cached
    found = [one.outputs[0] for one in llm.generate(prompts, PARAMS)]
    probs = [p for one in found for entry in one.logprobs for p in entry.values()]
    return [one.token_ids for one in found], probs


@needs_kernel
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_no_mode_changes_an_answer_and_exact_ones_no_bit(kind, tiny_model):
    extra = {"sliding_window": 40} if kind == "mistral" else {}
    folder = tiny_model(kind, max_position_embeddings=256, **extra)
    settings = {"kv_dtype": "fp32", "num_threads": 2}
    tokens, probs = answers(LLM(folder, tree_attention="path", **settings))
    for mode in MODES:
        llm = LLM(folder, tree_attention=mode, **settings)
        found, other = answers(llm)
        assert found == tokens, mode
        assert (other == probs) if mode in EXACT else other == pytest.approx(probs, abs=1e-4)


@needs_kernel
def test_what_texts_share_is_read_once_and_counted(llama):
    llm = LLM(llama, tree_attention="flatten", kv_dtype="fp16", num_threads=1)
    answers(llm)
    report = llm.load_report()
    assert 0 < report.kv_read_bytes < 0.7 * report.kv_path_bytes
    apart = LLM(llama, tree_attention="path", kv_dtype="fp16", num_threads=1)
    answers(apart)
    other = apart.load_report()
    assert other.kv_read_bytes == other.kv_path_bytes == report.kv_path_bytes


@needs_kernel
def test_auto_shares_where_starts_are_long_and_branches_are_many(llama):
    """The machine's own measurements decide: many rows behind much text, and two behind little."""
    from treadle.runtime.native_step.llama import LlamaStep

    step = LlamaStep(llama, "fp32", 1)
    llm = LLM(llama, executor=step, cache_bytes=2**24)
    (start,) = tokens_of(1, 96, seed=5).tolist()
    llm.generate([[*start, n] for n in range(2)], SamplingParams(max_tokens=2))
    assert step.sharing.last is None  # two branches of a tiny model: a plan would cost more


def test_a_mode_that_is_none_is_refused(llama):
    with pytest.raises(SettingsError, match="No tree_attention 'flaten'"):
        LLM(llama, tree_attention="flaten")
