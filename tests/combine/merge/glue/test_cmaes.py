"""Evolution of weights."""

import builtins

import numpy as np
import pytest

from combine.merge.glue.pools import Bowl
from treadle.combine.merge.glue.methods.cmaes import CmaEs
from treadle.combine.merge.glue.methods.coefficient import Coefficient
from treadle.combine.merge.glue.methods.random_weights import RandomWeights
from treadle.core.errors import SettingsError

TARGET = [[0.37, 0.11, 0.52]]


def test_it_comes_nearer_than_as_many_random_draws():
    target = [[0.4, 0.05, 0.3, 0.0, 0.0, 0.25, 0.0, 0.0]]
    wins = 0
    for seed in range(3):
        search = CmaEs(warm=False, num_candidates=100, num_groups=0)
        evolved = search.search(Bowl(target, seed))
        drawn = RandomWeights(num_candidates=100).search(Bowl(target, seed))
        wins += Bowl(target).score(evolved) < Bowl(target).score(drawn)
    assert wins >= 2


def test_it_never_returns_a_worse_merge_than_it_started_from():
    for seed in range(3):
        pool = Bowl(TARGET, seed)
        assert pool.score(CmaEs(num_candidates=10).search(pool)) <= pool.score(
            np.repeat(Coefficient().search(Bowl(TARGET)), 2, axis=0)
        )


def test_groups_of_layers_get_weights_of_their_own():
    target = [[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]
    pool = Bowl(target)
    found = CmaEs(num_groups=2, num_candidates=200).search(pool)
    assert found.shape == (3, 2)
    assert pool.score(found) < 0.02
    one = CmaEs(num_groups=1, num_candidates=200).search(Bowl(target[:2]))
    assert pool.score(np.stack([one[0], one[1], one[1]])) > 0.1


def test_a_race_sees_all_items_with_few_candidates_only():
    pool = Bowl(TARGET)
    CmaEs(warm=False, num_candidates=14, population=7).search(pool)
    shares = [share for _, share in pool.asked]
    assert shares.count(1 / 8) == 14
    assert shares.count(1 / 4) == 8
    assert shares.count(1.0) == 4 + 1  # and the start
    unraced = Bowl(TARGET)
    CmaEs(warm=False, num_candidates=14, population=7, races=False).search(unraced)
    assert {share for _, share in unraced.asked} == {1.0}


def test_the_same_seed_gives_the_same_weights():
    found = [CmaEs(num_candidates=20).search(Bowl(TARGET, 3)) for _ in range(2)]
    assert np.array_equal(*found)


def test_more_groups_than_layers_are_refused():
    with pytest.raises(SettingsError, match="num_groups = 9, but the models have 8 layers"):
        CmaEs(num_groups=9).search(Bowl(TARGET))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "cma":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r"pip install 'treadle\[glue\]'"):
        CmaEs().search(Bowl(TARGET))
