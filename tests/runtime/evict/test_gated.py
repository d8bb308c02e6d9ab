"""What trained heads of the kind 'gated' say is what stays."""

import numpy as np
import pytest

from runtime.evict.foretold import Foretold, refuses_a_folder_without
from treadle.runtime.evict.methods.gated import Gated


def concluded(layer, inner, own) -> np.ndarray:
    """The mean over a group of 1 / (1 + sum exp(z_s - z))."""
    heads, kv_heads = own.turned_queries.shape[1], own.turned_keys.shape[1]
    parts = inner.reshape(-1, 16)
    parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 1e-6)
    found = np.zeros(kv_heads)
    for head in range(heads):
        kv = head * kv_heads // heads
        query, key = parts[head] * layer.norms[0], parts[heads + kv] * layer.norms[1]
        z = query @ key / 4 + layer.bias[head]
        others = sum(np.exp(query @ sink - z) for sink in layer.sinks[kv])
        found[kv] += 1 / (1 + others) * kv_heads / heads
    return found


@pytest.fixture
def foretold(retained, stepping):
    return Foretold(Gated().heads, concluded, retained, stepping)


def test_it_keeps_what_its_heads_say(foretold):
    foretold.keeps_what_its_heads_say()


def test_a_threshold_keeps_as_many_as_reach_it(foretold):
    foretold.keeps_as_many_as_reach_a_threshold()


def test_it_beats_chance_at_what_its_heads_say(foretold):
    foretold.beats_chance_at_what_its_heads_say()


def test_a_folder_without_heads_is_refused(tiny_model, retained, tmp_path):
    refuses_a_folder_without("gated", tiny_model("qwen3"), retained, tmp_path / "damaged")
