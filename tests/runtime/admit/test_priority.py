"""The lowest priority number first."""

from runtime.admit.places import order, waiting
from treadle.runtime.admit.methods.priority import Priority


def test_by_priority_then_who_ran_before_then_arrival():
    requests = [
        waiting(1, priority=1, is_new=False),
        waiting(2, priority=0),
        waiting(3, priority=0, is_new=False),
        waiting(4, priority=-1, served=100),
    ]
    assert order(Priority(), *requests) == [4, 3, 2, 1]
    assert Priority.may_preempt
