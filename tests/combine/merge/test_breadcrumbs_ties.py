"""What the election adds; the rest is tested along with breadcrumbs."""

import numpy as np

from combine.merge.sites import MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from treadle.combine.merge.methods.ties import Ties


def test_reference_without_trimming_it_is_ties() -> None:
    models, base = tuned((6, 7), 3, seed=0)
    weight = (1.0, 0.5, 2.0)
    for normalize in (False, True):
        found = merged(
            BreadcrumbsTies(weight=weight, normalize=normalize), MemorySite(models, base)
        )
        ties = merged(Ties(weight=weight, normalize=normalize), MemorySite(models, base))
        assert np.array_equal(found, ties)


def test_limits_one_model_elects_itself() -> None:
    models, base = tuned((6, 7), 1, seed=0)
    settings = {"density": 0.6, "gamma": 0.1}
    elected = merged(BreadcrumbsTies(**settings), MemorySite(models, base))
    assert np.array_equal(elected, merged(Breadcrumbs(**settings), MemorySite(models, base)))


def test_meaning_a_minority_of_opposite_sign_does_not_cancel_the_majority() -> None:
    base, change = normal(10, 10, seed=0), np.abs(normal(10, 10, seed=1))
    models = [base + change, base + change, base - change]
    settings = {"density": 0.9, "gamma": 0.05, "normalize": True}
    site = MemorySite(models, base)
    kept = merged(BreadcrumbsTies(**settings), site) - base
    cancelled = merged(Breadcrumbs(**settings), site) - base
    assert np.abs(kept).sum() > 2.5 * np.abs(cancelled).sum()
