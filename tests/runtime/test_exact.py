"""Greedy answers equal those of transformers, whatever happens to a request on its way."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naive import plain_model
from products import few
from runtime.engines import greedy_ties
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.cache.pages import page_bytes
from treadle.runtime.request import RequestState
from treadle.runtime.transformers_step.generic import GenericExecutor

ARCHITECTURES = list(tiny.CONFIGS)
LENGTHS = [1, 2, 15, 16, 17, 31, 33, 40, 48, 64, 5, 9, 70, 22, 80, 3]
NEW = 16
GREEDY = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
ONE_MIB = 2**20


def prompts() -> list[list[int]]:
    draw = np.random.default_rng(7)
    common = draw.integers(1, 320, 40).tolist()
    # Every second one starts like the others, so that prefixes are shared.
    return [
        (common[:length] if place % 2 else [])
        + draw.integers(1, 320, length - (min(length, 40) if place % 2 else 0)).tolist()
        for place, length in enumerate(LENGTHS)
    ]


class Case:
    """One architecture: its folder, the reference, and the check of answers against it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, plain_model(folder)
        self.executor = GenericExecutor.from_folder(folder)
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}

    def engine(self, **settings: object) -> LLM:
        return LLM(
            self.folder,
            **{"cache_bytes": ONE_MIB, "kv_dtype": "fp32", "executor": self.executor, **settings},
        )

    def check(self, prompt: list[int], answer: list[int]) -> int:
        key = (tuple(prompt), tuple(answer))
        if key not in self._known:
            self._known[key] = greedy_ties(self.model, prompt, answer)
        return self._known[key]

    def check_all(self, engine: LLM, asked: list[list[int]]) -> list:
        found = engine.generate(asked, GREEDY)
        ties = sum(
            self.check(prompt, out.outputs[0].token_ids)
            for prompt, out in zip(asked, found, strict=True)
        )
        assert ties <= len(asked)  # a tie is an exception, or the comparison proves nothing
        assert all(len(out.outputs[0].token_ids) == NEW for out in found)
        return found


DRIVEN = pytest.mark.parametrize(
    "case", few(ARCHITECTURES, "llama", "gpt2", "gemma2", "mixtral"), indirect=True
)
"""What the engine does around any architecture's step is tried on some."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tiny_model) -> Case:
    return Case(tiny_model(request.param))


@pytest.fixture(scope="module")
def llama_case(tiny_model) -> Case:
    return Case(tiny_model("llama"))


def pages(case: Case, count: int) -> int:
    """Bytes of a cache of `count` pages."""
    shape = case.executor.shape
    return count * page_bytes(shape.kv_heads, shape.head_dim, 16, "fp32")


def test_plain_equals_generate(case):
    """The very function that users call, on prompts of several lengths, sixteen at once."""
    asked = prompts()
    found = case.check_all(case.engine(), asked)
    for prompt, out in list(zip(asked, found, strict=True))[::8]:
        tokens = torch.tensor([prompt])
        reference = case.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
        )[0, len(prompt) :].tolist()
        assert out.outputs[0].token_ids == reference or case.check(prompt, reference)


@DRIVEN
def test_one_at_a_time_and_by_prefix(case):
    engine = case.engine(max_num_seqs=1)
    asked = prompts()[9:12]
    case.check_all(engine, asked)
    again = case.check_all(engine, asked)
    cached = [out.outputs[0].num_cached_tokens for out in again]
    assert cached == [(len(prompt) - 1) // 16 * 16 for prompt in asked]


@DRIVEN
def test_small_chunks(case):
    settings = {"max_num_seqs": 3, "max_num_batched_tokens": 7}
    case.check_all(case.engine(**settings), prompts()[6:9])


@DRIVEN
@pytest.mark.parametrize(
    ("preemption", "enable_prefix_caching"), [("recompute", True), ("swap", False)]
)
def test_preempted_and_resumed(case, preemption, enable_prefix_caching):
    engine = case.engine(
        cache_bytes=pages(case, 7),
        preemption=preemption,
        enable_prefix_caching=enable_prefix_caching,
        watermark_fraction=0,
    )
    found = case.check_all(engine, prompts()[5:10])
    assert sum(out.outputs[0].num_preemptions for out in found) > 0
    assert engine.load_report().num_free_pages + engine.load_report().num_cached_pages == 7


@DRIVEN
def test_cancelled_neighbours(case):
    engine = case.engine(max_num_batched_tokens=48)
    asked = prompts()[::2]
    requests = [engine.submit(prompt, GREEDY)[0] for prompt in asked]
    for number in range(5):
        engine.step()
        engine.cancel(requests[number].id)
    while any(r.state is not RequestState.FINISHED for r in requests):
        engine.step()
    for prompt, request in zip(asked, requests, strict=True):
        if request.outputs:
            case.check(prompt, request.outputs)
    assert [r.finish_reason for r in requests[5:]] == ["length"] * 3


@pytest.mark.parametrize("chunk", few([1, 2, 5, 13, 64], 2, 13))
def test_more_chunk_sizes(llama_case, chunk):
    settings = {"max_num_seqs": min(2, chunk), "max_num_batched_tokens": chunk}
    llama_case.check_all(llama_case.engine(**settings), prompts()[5:11])


@pytest.mark.parametrize("page_size", [1, 3, 16, 64])
def test_any_page_size(llama_case, page_size):
    llama_case.check_all(llama_case.engine(page_size=page_size), prompts()[5:11])


def test_neighbours_of_the_window(tiny_model):
    """Contexts that end just before, at and behind the sliding window of 24."""
    case = Case(tiny_model("mistral"))
    draw = np.random.default_rng(3)
    asked = [draw.integers(1, 320, length).tolist() for length in range(20, 28)]
    case.check_all(case.engine(max_num_batched_tokens=16), asked)


@pytest.mark.parametrize(("kv_dtype", "tolerance"), [("fp16", 5e-3), ("int8", 1.5e-1)])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_narrow_cache_within_tolerance(tiny_model, kv_dtype, tolerance, architecture):
    """Logprobs of the prompt, read through the narrow cache, against transformers in fp32."""
    case = Case(tiny_model(architecture))
    prompt = prompts()[9]
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    engine = case.engine(kv_dtype=kv_dtype, max_num_batched_tokens=16)
    (out,) = engine.generate([prompt], params)
    with torch.no_grad():
        logits = case.model(input_ids=torch.tensor([prompt])).logits[0, :-1]
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
    found = torch.tensor(
        [entry[token] for entry, token in zip(out.prompt_logprobs[1:], prompt[1:], strict=True)]
    )
    assert float((found - expected).abs().max()) < tolerance
