"""RouterDC's losses against loops, and what its two settings do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.maths.contrast import model_loss, query_loss, sides_of
from treadle.combine.route.methods.routerdc import RouterDC

SIZES = st.integers(1, 4)


def published(logits, worth, scores, num_positives, num_negatives):
    """The paper's sum over positives, query by query."""
    total = 0.0
    for row, own, got in zip(logits, worth, scores, strict=True):
        known = [n for n in range(len(own)) if not math.isnan(own[n])]
        best = sorted(known, key=lambda n: -own[n])[:num_positives]
        worst = sorted(known, key=lambda n: own[n])[:num_negatives]
        against = [math.exp(row[n]) for n in worst if got[n] <= 0.5]
        for n in best:
            if got[n] > 0:
                total -= math.log(math.exp(row[n]) / (math.exp(row[n]) + sum(against)))
    return total / len(logits)


def mended(logits, worth, scores, num_positives, num_negatives):
    total = weights = 0.0
    for row, own in zip(logits, worth, strict=True):
        known = [n for n in range(len(own)) if not math.isnan(own[n])]
        best = sorted(known, key=lambda n: -own[n])[:num_positives]
        worst = sorted(known, key=lambda n: own[n])[:num_negatives]
        for n in best:
            below = [m for m in worst if own[m] < own[n]]
            if below:
                weight = own[n] - sum(own[m] for m in below) / len(below)
                against = math.exp(row[n]) + sum(math.exp(row[m]) for m in below)
                total -= weight * math.log(math.exp(row[n]) / against)
                weights += weight
    return total / max(weights, 1e-6)


@given(
    *(st.integers(1, 6), st.integers(2, 7), SIZES, SIZES, st.integers(0, 99), st.booleans()),
    st.sampled_from([0.0, 0.5, 20.0]),
)
def test_the_loss_of_models_is_the_papers(
    batch, models, positives, negatives, seed, is_mended, rate
):
    drawn = np.random.default_rng(seed)
    scores = drawn.permutation(np.linspace(0, 1, batch * models)).reshape(batch, models)
    scores[drawn.random(scores.shape) < 0.2] = np.nan
    scores[:, 0] = np.nan_to_num(scores[:, 0])
    worth = scores - rate * drawn.random(scores.shape)
    logits = drawn.standard_normal((batch, models))
    given = torch.from_numpy(worth), torch.from_numpy(scores)
    sides = sides_of(*given, positives, negatives, is_mended)
    found = float(model_loss(torch.from_numpy(logits), sides, is_mended))
    wanted = (mended if is_mended else published)(logits, worth, scores, positives, negatives)
    assert found == pytest.approx(wanted, abs=1e-9)


def test_all_alike_teach_nothing_mended():
    worth = torch.full((3, 4), 0.7)
    sides = sides_of(worth, worth, 3, 3, True)
    assert float(model_loss(torch.randn(3, 4), sides, True)) == 0


@pytest.mark.parametrize("may_be_itself", [True, False])
def test_the_loss_of_queries_draws_one_of_its_group_and_others(may_be_itself):
    """With one other query in a group and one beyond it, nothing is left to chance."""
    inner = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.1], [1.0, 0.9], [-0.3, 1.0]], dtype=torch.float64), dim=1
    )
    labels = torch.tensor([0, 0, 1])
    cosines = inner @ inner.T
    found = float(
        query_loss(inner, labels, 3, 0.5, may_be_itself, torch.Generator().manual_seed(0))
    )

    def term(query, near):
        good, bad = math.exp(cosines[query, near] / 0.5), math.exp(cosines[query, 2] / 0.5)
        return -math.log(good / (good + bad))

    if not may_be_itself:  # the third query is alone in its group, and adds nothing
        assert found == pytest.approx((term(0, 1) + term(1, 0)) / 3)
        return
    others = sum(math.exp(cosines[2, n] / 0.5) for n in (0, 1))
    alone = -math.log(math.exp(2) / (math.exp(2) + others))
    options = [a + b + alone for a in (term(0, 0), term(0, 1)) for b in (term(1, 0), term(1, 1))]
    assert min(abs(found - one / 3) for one in options) < 1e-9


@pytest.mark.parametrize("variant", ["published", "mended"])
def test_it_learns_who_is_good_at_what(variant):
    made, fresh = data(60), data(30, seed=4)
    method = RouterDC(variant=variant, steps=150, rate=1e-2, hidden=16, positives=1, negatives=2)
    *_, learned = method.learn(made, seed=0)
    chosen = learned.scorer.scores(texts_of(fresh), fresh.vectors).argmax(axis=1)
    assert (chosen == kinds_of(fresh)).mean() > 0.95
    assert np.allclose(np.linalg.norm(learned.scorer.models, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("variant", ["published", "mended"])
def test_nobody_is_drawn_to_a_model_that_was_not_asked(variant):
    """However much is taken off, so that every worth is far below 0."""
    made = data(60)
    worth = np.concatenate([made.worth, np.full((60, 1), np.nan)], axis=1)
    taken = made._replace(worth=worth - 20, scores=worth)
    method = RouterDC(variant=variant, steps=150, rate=1e-2, hidden=16, positives=1, negatives=2)
    *_, learned = method.learn(taken, seed=0)
    chosen = learned.scorer.scores(texts_of(taken), taken.vectors)[:, :3].argmax(axis=1)
    assert (chosen == kinds_of(taken)).mean() > 0.95
    sides = sides_of(*map(torch.from_numpy, (taken.worth, taken.scores)), 4, 4, False)
    assert not sides.weights[sides.positives == 3].any()
    sides = sides_of(*map(torch.from_numpy, (taken.worth, taken.scores)), 4, 4, True)
    assert not sides.weights[sides.positives == 3].any()


def test_the_temperature_stays_published_and_is_learned_mended():
    heats = {}
    for variant in ("published", "mended"):
        *_, learned = RouterDC(variant=variant, steps=20, rate=1e-2).learn(data(20), seed=0)
        heats[variant] = learned.scorer.temperature
    assert heats["published"] == 1.0
    assert heats["mended"] != pytest.approx(0.1, abs=1e-4)


def test_published_compares_steps_where_the_paper_does():
    assert RouterDC(variant="published").chooses_on() == "train"
    assert RouterDC().chooses_on() == "dev"


def test_without_the_loss_of_models_their_vectors_stay_where_they_were():
    method = RouterDC(model_weight=0.0, steps=4, every=2, weight_decay=0.0)
    first, second = (one.scorer.models for one in method.learn(data(20), seed=0))
    assert np.array_equal(first, second)
    with pytest.raises(ValidationError, match="both 0"):
        RouterDC(model_weight=0.0, query_weight=0.0)
