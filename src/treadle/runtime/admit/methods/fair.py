"""The client that was served least first."""

from typing import ClassVar

from treadle.core.method import Paper
from treadle.runtime.admit.base import Admission, Place, Waiting

__all__ = ["Fair"]


class Fair(Admission):
    """Let the client in first that was served least, by virtual token counters.

    Algorithm 2: a client's counter grows by 1 for each token of input and by 2 for each of output,
    and is lifted to the least counter of the active ones when it comes back. We differ in that a
    request that ran before comes first, whoever asked for it: it gives up nothing that it computed.

    Paper: Fairness in Serving Large Language Models, Sheng et al., 2024.
    """

    name: ClassVar[str] = "fair"
    paper = Paper(
        "Fairness in Serving Large Language Models", 2024, "https://arxiv.org/abs/2401.00588"
    )
    is_fair: ClassVar[bool] = True

    def place(self, waiting: Waiting) -> Place:
        """Return where a request stands in the queue."""
        return (waiting.is_new, waiting.served, waiting.number)
