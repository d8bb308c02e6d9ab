"""Named streams: stable for ever, independent of each other."""

import numpy as np
import pytest
import torch

from treadle.core.seed import numpy_stream, stream_seed, torch_stream

NAMES = ["calibration windows", "bootstrap", "prune.model.layers.0.self_attn.q_proj.weight", ""]


# The first two: int.from_bytes(sha256(b"treadle:SEED:NAME").digest()[:8], "little") >> 1.
GOLDEN = {
    "bootstrap": 3971018754632762763,
    "calibration windows": 2195100959222017624,
    "numpy": [519, 260, 279, 192, 350],
    "torch": [665, 421, 897, 283, 313],
}


def test_golden_values() -> None:
    """A change here changes every result that treadle ever wrote: never change these numbers."""
    assert stream_seed(0, "bootstrap") == GOLDEN["bootstrap"]
    assert stream_seed(1, "calibration windows") == GOLDEN["calibration windows"]
    assert numpy_stream(0, "golden").integers(0, 1000, 5).tolist() == GOLDEN["numpy"]
    drawn = torch.randint(0, 1000, (5,), generator=torch_stream(0, "golden"))
    assert drawn.tolist() == GOLDEN["torch"]


def test_streams_do_not_depend_on_what_was_asked_before() -> None:
    alone = numpy_stream(7, "b").random(5)
    numpy_stream(7, "a").random(100)
    torch_stream(7, "b")
    np.random.seed(3)
    torch.manual_seed(3)
    np.testing.assert_array_equal(numpy_stream(7, "b").random(5), alone)


def test_every_name_and_seed_has_its_own() -> None:
    seeds = {stream_seed(seed, name) for seed in (*range(50), -1, 2**70) for name in NAMES}
    assert len(seeds) == 52 * len(NAMES)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, "1:a") != stream_seed(1, "a")
    assert stream_seed(11, "a") != stream_seed(1, "1a")


@pytest.mark.parametrize("stream", [numpy_stream, torch_stream])
def test_streams_are_uncorrelated(stream) -> None:
    def draw(name: str) -> np.ndarray:
        made = stream(0, name)
        if isinstance(made, torch.Generator):
            return torch.rand(5000, generator=made).numpy()
        return made.random(5000)

    values = np.stack([draw(f"stream {place}") for place in range(6)])
    correlations = np.corrcoef(values) - np.eye(6)
    assert np.abs(correlations).max() < 0.06
    assert np.abs(values.mean(axis=1) - 0.5).max() < 0.02


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.rand(3, generator=torch_stream(0, "x"))
    assert torch.equal(torch.get_rng_state(), before)
