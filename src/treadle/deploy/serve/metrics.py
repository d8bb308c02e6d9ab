"""What Prometheus reads; names are vLLM's where they mean the same, so that its dashboards work."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from treadle.deploy.serve.choices import RoutedCounts
from treadle.runtime.llm import LLM
from treadle.runtime.request import Request, RequestState

__all__ = ["Metrics"]

_LABEL = ["model_name"]
_FIRST_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_WHOLE_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_NUM_RECENT = 50


class Metrics:
    """Counts what was answered; asks the engines how busy they are when it is read."""

    def __init__(self, llms: Mapping[str, LLM]) -> None:
        self._llms = llms
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.recent: deque[dict[str, Any]] = deque(maxlen=_NUM_RECENT)  # Any: JSON values
        """The requests that ended last, without their texts."""
        self.num_generated = self.num_read = 0
        own: dict[str, Any] = {"registry": self._registry}  # Any: as prometheus_client types it
        self._read = Counter("vllm:prompt_tokens", "Tokens of prompts.", _LABEL, **own)
        self._cached = Counter(
            "vllm:prompt_tokens_cached", "Of these, found in the cache.", _LABEL, **own
        )
        self._written = Counter("vllm:generation_tokens", "Tokens generated.", _LABEL, **own)
        self._ended = Counter(
            *("vllm:request_success", "Requests that ended, by reason."),
            [*_LABEL, "finished_reason"],
            **own,
        )
        self._refused = Counter(
            "treadle:requests_refused", "Requests refused, by status.", ["status"], **own
        )
        self._first = Histogram(
            *("vllm:time_to_first_token_seconds", "From arrival to the first token.", _LABEL),
            buckets=_FIRST_SECONDS,
            **own,
        )
        self.routed = RoutedCounts(self._registry)
        """Of routers."""
        self._each = Histogram(
            *("vllm:request_time_per_output_token_seconds", "Mean time of later tokens.", _LABEL),
            buckets=_TOKEN_SECONDS,
            **own,
        )
        self._whole = Histogram(
            *("vllm:e2e_request_latency_seconds", "From arrival to the end.", _LABEL),
            buckets=_WHOLE_SECONDS,
            **own,
        )

    def refuse(self, status: int) -> None:
        """Count a request that was refused."""
        self._refused.labels(str(status)).inc()

    def count(self, model: str, requests: Sequence[Request]) -> None:
        """Count what became of the requests of one prompt."""
        now = time.monotonic()
        first = requests[0]
        self._read.labels(model).inc(first.num_prompt)
        self._cached.labels(model).inc(min(first.num_cached, first.num_prompt))
        self.num_read += first.num_prompt
        for request in requests:
            self._count_one(model, request, now)

    def _count_one(self, model: str, request: Request, now: float) -> None:
        is_finished = request.state is RequestState.FINISHED
        reason = str(request.finish_reason) if is_finished else "abort"
        self._written.labels(model).inc(request.num_new)
        self._ended.labels(model, reason).inc()
        self.num_generated += request.num_new
        waited = None
        if request.first_token is not None:
            waited = request.first_token - request.arrival
            self._first.labels(model).observe(waited)
            if request.num_new > 1:
                each = (now - request.first_token) / (request.num_new - 1)
                self._each.labels(model).observe(each)
        self._whole.labels(model).observe(now - request.arrival)
        self.recent.appendleft(
            {
                "model": model,
                "ended": time.time(),
                "prompt_tokens": request.num_prompt,
                "cached_tokens": min(request.num_cached, request.num_prompt),
                "new_tokens": request.num_new,
                "first_token_seconds": waited,
                "seconds": now - request.arrival,
                "finish_reason": reason,
            }
        )

    def collect(self) -> Iterator[Metric]:
        """Give what the engines say now; prometheus_client calls it."""
        gauges = {
            "vllm:num_requests_running": "Requests in the batch.",
            "vllm:num_requests_waiting": "Requests in the queue.",
            "vllm:kv_cache_usage_perc": "Fraction of the cache held by requests.",
        }
        families = {
            name: GaugeMetricFamily(name, text, labels=_LABEL) for name, text in gauges.items()
        }
        counters = {
            "vllm:num_preemptions": "Requests that gave their pages away.",
            "treadle:rows": "Rows computed.",
            "vllm:spec_decode_num_draft_tokens": "Tokens that ran as drafts.",
            "vllm:spec_decode_num_accepted_tokens": "Of these, tokens that were chosen.",
            "treadle:choosing_passes": "Passes of a request through a model that chose tokens.",
            "treadle:chosen_tokens": "Tokens that these chose: more than one each by drafts.",
            "treadle:kv_read_bytes": "Keys and values that attention read; windows count in full.",
            "treadle:kv_path_bytes": "What it would have read if no texts had shared pages.",
        }
        counts = {
            name: CounterMetricFamily(name, text, labels=_LABEL) for name, text in counters.items()
        }
        for model, llm in self._llms.items():
            report = llm.load_report()
            used = report.num_pages - report.num_free_pages - report.num_cached_pages
            values = (report.num_running, report.num_waiting, used / report.num_pages)
            for family, value in zip(families.values(), values, strict=True):
                family.add_metric([model], value)
            drafted = report.drafted
            totals = (
                *(report.num_preemptions, report.num_rows),
                *(drafted.num_drafted, drafted.num_accepted),
                *(drafted.num_passes, drafted.num_tokens),
                *(report.kv_read_bytes, report.kv_path_bytes),
            )
            for count, total in zip(counts.values(), totals, strict=True):
                count.add_metric([model], total)
        yield from (*families.values(), *counts.values())

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
