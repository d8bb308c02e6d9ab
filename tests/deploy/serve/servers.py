"""Servers for the tests, on free ports, and the chat template of their models; no test itself."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.http.server import Server, listen
from treadle.deploy.http.visitors import Visitors
from treadle.deploy.serve.app import make_app
from treadle.deploy.serve.catalogue import Catalogue, ServedModel, ServedRouter
from treadle.deploy.serve.serving import Serving
from treadle.runtime import LLM
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.choice import choose_executor
from treadle.runtime.executor import StepRows

TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for m in messages %}{% if m.role == 'refused' %}{{ raise_exception('no') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def add_template(folder: Path, template: str = TEMPLATE) -> Path:
    (folder / "chat_template.jinja").write_text(template)
    return folder


class Running(NamedTuple):
    url: str
    serving: Serving
    server: Server
    thread: threading.Thread


@contextmanager
def running(
    served: Sequence[ServedModel],
    limits: ServerLimits | None = None,
    keys: Sequence[str] = (),
    tool_format: str = "auto",
    reasoning_parser: str = "auto",
    visitors: Visitors | None = None,
    routers: Sequence[ServedRouter] = (),
) -> Iterator[Running]:
    catalogue = Catalogue(served, routers)
    serving = Serving(catalogue, limits or ServerLimits(), tool_format, reasoning_parser)
    server = Server(make_app(serving, keys, visitors), serving)
    with listen("127.0.0.1", 0) as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        try:
            yield Running(url, serving, server, thread)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


class Gated:
    """An executor that makes a step only when the test lets it."""

    def __init__(self, folder: Path) -> None:
        self._inner = choose_executor(folder, "fp32", None, False)
        self._permits = threading.Semaphore(0)
        self.is_open = False

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def forward(self, rows: StepRows, pool: KeyValues) -> np.ndarray:
        if not self.is_open:
            assert self._permits.acquire(timeout=120)
        return self._inner.forward(rows, pool)

    def let(self, num_steps: int) -> None:
        self._permits.release(num_steps)

    def open(self) -> None:
        self.is_open = True
        self._permits.release()


def eventually(is_so: Callable[[], bool]) -> bool:
    """Ask until it is so, for ten seconds at most."""
    end = time.monotonic() + 120
    while not is_so() and time.monotonic() < end:
        threading.Event().wait(0.002)
    return is_so()


def taken(found: Running) -> int:
    """Return how many requests the engine has, or has been handed while it steps."""
    serving = found.serving
    parts = [part for answers in serving.open for part in answers.parts]
    return sum(len(part.requests) for part in parts) + len(serving.engine._jobs)


def loaded(folder: Path, name: str = "tiny", **settings) -> list[ServedModel]:
    llm = LLM(folder, weights="fp32", policy="fair_priority", **settings)
    return [ServedModel(name, llm), *(ServedModel(a, llm, a, name) for a in llm.adapters)]
