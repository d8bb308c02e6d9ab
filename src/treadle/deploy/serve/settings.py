"""The settings of the engines behind a server."""

from typing import Literal

from treadle.runtime.settings import AtLeastOne, EngineSettings

__all__ = ["ServeEngineSettings"]


class ServeEngineSettings(EngineSettings):
    """What suits many clients: fairness, and short steps, so that nobody waits long for one."""

    policy: Literal["fcfs", "priority", "fair", "fair_priority", "prefix"] = "fair_priority"
    """Who comes first: fcfs, priority, fair (among clients), fair_priority (the lowest priority
    number, then fair), or prefix (the longest cached start)."""
    max_num_seqs: AtLeastOne = 16
    """Requests in a batch."""
    max_num_batched_tokens: AtLeastOne = 64
    """Tokens of a step: an urgent request may have to wait for one."""
    keep: str | None = None
    """Which entries of the cache stay, in each layer and KV head: the name of an eviction policy
    (sinks, random); unless given, all of them."""
