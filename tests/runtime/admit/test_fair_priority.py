"""Priorities first, then fairness, with a bounded memory of clients."""

from runtime.engines import Small
from treadle.runtime.admit.queue import MAX_CLIENTS, Queue
from treadle.runtime.request import Request, SamplingParams

PARAMS = SamplingParams()


def request(client: str, number: int, priority: int = 0) -> Request:
    found = Request(f"r{number}", [1, 2], 2, PARAMS, 0, client, priority)
    found.number = number
    return found


def test_priority_then_the_client_served_least_then_arrival():
    policy: Queue = Small(policy="fair_priority").policy
    first, second, third = request("a", 1), request("b", 2), request("a", 3, priority=-1)
    for entry in (first, second, third):
        policy.arrived(entry, {"a", "b"} - {entry.client})
    policy.computed(first, 10, 5)
    order = sorted((first, second, third), key=lambda r: policy.place(r, 0.0))
    assert [entry.number for entry in order] == [3, 2, 1]
    assert policy.counters == {"a": 20, "b": 0}


def test_clients_that_left_are_forgotten_when_there_are_too_many():
    policy: Queue = Small(policy="fair_priority").policy
    busy = request("busy", 0)
    policy.arrived(busy, set())
    policy.computed(busy, 0, 8)
    for number in range(MAX_CLIENTS + 5):
        policy.arrived(request(f"client {number}", number), {"busy"})
    assert len(policy.counters) < 20
    assert policy.counters["busy"] == 16
    assert policy.counters[f"client {MAX_CLIENTS + 4}"] == 16
