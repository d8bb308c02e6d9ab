"""What the right answers attend to in their prompts: the scores of an oracle."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treadle.core.progress import steps
from treadle.judge.evaluate.budgets import Asks

if TYPE_CHECKING:
    from treadle.runtime.probe import LayerInputs, Observable

__all__ = ["measure_oracle"]


def measure_oracle(executor: "Observable", asks: Asks, file: Path) -> None:
    """Write the scores of all prompts, as the oracle reads them.

    The score of an entry is the largest product, before the softmax, of its key with the queries
    that choose the right answer's tokens, among a KV head's query heads; nothing is evicted.
    """
    from safetensors.numpy import save_file

    from treadle.runtime.evict.cached import prompt_key
    from treadle.runtime.probe import Probe, probe_text

    found = {}
    with steps("measure what answers attend to", len(asks.prompts)) as bar:
        for prompt, answer in zip(asks.prompts, asks.answers, strict=True):
            asked = Probe(None, has_states=False, has_inputs=True)
            inputs = probe_text(executor, [*prompt, *answer[:-1]], asked).inputs
            assert inputs is not None
            layers = [_scores(layer, len(prompt) - 1, asks.num_kept) for layer in inputs]
            found[prompt_key(prompt)] = np.concatenate(layers)
            bar.advance()
    save_file(found, file)


def _scores(layer: "LayerInputs", first_row: int, num_kept: int) -> npt.NDArray[np.float32]:
    """Return the scores [kv_heads, num_kept] in a layer."""
    keys = layer.turned_keys[:num_kept].transpose(1, 2, 0)  # [kv_heads, dim, kept]
    queries = layer.turned_queries[first_row:]
    grouped = queries.reshape(len(queries), len(keys), -1, queries.shape[-1]).transpose(1, 0, 2, 3)
    scores = grouped.reshape(len(keys), -1, keys.shape[1]) @ keys
    largest: npt.NDArray[np.float32] = scores.max(axis=1) * np.float32(layer.scale)
    return largest
