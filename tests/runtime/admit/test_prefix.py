"""The longest cached start first, without starving."""

from runtime.admit.places import order, waiting
from treadle.runtime.admit.methods.prefix import Prefix


def test_by_what_is_cached_until_one_has_waited_long():
    policy = Prefix(ageing_seconds=5)
    short, long = waiting(1, count_cached=lambda: 1), waiting(2, count_cached=lambda: 4)
    assert order(policy, short, long) == [2, 1]
    assert order(policy, short._replace(seconds=5.0), long) == [1, 2]
    assert order(policy, short, long, waiting(3, is_new=False)) == [3, 2, 1]
    assert order(policy, waiting(2), waiting(1)) == [1, 2]


def test_the_tree_is_walked_only_where_it_matters():
    def never() -> int:
        raise AssertionError

    assert order(Prefix(ageing_seconds=0), waiting(1, count_cached=never)) == [1]
