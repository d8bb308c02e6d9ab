"""The client that was served least first; its counters."""

from runtime.admit.places import order, waiting
from runtime.engines import Small
from treadle.runtime.admit.methods.fair import Fair
from treadle.runtime.request import Request, SamplingParams


def test_by_what_the_client_was_served():
    requests = [waiting(1, served=9), waiting(2, served=3, priority=5), waiting(3, served=3)]
    assert order(Fair(), *requests) == [2, 3, 1]
    assert order(Fair(), waiting(1), waiting(2, served=99, is_new=False)) == [2, 1]


def test_who_stays_away_saves_up_nothing():
    """Algorithm 2's lift, against a naive counter."""
    queue = Small(policy="fair").policy
    busy, late = (Request(n, [1], 1, SamplingParams(), 0, n) for n in ("busy", "late"))
    queue.arrived(late, set())
    queue.arrived(busy, {"late"})
    queue.computed(busy, 10, 5)
    assert (queue.served(busy), queue.served(late)) == (10 + 2 * 5, 0)
    queue.arrived(late, {"busy"})  # it comes back when only the other is active
    assert queue.served(late) == 20


def test_only_fair_policies_count():
    queue = Small(policy="fcfs").policy
    request = Request("r", [1], 1, SamplingParams(), 0, "c")
    queue.arrived(request, set())
    queue.computed(request, 10, 5)
    assert queue.served(request) == 0
