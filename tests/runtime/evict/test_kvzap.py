"""What trained heads of the kind 'kvzap' say is what stays."""

import numpy as np
import pytest

from runtime.evict.foretold import Foretold, refuses_a_folder_without
from treadle.runtime.evict.methods.kvzap import Kvzap


def concluded(layer, inner, own) -> np.ndarray:
    """W x + b."""
    return inner + layer.first_bias


@pytest.fixture
def foretold(retained, stepping):
    return Foretold(Kvzap().heads, concluded, retained, stepping)


def test_it_keeps_what_its_heads_say(foretold):
    foretold.keeps_what_its_heads_say()


def test_a_threshold_keeps_as_many_as_reach_it(foretold):
    foretold.keeps_as_many_as_reach_a_threshold()


def test_it_beats_chance_at_what_its_heads_say(foretold):
    foretold.beats_chance_at_what_its_heads_say()


def test_a_folder_without_heads_is_refused(tiny_model, retained, tmp_path):
    refuses_a_folder_without("kvzap", tiny_model("qwen3"), retained, tmp_path / "damaged")
