"""What holds of every policy whose entries trained heads score; not a test itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.evict.seen import CHUNK, Seen, best, see
from runtime.retained import with_heads
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model.retaining import LayerHeads, read_heads
from treadle.runtime import LLM
from treadle.runtime.executor import Executor
from treadle.runtime.probe import LayerInputs

Concluded = Callable[[LayerHeads, np.ndarray, LayerInputs], np.ndarray]


class Foretold:
    """A policy, a model that carries its heads, and what its heads make of a token in plain loops.

    Args:
        policy: Its name.
        concluded: From what the first matrix gives of a token to its scores [kv_heads].
        folder: Of the model.
        executor: Of the model.
    """

    def __init__(self, policy: str, concluded: Concluded, folder: Path, executor: Executor) -> None:
        self._policy, self._concluded = policy, concluded
        self._folder, self._executor = folder, executor

    def see(self, budget: int | None, **settings: Any) -> Seen:
        return see(self._folder, self._executor, {"method": self._policy, **settings}, budget)

    def worth(self, seen: Seen) -> np.ndarray:
        """[kv_heads, CHUNK] what the heads make of the tokens, layer by layer."""
        heads, found = read_heads(self._folder, self._policy), []
        for own, layer in zip(seen.inputs, heads.layers, strict=True):
            parts = (own.queries, own.keys, own.values)
            read = own.hidden
            if heads.reads == "projections":
                read = np.concatenate([part.reshape(CHUNK, -1) for part in parts], axis=1)
            inner = read.astype(np.float64) @ layer.first.T
            scores = [self._concluded(layer, row, own) for row in inner]
            found.append(np.stack(scores, axis=1))
        return np.concatenate(found)

    def keeps_what_its_heads_say(self) -> None:
        seen = self.see(14, sinks=2, window=4, share="head", stabiliser_fraction=0.0)
        assert seen.kept == best(self.worth(seen), 14, 2, 4)

    def keeps_as_many_as_reach_a_threshold(self) -> None:
        """Whatever their number is; the window and the sinks stay."""
        scores = self.worth(self.see(CHUNK))
        middle = float(np.median(scores))
        kept = self.see(None, sinks=1, window=3, threshold=middle).kept
        for row, own in zip(scores, kept, strict=True):
            sure = {0, CHUNK - 3, CHUNK - 2, CHUNK - 1}
            assert set(own) == sure | {p for p in range(CHUNK) if row[p] >= middle}

    def beats_chance_at_what_its_heads_say(self) -> None:
        own = self.see(12, sinks=0, window=0, share="head")
        other = see(self._folder, self._executor, {"method": "random", "spread": 0.0}, 12)
        scores = self.worth(own)
        means = [
            np.mean([row[p].mean() for row, p in zip(scores, seen.kept, strict=True)])
            for seen in (own, other)
        ]
        assert means[0] > means[1]


def refuses_a_folder_without(policy: str, plain: Path, retained: Path, target: Path) -> None:
    """Whose heads are absent, or damaged."""
    asked: dict[str, Any] = {"keep": policy, "keep_budget": 150, "cache_bytes": 2**20}
    with pytest.raises(SettingsError, match=rf"has no retaining-{policy}.safetensors; train them"):
        LLM(plain, **asked)
    other = with_heads(retained, target)
    file = other / f"retaining-{policy}.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=rf"retaining-{policy}.safetensors' is damaged"):
        LLM(other, **asked)
