"""What Prometheus and the status page are told of routers."""

from collections import Counter as Counts
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["RoutedCounts"]

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5)


class RoutedCounts:
    """Counts whom routers chose, and how long that took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._of: dict[str, Counts[str]] = {}
        self._seconds: dict[str, float] = {}
        self._chosen = Counter(
            *("treadle:requests_routed", "Requests, by router and by the model that it chose."),
            ["router", "model_name"],
            registry=registry,
        )
        self._handed = Counter(
            *("treadle:requests_handed_on", "Answers of unsure models that were not shown."),
            ["router", "model_name"],
            registry=registry,
        )
        self._took = Histogram(
            *("treadle:routing_seconds", "Time that choosing took.", ["router"]),
            buckets=_SECONDS,
            registry=registry,
        )

    def choose(self, router: str, model: str, seconds: float) -> None:
        """Count a choice."""
        self._chosen.labels(router, model).inc()
        self._took.labels(router).observe(seconds)
        self._of.setdefault(router, Counts())[model] += 1
        self._seconds[router] = self._seconds.get(router, 0.0) + seconds

    def answer(self, router: str, model: str, is_shown: bool) -> None:
        """Count an answer of a cascade: it is shown, or the next model is asked."""
        if is_shown:
            self._chosen.labels(router, model).inc()
            self._of.setdefault(router, Counts())[model] += 1
        else:
            self._handed.labels(router, model).inc()

    def of(self, router: str) -> Mapping[str, Any]:  # Any: JSON values
        """Return how often a router chose which model, and its mean time."""
        chosen: Counts[str] = self._of.get(router, Counts())
        is_timed = router in self._seconds
        mean = self._seconds[router] / chosen.total() if is_timed else None
        return {"requests": dict(chosen), "mean_routing_seconds": mean}
