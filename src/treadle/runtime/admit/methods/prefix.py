"""The longest cached start first."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.admit.base import Admission, Place, Waiting

__all__ = ["Prefix"]


class Prefix(Admission):
    """Let the request in first whose start is cached longest, so that it is used before it goes.

    Section 3, cache-aware scheduling: requests are sorted by the length of the matched prefix. We
    differ in that who has waited for `ageing_seconds`, or ran before, comes first in any case.

    Paper: SGLang: Efficient Execution of Structured Language Model Programs, Zheng et al., 2024.
    """

    name: ClassVar[str] = "prefix"
    paper = Paper(
        "SGLang: Efficient Execution of Structured Language Model Programs",
        2024,
        "https://arxiv.org/abs/2312.07104",
    )

    ageing_seconds: Annotated[float, Field(ge=0.0)] = 10.0
    """Wait after which a request comes before others, whatever is cached of them."""

    def place(self, waiting: Waiting) -> Place:
        """Return where a request stands in the queue."""
        if not waiting.is_new or waiting.seconds >= self.ageing_seconds:
            return (waiting.is_new, 0, 0, waiting.number)
        return (True, 1, -waiting.count_cached(), waiting.number)
