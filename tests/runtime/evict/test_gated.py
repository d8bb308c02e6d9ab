"""What trained heads of the kind 'gated' say is what stays."""

import numpy as np
import pytest

from runtime.evict.seen import CHUNK, best, see
from runtime.retained import with_heads
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model.retaining import read_heads
from treadle.runtime import LLM
from treadle.runtime.evict.methods.gated import Gated


def worth(seen, folder) -> np.ndarray:
    """[kv_heads, CHUNK] what the heads make of the tokens, layer by layer."""
    heads, found = read_heads(folder, "gated"), []
    for own, layer in zip(seen.inputs, heads.layers, strict=True):
        parts = (own.queries, own.keys, own.values)
        read = own.hidden
        if heads.reads == "projections":
            read = np.concatenate([part.reshape(CHUNK, -1) for part in parts], axis=1)
        inner = read.astype(np.float64) @ layer.first.T
        found.append(np.stack([concluded(layer, row, own) for row in inner], axis=1))
    return np.concatenate(found)


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


def test_it_keeps_what_its_heads_say(retained, stepping):
    keep = {"method": "gated", "sinks": 2, "window": 4, "share": "head", "stabiliser_fraction": 0.0}
    seen = see(retained, stepping, keep, 14)
    assert seen.kept == best(worth(seen, retained), 14, 2, 4)


def test_a_threshold_keeps_as_many_as_reach_it(retained, stepping):
    """Whatever their number is; the window and the sinks stay."""
    scores = worth(see(retained, stepping, {"method": "gated"}, 40), retained)
    middle = float(np.median(scores))
    keep = {"method": "gated", "sinks": 1, "window": 3, "threshold": middle}
    kept = see(retained, stepping, keep, None).kept
    for row, own in zip(scores, kept, strict=True):
        sure = {0, CHUNK - 3, CHUNK - 2, CHUNK - 1}
        assert set(own) == sure | {p for p in range(CHUNK) if row[p] >= middle}


def test_it_beats_chance_at_what_its_heads_say(retained, stepping):
    keep = {"method": "gated", "sinks": 0, "window": 0, "share": "head"}
    own = see(retained, stepping, keep, 12)
    other = see(retained, stepping, {"method": "random", "spread": 0.0}, 12)
    scores = worth(own, retained)
    means = [
        np.mean([row[p].mean() for row, p in zip(scores, seen.kept, strict=True)])
        for seen in (own, other)
    ]
    assert means[0] > means[1]
    assert Gated().heads == "gated"


def test_a_folder_without_heads_is_refused(tiny_model, retained, tmp_path):
    with pytest.raises(SettingsError, match=r"has no retaining-gated.safetensors; train them"):
        LLM(tiny_model("qwen3"), keep="gated", keep_budget=50, cache_bytes=2**20)
    other = with_heads(retained, tmp_path / "damaged")
    file = other / "retaining-gated.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"retaining-gated.safetensors' is damaged"):
        LLM(other, keep="gated", keep_budget=50, cache_bytes=2**20)
