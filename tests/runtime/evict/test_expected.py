"""What later queries are expected to attend to stays."""

import numpy as np

from runtime.evict.seen import CHUNK, see
from treadle.runtime.evict.methods.expected import Expected


def expected_worth(seen, executor, sinks: int, future: int, epsilon: float) -> np.ndarray:
    """[kv_heads, CHUNK] entry by entry, in float64."""
    turns = executor.turns(np.arange(CHUNK, CHUNK + future, dtype=np.int32))
    found = []
    for own, (cosine, sine) in zip(seen.inputs, turns, strict=True):
        dim, half = own.turned_keys.shape[-1], own.turned_keys.shape[-1] // 2
        rotation = np.zeros((dim, dim))
        for i in range(half):
            c, s = cosine[:, i].mean(), sine[:, i].mean()
            rotation[i, i] = rotation[i + half, i + half] = c
            rotation[i, i + half], rotation[i + half, i] = -s, s
        queries = unturned(own, executor).astype(np.float64)[sinks:]
        keys, values = own.turned_keys.astype(np.float64), own.values.astype(np.float64)
        group = queries.shape[1] // keys.shape[1]
        for kv in range(keys.shape[1]):
            worth = np.zeros(CHUNK)
            for head in range(kv * group, (kv + 1) * group):
                mean = rotation @ queries[:, head].mean(0)
                centred = queries[:, head] - queries[:, head].mean(0)
                spread = rotation @ (centred.T @ centred / len(centred)) @ rotation.T
                logits = np.asarray(
                    [k @ mean / np.sqrt(dim) + k @ spread @ k / (2 * dim) for k in keys[sinks:, kv]]
                )
                weights = np.exp(logits - logits.max())
                worth[sinks:] += weights / weights.sum() / group
            found.append((worth + epsilon) * np.linalg.norm(values[:, kv], axis=-1))
    return np.asarray(found)


def unturned(own, executor) -> np.ndarray:
    """Queries after their norms, turned back: [rows, heads, dim]."""
    places = np.arange(len(own.hidden), dtype=np.int32)
    cosine, sine = (part[:, None] for part in executor.turns(places)[0])
    half = own.turned_queries.shape[-1] // 2
    first, last = own.turned_queries[..., :half], own.turned_queries[..., half:]
    return np.concatenate([first * cosine + last * sine, last * cosine - first * sine], -1)


def test_it_keeps_what_later_queries_would_attend_to(retained, stepping):
    keep = {"method": "expected", "sinks": 2, "window": 4, "future_tokens": 16}
    seen = see(retained, stepping, keep, 14)
    worth = expected_worth(seen, stepping, 2, 16, 0.02)
    worth[:, :2] = worth[:, -4:] = np.inf
    for row, own in zip(worth, seen.kept, strict=True):
        assert len(own) == 14
        others = np.setdiff1d(np.arange(CHUNK), own)
        assert row[own].min() >= row[others].max() * (1 - 1e-4)  # up to ties of float32


def test_nothing_but_sinks_is_a_text_without_queries(retained, stepping):
    """Sums over no queries are no law; nothing is divided by zero."""
    keep = {"method": "expected", "sinks": 13, "window": 0, "chunk_tokens": 40}
    seen = see(retained, stepping, keep, 14)
    assert all(own[:13] == list(range(13)) for own in seen.kept)


def test_the_spread_and_the_values_count(retained, stepping):
    keep = {"method": "expected", "sinks": 0, "window": 0, "epsilon": 0.0}
    kept = [
        see(retained, stepping, {**keep, **others}, 12).kept
        for others in ({}, {"covariance": False}, {"values": "ignored"})
    ]
    assert kept[0] != kept[1]
    assert kept[0] != kept[2]


def test_it_sees_more_of_what_follows_than_chance(retained, stepping):
    keep = {"method": "expected", "sinks": 0, "window": 1, "epsilon": 0.0, "values": "ignored"}
    own = see(retained, stepping, {**keep, "future_tokens": 20}, 14)
    other = see(retained, stepping, {"method": "random", "window": 1, "spread": 0.0}, 14)
    assert own.later_mass() > other.later_mass()
    assert Expected().num_counted == 0
