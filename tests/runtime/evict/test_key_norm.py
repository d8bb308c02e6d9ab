"""The shortest keys stay."""

import numpy as np
import pytest

from runtime.evict.seen import best, see

BARE = {"method": "key_norm", "sinks": 0, "window": 0}


@pytest.fixture
def run(tiny_model, plain_stepping):
    """What a policy keeps."""
    return lambda keep, budget, **settings: see(
        tiny_model("llama"), plain_stepping, keep, budget, **settings
    )


def lengths(seen) -> np.ndarray:
    keys = np.concatenate([own.turned_keys for own in seen.inputs], axis=1)
    return np.sqrt((keys.astype(np.float64) ** 2).sum(-1)).T


def test_it_keeps_the_shortest_keys(run):
    seen = run({"method": "key_norm", "sinks": 1, "window": 3}, 12)
    assert seen.kept == best(-lengths(seen), 12, 1, 3)


def test_a_budget_of_one_is_the_shortest_of_all(run):
    seen = run(BARE, 1)
    assert [own[0] for own in seen.kept] == lengths(seen).argmin(axis=1).tolist()


def test_rounded_keys_have_the_lengths_that_they_had(run):
    """What was noted is not read from the cache: in the first layer fp16 chooses as fp32 does."""
    exact, rounded = (run(BARE, 9, kv_dtype=dtype).kept for dtype in ("fp32", "fp16"))
    assert exact[:2] == rounded[:2]


def test_what_it_keeps_is_shorter_than_what_chance_keeps(run):
    own, other = run(BARE, 12), run({"method": "random", "spread": 0.0}, 12)
    means = [
        np.mean([row[kept].mean() for row, kept in zip(lengths(own), seen.kept, strict=True)])
        for seen in (own, other)
    ]
    assert means[0] < means[1]
