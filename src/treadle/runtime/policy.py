"""In which order waiting requests are admitted."""

from collections.abc import Iterable
from typing import Literal, Protocol

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.runtime.radix import PrefixTree
from treadle.runtime.request import Request, RequestState
from treadle.runtime.typed import number, text

__all__ = ["POLICIES", "Fair", "Policy", "PolicyName", "make_policy"]

PolicyName = Literal["fcfs", "priority", "fair", "fair_priority", "prefix"]
Place = tuple[float, ...]
"""Where a request stands in the queue; the smallest comes first."""

INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2
"""What a token costs a client under the fair policy (virtual token counter)."""
MAX_CLIENTS = 10_000
"""Counters that are kept; where clients choose their names, there is no end to them."""


class Policy(Protocol):
    """Orders the queue; told of every token that is computed."""

    may_preempt: bool
    """Whether a waiting request may take the place of a running one of lower priority."""
    is_fair: bool
    """Whether it looks at what each client was served."""

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        ...

    def arrived(self, request: Request, active: Iterable[str]) -> None:
        """Learn of a new request; `active` are the clients that have others unfinished."""
        ...

    def computed(self, request: Request, num_input: int, num_output: int) -> None:
        """Learn what was computed for a request."""
        ...

    def served(self, request: Request) -> float:
        """Return what the client of `request` was served, in weighted tokens."""
        ...


def _precedence(request: Request) -> Place:
    """Put a preempted request before new ones, then go by arrival."""
    return (request.state is not RequestState.PREEMPTED, request.number)


class Fcfs:
    """First come, first served."""

    may_preempt = False
    is_fair = False

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        return _precedence(request)

    def arrived(self, request: Request, active: Iterable[str]) -> None:
        """Nothing depends on it."""

    def computed(self, request: Request, num_input: int, num_output: int) -> None:
        """Nothing depends on it."""

    def served(self, request: Request) -> float:
        """Nobody counts."""
        return 0.0


class ByPriority(Fcfs):
    """The lowest priority number first; it may take the place of running ones."""

    may_preempt = True

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        return (request.priority, *_precedence(request))


class Fair(Fcfs):
    """The client that was served least first (virtual token counters).

    A client that becomes active starts at the least counter of the active ones, so that nobody
    saves up turns by staying away.
    """

    is_fair = True

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        is_new, number = _precedence(request)
        return (is_new, self.served(request), number)

    def arrived(self, request: Request, active: Iterable[str]) -> None:
        """Lift the counter of a client that was away."""
        clients = set(active)
        own = self.counters.get(request.client, 0)
        if clients and request.client not in clients:
            own = max(own, min(self.counters.get(client, 0) for client in clients))
        if len(self.counters) > MAX_CLIENTS:
            self.counters = {client: self.counters.get(client, 0) for client in clients}
        self.counters[request.client] = own

    def computed(self, request: Request, num_input: int, num_output: int) -> None:
        """Count the client's tokens."""
        cost = INPUT_WEIGHT * num_input + OUTPUT_WEIGHT * num_output
        self.counters[request.client] = self.counters.get(request.client, 0) + cost

    def served(self, request: Request) -> float:
        """Return the client's counter."""
        return self.counters.get(request.client, 0)


class FairByPriority(Fair):
    """The lowest priority number first, and among equals the client that was served least."""

    may_preempt = True

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        return (request.priority, *super().place(request, now))


class ByPrefix(Fcfs):
    """The longest cached start first, so that it is used before it is evicted.

    Who has waited for `ageing_seconds` comes first in any case.
    """

    def __init__(self, tree: PrefixTree, ageing_seconds: float) -> None:
        self._tree, self._ageing_seconds = tree, ageing_seconds

    def place(self, request: Request, now: float) -> Place:
        """Return where `request` stands in the queue."""
        is_new, number = _precedence(request)
        if not is_new or now - request.arrival >= self._ageing_seconds:
            return (is_new, 0, 0, number)
        num_cached = len(self._tree.peek(request.tokens, request.cache_group))
        return (is_new, 1, -num_cached, number)


POLICIES = ["fcfs", "priority", "fair", "fair_priority", "prefix"]


def make_policy(name: str, tree: PrefixTree, ageing_seconds: float = 10.0) -> Policy:
    """Return the policy called `name`.

    Raises:
        SettingsError: There is none, or the seconds are no number.
    """
    ageing_seconds = number("ageing_seconds", ageing_seconds, 0)
    if name == "prefix":
        return ByPrefix(tree, ageing_seconds)
    table: dict[str, type[Fcfs]] = {
        "fcfs": Fcfs,
        "priority": ByPriority,
        "fair": Fair,
        "fair_priority": FairByPriority,
    }
    if text("policy", name) not in table:
        raise SettingsError(f"No policy '{name}'. {near(name, POLICIES)}")
    return table[name]()
