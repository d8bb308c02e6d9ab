"""Waiting requests for the tests of policies; not a test itself."""

from treadle.runtime.admit.base import Admission, Waiting


def waiting(number: int, **fields: object) -> Waiting:
    values = {"is_new": True, "priority": 0, "seconds": 0.0, "served": 0.0, **fields}
    return Waiting(number=number, **{"count_cached": lambda: 0, **values})


def order(policy: Admission, *requests: Waiting) -> list[int]:
    return [request.number for request in sorted(requests, key=policy.place)]
