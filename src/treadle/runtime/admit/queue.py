"""The queue of an engine: an admission policy, and what it must know of clients and texts."""

from collections.abc import Iterable, Mapping
from typing import Any

from treadle.runtime.admit.base import Admission, Place, Waiting
from treadle.runtime.admit.tables import ADMISSIONS
from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.request import Request, RequestState
from treadle.runtime.typed import number, require

__all__ = ["MAX_CLIENTS", "Queue", "choose_admission"]

INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2
"""What a token costs a client under the fair policies (virtual token counter)."""
MAX_CLIENTS = 10_000
"""Counters that are kept; where clients choose their names, there is no end to them."""


class Queue:
    """Orders waiting requests; told of every token that is computed.

    A client that becomes active starts at the least counter of the active ones, so that nobody
    saves up turns by staying away.
    """

    def __init__(self, policy: Admission, tree: PrefixTree) -> None:
        self.policy, self._tree = policy, tree
        self.counters: dict[str, float] = {}

    @property
    def may_preempt(self) -> bool:
        """Whether a waiting request may take the place of a running one of lower priority."""
        return self.policy.may_preempt

    @property
    def is_fair(self) -> bool:
        """Whether the policy looks at what each client was served."""
        return self.policy.is_fair

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        waiting = Waiting(
            request.state is not RequestState.PREEMPTED,
            request.number,
            request.priority,
            now - request.arrival,
            self.served(request),
            lambda: len(self._tree.peek(request.tokens, request.cache_group)),
        )
        return self.policy.place(waiting)

    def arrived(self, request: Request, active: Iterable[str]) -> None:
        """Learn of a new request; `active` are the clients that have others unfinished."""
        if not self.is_fair:
            return
        clients = set(active)
        own = self.counters.get(request.client, 0)
        if clients and request.client not in clients:
            own = max(own, min(self.counters.get(client, 0) for client in clients))
        if len(self.counters) > MAX_CLIENTS:
            self.counters = {client: self.counters.get(client, 0) for client in clients}
        self.counters[request.client] = own

    def computed(self, request: Request, num_input: int, num_output: int) -> None:
        """Learn what was computed for a request."""
        if not self.is_fair:
            return
        cost = INPUT_WEIGHT * num_input + OUTPUT_WEIGHT * num_output
        self.counters[request.client] = self.counters.get(request.client, 0) + cost

    def served(self, request: Request) -> float:
        """Return what the client of `request` was served, in weighted tokens."""
        return self.counters.get(request.client, 0)


def choose_admission(
    policy: Admission | str | Mapping[str, Any],  # Any: a method's settings
    ageing_seconds: float = 10.0,
) -> Admission:
    """Return a policy by its name, its settings or itself.

    Raises:
        SettingsError: There is no such policy, or a setting is refused.
    """
    ageing_seconds = number("ageing_seconds", ageing_seconds, 0)
    is_policy = isinstance(policy, Admission | Mapping)
    require(is_policy or isinstance(policy, str), "policy", policy, "a text")
    if policy == "prefix":
        policy = {"method": "prefix", "ageing_seconds": ageing_seconds}
    return ADMISSIONS.resolve(policy)
