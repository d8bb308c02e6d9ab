"""Prompts and answers like those that `treadle evaluate recall` asks, for `sparsify --pairs`.

Texts are drawn by seeds of their own (from 1000 on), so that none is one that recall asks about
with its own seeds. A pair is a text and, as its answer, all questions about it with their answers:
of one question alone each needle would mostly be worth nothing, and that is what a median learns.
Token ids, so that nothing is cut anew.

Usage: python benchmarks/recall_pairs.py MODEL OUT.jsonl [--context-tokens 512] [--num-questions 64]
[--seeds 4]
"""

import argparse
import json
from pathlib import Path

from treadle.judge.evaluate.methods.recall import Recall
from treadle.model.load import load_tokenizer, resolve

_FIRST_SEED = 1000


def main() -> None:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--context-tokens", type=int, default=512)
    parser.add_argument("--num-questions", type=int, default=64, help="of each kind and seed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--data", default="")
    asked = parser.parse_args()
    tokenizer = load_tokenizer(resolve(asked.model))
    with asked.out.open("w") as file:
        for seed in range(_FIRST_SEED, _FIRST_SEED + asked.seeds):
            task = Recall(
                context_tokens=asked.context_tokens,
                num_questions=asked.num_questions,
                text_seed=seed,
            )
            asks = task.prepare(asked.data, tokenizer)
            texts: dict[tuple[int, ...], list[int]] = {}
            for prompt, answer in zip(asks.prompts, asks.answers, strict=True):
                text, question = tuple(prompt[: asks.num_kept]), prompt[asks.num_kept :]
                texts.setdefault(text, []).extend([*question, *answer])
            for text, asked_of_it in texts.items():
                file.write(json.dumps({"prompt": text, "answer": asked_of_it}) + "\n")


if __name__ == "__main__":
    main()
