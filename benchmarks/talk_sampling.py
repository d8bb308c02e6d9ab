"""What makes talking with a small model bearable: sampling against answers that go round.

Twelve everyday questions with several seeds each. An answer went round if its end repeats itself as
`treadle chat` understands it (`RepeatWatch`), which is not stopped here.

Usage: python benchmarks/talk_sampling.py [--seeds 4] [--max-tokens 1024]
"""

import argparse
from typing import Any

import numpy as np
import store

from treadle.runtime import LLM, SamplingParams
from treadle.runtime.answer.outputs import RequestOutput
from treadle.runtime.answer.talk import TALK, RepeatWatch

QUESTIONS = (
    "What is a treadle?",
    "What is the capital of France?",
    "Explain photosynthesis to a child.",
    "Write a haiku about weaving.",
    "Tell me a story about a fox.",
    "List ten fruits.",
    "How do I boil an egg?",
    "Write a Python function that adds two numbers.",
    "What is 7 times 8?",
    "Why is the sky blue?",
    "Give me advice on learning the piano.",
    "Who are you?",
)
WARM = {"temperature": 0.7, "top_p": 0.9}
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 0": {"temperature": 0.0},
    "temperature 0.2, top_p 0.9": {**WARM, "temperature": 0.2},
    "temperature 0.7, top_p 0.9": WARM,
    "treadle chat": dict(TALK),
    "repetition penalty 1.1": {**WARM, "min_p": 0.05, "repetition_penalty": 1.1},
    "presence penalty 1": {**WARM, "min_p": 0.05, "presence_penalty": 1.0},
    "frequency penalty 0.1": {**WARM, "min_p": 0.05, "frequency_penalty": 0.1},
}


def measured(outputs: list[RequestOutput]) -> dict[str, float]:
    """Return how answers ended, and how much of them is said once."""
    went_round, distinct = [], []
    for output in outputs:
        answer = output.outputs[0]
        watch = RepeatWatch()
        went_round.append(watch.feed(answer.text))
        ids = answer.token_ids
        runs = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
        distinct.append(len(set(runs)) / max(1, len(runs)))
    return {
        "ended_fraction": float(np.mean([o.outputs[0].finish_reason == "stop" for o in outputs])),
        "went_round_fraction": float(np.mean(went_round)),
        "mean_tokens": float(np.mean([len(o.outputs[0].token_ids) for o in outputs])),
        "distinct_runs_mean": float(np.mean(distinct)),
        "distinct_runs_least": float(np.min(distinct)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--weights", default="q8")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=1024)
    arguments = parser.parse_args()
    llm = LLM(arguments.model, weights=arguments.weights, max_num_seqs=48)
    talks = [llm.prompts.chat([{"role": "user", "content": text}]) for text in QUESTIONS]
    found = {}
    for name, settings in SETTINGS.items():
        seeds = range(1, 1 + (arguments.seeds if settings["temperature"] else 1))
        params = [
            SamplingParams(max_tokens=arguments.max_tokens, seed=seed, **settings)
            for seed in seeds
            for _ in talks
        ]
        found[name] = measured(llm.generate(talks * len(seeds), params))
        print(name, found[name], flush=True)
    content = {"model": arguments.model, "weights": arguments.weights, "seeds": arguments.seeds}
    print(store.write("talk_sampling", {**content, "settings": found}))


if __name__ == "__main__":
    main()
