"""Bundles of tiny models; not a test itself."""

import json
from pathlib import Path

import numpy as np

from combine.merge.models import variant
from treadle.combine.merge import merge_conflict
from treadle.core.checkpoint import CheckpointReader
from treadle.core.codec import Array
from treadle.runtime import LLM, SamplingParams

KINDS = {
    "sums": [f"{n}+{n + 3}=" for n in range(24)],
    "words": [f"after {word} comes:" for word in "the of and to in that is was he it as on".split()]  # noqa: SIM905
    * 2,
}


def variants(base: Path, folder: Path, count: int = 2) -> list[Path]:
    return [variant(base, folder / f"e{n}", n, 0.3) for n in range(1, count + 1)]


def questions(folder: Path) -> list[str]:
    """Two files, each of one kind of prompts."""
    files = []
    for name, prompts in KINDS.items():
        file = folder / f"{name}.jsonl"
        rows = [{"prompt": p + " " * (n // 12), "answer": " a"} for n, p in enumerate(prompts)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(str(file))
    return files


def whole(base: Path, models: list[Path], out: Path, **settings: object) -> Path:
    """All layers of all models, unless the settings say otherwise."""
    merge_conflict(list(models), out, base=base, **{"route_fraction": 1.0, **settings})
    return out


def arrays(folder: Path) -> dict[str, Array]:
    with CheckpointReader(folder) as reader:
        return {name: np.array(reader.array(name)) for name in reader.tensors}


PROMPTS = [[5, 6, 7], [9] * 40, [11, 3, 8, 30, 31], [4, 4, 12]]
GREEDY = SamplingParams(max_tokens=6, temperature=0, logprobs=1, ignore_eos=True)


def logprobs(llm: LLM, adapter: str | list[str | None] | None = None) -> np.ndarray:
    found = llm.generate(PROMPTS, GREEDY, adapter=adapter)
    return np.array([[max(one.values()) for one in o.outputs[0].logprobs] for o in found])
