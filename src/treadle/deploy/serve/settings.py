"""The settings of the engines behind a server."""

from treadle.runtime.settings import AdmissionChoice, AtLeastOne, EngineSettings

__all__ = ["ServeEngineSettings"]


class ServeEngineSettings(EngineSettings):
    """What suits many clients: fairness, and short steps, so that nobody waits long for one."""

    policy: AdmissionChoice = "fair_priority"
    """Who comes first: fcfs, priority, fair (among clients), fair_priority (the lowest priority
    number, then fair), or prefix (the longest cached start)."""
    max_num_seqs: AtLeastOne = 16
    """Requests in a batch."""
    max_num_batched_tokens: AtLeastOne = 64
    """Tokens of a step: an urgent request may have to wait for one."""
