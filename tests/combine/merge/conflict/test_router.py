"""The discriminant against the definition, its temperature, and its decisions."""

import numpy as np
import pytest

from treadle.combine.merge.conflict.router import fitted
from treadle.combine.merge.glue.items import Item, ItemSet
from treadle.core.checkpoint.layered import Decision
from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.errors import DataError
from treadle.model.embed.ngrams import ngram_counts
from treadle.runtime.routed.discriminant import Discriminant

WORDS = "red green blue brown black white grey pink gold teal lime navy".split()  # noqa: SIM905


def sets(count: int = 12) -> list[ItemSet]:
    sums = [Item(f"{n}+{2 * n}=", ("x",)) for n in range(count)]
    colours = [Item(f"the colour {word} is", ("x",)) for word in WORDS[:count]]
    return [ItemSet("sums", sums), ItemSet("colours", colours)]


def test_distances_against_the_whole_covariance():
    """Solved by a few directions and a noise; here by inverting all of it."""
    found = fitted(sets(), [[1.0, 2.0], [2.0, 1.0]], 0)
    router = found.router
    spec = NgramFeatures(width=40)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9, 80)).astype(np.float32)
    from treadle.combine.merge.conflict import router as module

    directions, noise = module._inverse(rows)
    scatter = rows.astype(np.float64).T @ rows / len(rows)
    covariance = 0.9 * scatter + 0.1 * np.trace(scatter) / 80 * np.eye(80)
    inverse = np.linalg.inv(covariance)
    np.testing.assert_allclose(
        (np.eye(80) - directions.T @ directions) / noise, inverse, rtol=2e-3, atol=2e-3
    )
    means = rng.standard_normal((2, 80)).astype(np.float32)
    small = Discriminant(spec, means, directions, noise, np.eye(2, dtype=np.float32), Decision())
    texts = ["12+3=", "what is it"]
    for row, vector in zip(small.distances(texts), ngram_counts(texts, spec), strict=True):
        wanted = [(vector - mean) @ inverse @ (vector - mean) for mean in means.astype(np.float64)]
        np.testing.assert_allclose(row, wanted, rtol=2e-3)
    assert found.owners == [0, 1]
    assert router.shares(["7+14=", "the colour teal is"]).tolist() == [[1, 0], [0, 1]]


def test_decisions():
    owners = np.eye(3, dtype=np.float32)
    rule = Decision(certain=0.2, mass=0.9, farthest=(1.0, 1.0, 1.0))
    router = Discriminant(NgramFeatures(), np.zeros((3, 8)), np.zeros((1, 8)), 1.0, owners, rule)
    sure, unsure = np.array([0.98, 0.01, 0.01]), np.array([0.5, 0.45, 0.05])
    assert router._decided(False, sure).tolist() == [1, 0, 0]
    mixed = router._decided(False, unsure)
    assert mixed.tolist() == pytest.approx([0.55, 0.45, 0.0])  # 0.526 and 0.474 in twentieths
    assert router._decided(True, sure).tolist() == pytest.approx([1 / 3] * 3)
    plain = router._replace(decision=rule.model_copy(update={"strangers": "dense"}))
    assert not plain._decided(True, sure).any()
    mixing = router._replace(decision=rule.model_copy(update={"strangers": "mix"}))
    assert mixing._decided(True, unsure).tolist() == mixed.tolist()
    one = Discriminant(
        NgramFeatures(), np.zeros((1, 8)), np.zeros((1, 8)), 1.0, owners[:1, :1], rule
    )
    assert one._decided(False, np.array([1.0])).tolist() == [1]


def test_an_expert_may_own_several_kinds_and_another_none():
    found = fitted(sets(), [[1.0, 2.0, 9.0], [0.5, 1.0, 9.0]], 0)
    assert found.owners == [0, 0]
    assert found.router.shares(["7+14=", "the colour teal is"]).tolist() == [[1, 0, 0]] * 2
    assert found.router.probabilities(["7+14="]).sum() == pytest.approx(1)


def test_strangers_are_known_and_the_kinds_own_prompts_are_not_strange():
    router = fitted(sets(), [[1.0, 2.0], [2.0, 1.0]], 0).router
    assert router.strangers(["Ein ganz anderer Satz, der nichts davon hat."]) == [True]
    assert not any(router.strangers(["5+10=", "the colour pink is"]))


def test_too_few_prompts_or_all_alike():
    with pytest.raises(DataError, match="takes 4 of each kind"):
        fitted(sets(3), [[1.0], [1.0]], 0)
    same = ItemSet("same", [Item("a", (str(n),)) for n in range(8)])
    with pytest.raises(DataError, match="prompts that differ"):
        fitted([same], [[1.0]], 0)
