"""What the newest token attends to least goes, in all heads of a layer alike."""

import numpy as np

from runtime.evict.seen import CHUNK, best, see
from runtime.kept import cached_of
from treadle.runtime.evict.methods.tova import Tova


def test_it_keeps_what_the_last_token_attends_to(retained, stepping):
    seen = see(retained, stepping, {"method": "tova"}, 14)
    mass = seen.mass_of_rows(CHUNK - 1, CHUNK).astype(np.float64).mean((1, 2))
    layers = np.split(mass, np.cumsum(seen.kv_heads)[:-1])
    mean = np.concatenate([np.tile(layer.mean(axis=0), (len(layer), 1)) for layer in layers])
    assert seen.kept == best(mean, 14, 0, 1)


def test_one_entry_is_the_newest(retained, stepping):
    seen = see(retained, stepping, {"method": "tova"}, 2)
    assert all(own[-1] == CHUNK - 1 and len(own) == 2 for own in seen.kept)


def test_heads_that_lack_an_entry_do_not_count_for_it():
    positions = np.asarray([[0, 2, 3], [0, 1, -1]], np.int32)
    scores = np.asarray([[0.5, 0.25, 0.25], [0.5, 0.5, 9.0]], np.float32)
    found = Tova().score(cached_of(positions, (2,), 4, scores))
    assert found[0].tolist() == [0.5, 0.125, 0.125]
    assert found[1, :2].tolist() == [0.5, 0.25]


def test_it_sees_more_of_what_follows_than_chance(retained, stepping):
    own = see(retained, stepping, {"method": "tova"}, 14)
    other = see(retained, stepping, {"method": "random", "window": 1, "spread": 0.0}, 14)
    assert own.later_mass() > other.later_mass()
