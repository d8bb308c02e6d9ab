"""How long a query waits for its router."""

import statistics
from collections.abc import Sequence

from treadle.core.result import Measurement
from treadle.core.timing import Stopwatch
from treadle.runtime.routed.queries import QueryRouter

__all__ = ["median_milliseconds"]

_MOST = 100
"""Questions that are timed, evenly taken."""


def median_milliseconds(router: QueryRouter, questions: Sequence[str]) -> Measurement:
    """Return the median time of one query, asked alone, from its text to the scores."""
    stride = -(-len(questions) // _MOST)
    some = questions[::stride]
    router.scores(some[:1])  # whatever is made once is there
    taken = []
    for text in some:
        with Stopwatch() as watch:
            router.scores([text])
        taken.append(1000 * watch.wall_seconds)
    return Measurement(
        name="milliseconds_per_query",
        value=statistics.median(taken),
        unit="ms",
        better="lower",
        note=f"median of {len(some)} queries, each asked alone, on the CPU",
    )
