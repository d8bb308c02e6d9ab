"""First come, first served."""

from runtime.admit.places import order, waiting
from treadle.runtime.admit.methods.fcfs import Fcfs


def test_by_arrival_but_who_ran_before_comes_first():
    urgent = waiting(2, priority=-9, served=0)
    assert order(Fcfs(), waiting(3), urgent, waiting(1, served=7)) == [1, 2, 3]
    assert order(Fcfs(), waiting(1), waiting(2, is_new=False)) == [2, 1]
    assert not Fcfs.may_preempt
    assert not Fcfs.is_fair
