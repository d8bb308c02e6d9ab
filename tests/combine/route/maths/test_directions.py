"""Directions of questions: what is kept, and that nothing is lost where there is room."""

import numpy as np
import pytest

from treadle.combine.route.maths.directions import spanned
from treadle.core.checkpoint.routed import NgramFeatures
from treadle.model.embed.ngrams import NgramEmbedder

TEXTS = [f"{a} {b} {n}" for n, (a, b) in enumerate([("add", "sum"), ("spell", "word")] * 6)]


def embedder(width: int) -> NgramEmbedder:
    return NgramEmbedder(NgramFeatures(width=width))


def test_cosines_stay_where_there_are_as_many_directions_as_questions():
    own = embedder(64)
    space = spanned(own, TEXTS, 12, seed=0)
    assert space.projection is not None
    assert space.projection.T @ space.projection == pytest.approx(np.eye(12), abs=1e-4)
    whole, found = own.embed(TEXTS), space.vectors(TEXTS)
    assert found @ found.T == pytest.approx(whole @ whole.T, abs=1e-4)


def test_the_directions_are_those_of_the_largest_part():
    own = embedder(64)
    space = spanned(own, TEXTS, 3, seed=0)
    values = np.linalg.svd(own.embed(TEXTS), compute_uv=False)
    kept = np.linalg.norm(own.embed(TEXTS) @ space.projection)
    assert kept == pytest.approx(np.sqrt((values[:3] ** 2).sum()), rel=1e-4)


def test_short_vectors_stay_as_they_are():
    own = embedder(4)
    space = spanned(own, TEXTS, 8, seed=0)
    assert space.projection is None
    assert np.array_equal(space.vectors(TEXTS), own.embed(TEXTS))
    assert space.vectors([]).shape == (0, 8)


def test_fewer_questions_than_directions():
    space = spanned(embedder(64), TEXTS[:2], 50, seed=0)
    assert space.vectors(["add sum"]).shape == (1, 2)
