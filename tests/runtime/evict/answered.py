"""What engines answer and say of prompts, to be compared; not a test itself."""

import numpy as np

from treadle.runtime import LLM, SamplingParams

SCORED = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
SAMPLED = SamplingParams(temperature=1.2, max_tokens=16, ignore_eos=True, seed=3, logprobs=0)


def prompt_logprobs(engine: LLM, prompts: list[list[int]]) -> list[np.ndarray]:
    return [
        np.asarray([one[token] for one, token in zip(out.prompt_logprobs[1:], p[1:], strict=True)])
        for out, p in zip(engine.generate(prompts, SCORED), prompts, strict=True)
    ]


def answers(engine: LLM, prompts: list[list[int]], params: SamplingParams = SAMPLED) -> list:
    return [
        (o.token_ids, [list(entry.values()) for entry in o.logprobs])
        for out in engine.generate(prompts, params)
        for o in out.outputs
    ]


def same(found: list, expected: list, name: str) -> bool:
    """Equal tokens; equal numbers in the native step, whose rows do not look at the batch."""
    if [tokens for tokens, _ in found] != [tokens for tokens, _ in expected]:
        return False
    return name != "native" or found == expected
