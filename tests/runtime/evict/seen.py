"""One text up to its first eviction, beside what a step over all of it shows; not a test itself."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from naive import tokens_of
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.executor import Executor
from treadle.runtime.probe import LayerInputs, Probe, probe_text

CHUNK = 40
TOKENS = tokens_of(1, 60)[0].tolist()


class Seen(NamedTuple):
    """What happened to a text."""

    kept: list[list[int]]
    """Positions that each KV head kept, ascending."""
    mass: list[np.ndarray]
    """[rows, heads, slots] of each layer, of a step over the whole text."""
    inputs: tuple[LayerInputs, ...]
    """Of the first chunk."""
    kv_heads: tuple[int, ...]

    def mass_of_rows(self, first: int, last: int) -> np.ndarray:
        """[kv_heads, group, rows, CHUNK] attention of rows, of all layers."""
        parts = []
        for layer, heads in zip(self.mass, self.kv_heads, strict=True):
            own = layer[first:last, :, :CHUNK]
            parts.append(own.reshape(last - first, heads, -1, CHUNK).transpose(1, 2, 0, 3))
        return np.concatenate(parts)

    def later_mass(self) -> float:
        """The attention of the tokens behind the chunk that falls on what was kept."""
        mass = self.mass_of_rows(CHUNK, len(TOKENS)).mean((1, 2))
        return float(np.mean([row[own].sum() for row, own in zip(mass, self.kept, strict=True)]))


def see(
    folder: Path, executor: Executor, keep: dict[str, object], budget: int | None, **settings
) -> Seen:
    """Run a text until entries went once."""
    options = {"cache_bytes": 2**20, "kv_dtype": "fp32", "max_num_batched_tokens": 7, **settings}
    keep = {"chunk_tokens": CHUNK, **keep}
    llm = LLM(folder, executor=executor, keep=keep, keep_budget=budget, **options)
    (request,) = llm.submit(TOKENS, SamplingParams(max_tokens=1, temperature=0))
    while request.num_computed < CHUNK:
        llm.step()
    assert request.num_computed == CHUNK
    positions = request.entries.positions(llm._batch.pool.store)
    kept = [sorted(row[row >= 0].tolist()) for row in positions]
    llm.close([request])
    mass = probe_text(executor, TOKENS, Probe("rows", has_states=False)).mass
    asked = Probe(None, has_states=False, has_inputs=True)
    inputs = probe_text(executor, TOKENS[:CHUNK], asked).inputs
    return Seen(kept, list(mass), inputs, executor.shape.kv_heads)


def best(scores: np.ndarray, budget: int, sinks: int, window: int) -> list[list[int]]:
    """The positions of each head's highest scores, sinks and window among them, in loops."""
    found = []
    for row in scores:
        always = [p for p in range(CHUNK) if p < sinks or p >= CHUNK - window]
        others = sorted((p for p in range(CHUNK) if p not in always), key=lambda p: (row[p], p))
        found.append(sorted(always + others[len(others) - (budget - len(always)) :]))
    return found
