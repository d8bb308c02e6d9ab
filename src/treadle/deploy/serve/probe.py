"""`treadle serve probe`: does a model serve as clients expect? One process, asked as they ask."""

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.arguments import checked
from treadle.core.errors import CapacityError, SettingsError
from treadle.core.result import Figure, Measurement, Result
from treadle.core.run import recorded

if TYPE_CHECKING:
    import openai

__all__ = ["probe"]

_START_SECONDS, _STOP_SECONDS, _PAGE_SECONDS = 300.0, 30.0, 60.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--window-size=1100,900", "--virtual-time-budget=3000"),
)
_NAME = "probed"


class _Answer(NamedTuple):
    text: str
    num_pieces: int
    first_seconds: float
    seconds: float


@checked
def probe(
    model: str | Path,
    out: Path,
    *,
    question: str = "What is the capital of Japan?",
    new_tokens: int = 32,
    weights: str = "auto",
    num_threads: int | None = None,
    browser: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Start a server, ask it once with OpenAI's own client, look at its page, and stop it.

    It says whether the model, its chat template and this machine are fit to serve, and keeps a
    picture of the status page where a Chromium is installed.

    Args:
        model: Hugging Face folder, GGUF file, packaged:smollm2, or a hub id.
        out: Folder for result.json.
        question: What is asked, as a chat; a model without a chat template is asked to go on with
            it.
        new_tokens: Most tokens of the answer.
        weights: How matrices are held: auto, fp32, fp16, q8, q4_0 or q4_1.
        num_threads: Threads of the native step (default: the physical cores).
        browser: Program that takes the picture; auto finds a Chromium, none takes no picture.
        seed: Of the answer.
        overwrite: Replace the result in `out`.
        trust_remote_code: Run code that the checkpoint brings along.

    Returns:
        The account of the probe, as in the folder's result.json.

    Raises:
        SettingsError: `out` holds a result already, or the client or the browser is not installed.
        CapacityError: The server did not start, or did not stop when it was told to.
        CheckpointError: The model cannot be read.
    """
    from treadle.model.load import resolve
    from treadle.model.source import source_hash

    out = Path(out)
    program = _browser(browser)
    client_class = _client_class()
    settings = {
        **{"question": question, "new_tokens": new_tokens},
        **{"weights": weights, "num_threads": num_threads, "browser": browser},
    }
    with recorded(
        "serve", settings=settings, action="probe", seed=seed, out=out, overwrite=overwrite
    ) as run:
        folder = resolve(model, takes_files=True)
        run.read("model", str(model), source_hash(folder), "model")
        flags = ["--weights", weights]
        flags += [] if num_threads is None else ["--num-threads", str(num_threads)]
        flags += ["--trust-remote-code"] if trust_remote_code else []
        with _ending_on_sigterm(), _server(folder, flags) as (process, address, start_seconds):
            with client_class(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
                answer = _ask(client, question, new_tokens, seed)
            picture = None if program is None else _picture(program, address)
            stop_seconds = _stop(process)
        run.measurements += _measurements(answer, start_seconds, stop_seconds)
        run.figures += [] if picture is None else [picture]
        run.notes.append(f"{question} - {answer.text.strip()}")
        if program is None:
            run.notes.append(
                "No picture of the status page: no Chromium is installed (apt: chromium)."
            )
    return run.result


def _measurements(answer: _Answer, start_seconds: float, stop_seconds: float) -> list[Measurement]:
    later = max(answer.seconds - answer.first_seconds, 1e-9)
    values = {
        "start": (start_seconds, "seconds until it answers", "lower"),
        "first_piece": (answer.first_seconds, "seconds, through the client", "lower"),
        "rate": ((answer.num_pieces - 1) / later, "pieces per second, streamed", "higher"),
        "stop": (stop_seconds, "seconds after SIGTERM", "lower"),
    }
    return [
        Measurement(name=name, value=value, unit=unit, better=better)
        for name, (value, unit, better) in values.items()
    ]


def _client_class() -> "type[openai.OpenAI]":
    try:
        import openai
    except ImportError as error:
        raise SettingsError(
            "The probe asks with OpenAI's client, which is not installed; run: pip install openai"
        ) from error
    return openai.OpenAI


def _browser(wish: str) -> str | None:
    if wish == "none":
        return None
    names = _BROWSERS if wish == "auto" else (wish,)
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and wish != "auto":
        raise SettingsError(f"There is no program '{wish}'; install chromium, or leave it at auto.")
    return found


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, so that it takes the server with it."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's affair
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _server(
    folder: Path, flags: list[str]
) -> Iterator[tuple["subprocess.Popen[bytes]", str, float]]:
    """Start a server process on a free port and yield it, its address and how long it took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "treadle", "serve", f"{_NAME}={folder}", *flags]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=said, stderr=said)
        address = f"http://127.0.0.1:{port}"
        try:
            while not _is_up(address):
                if process.poll() is not None or time.perf_counter() - started > _START_SECONDS:
                    said.seek(0)
                    words = said.read().decode(errors="replace").strip()[-500:]
                    raise CapacityError(f"The server did not start; it said: {words or 'nothing'}")
                time.sleep(0.05)
            yield process, address, time.perf_counter() - started
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _is_up(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health") as answer:
        return bool(answer.status == 200)
    return False


def _ask(client: "openai.OpenAI", question: str, new_tokens: int, seed: int) -> _Answer:
    """Stream one answer; without a chat template, a completion."""
    import openai

    (name,) = [entry.id for entry in client.models.list() if entry.id == _NAME]
    texts: list[str] = []
    started = time.perf_counter()
    first = 0.0
    settings: dict[str, Any] = {"max_tokens": new_tokens, "temperature": 0.0, "seed": seed}
    try:
        stream = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": question}],
            stream=True,
            **settings,
        )
        pieces = ((c.choices[0].delta.content or "") for c in stream if c.choices)
    except openai.BadRequestError:
        plain = client.completions.create(model=name, prompt=question, stream=True, **settings)
        pieces = (c.choices[0].text for c in plain if c.choices)
    for piece in filter(None, pieces):
        first = first or time.perf_counter() - started
        texts.append(piece)
    seconds = time.perf_counter() - started
    return _Answer("".join(texts), max(1, len(texts)), first or seconds, seconds)


def _picture(program: str, address: str) -> Figure | None:
    """Return the status page as a browser shows it."""
    with tempfile.TemporaryDirectory() as home:
        shot = Path(home) / "page.png"
        subprocess.run(
            [program, *_QUIET, f"--user-data-dir={home}/profile", f"--screenshot={shot}", address],
            capture_output=True,
            timeout=_PAGE_SECONDS,
            env={**os.environ, "HOME": home},
            check=False,
        )
        if not shot.exists():
            raise CapacityError(
                f"'{program}' took no picture of the status page; pass --browser none."
            )
        content = base64.b64encode(shot.read_bytes()).decode()
    return Figure(
        kind="picture",
        title="The server's status page after the request",
        x_label="",
        y_label="",
        series=[],
        png_base64=content,
    )


def _stop(process: "subprocess.Popen[bytes]") -> float:
    """End the server as an operator does and return the seconds that it took."""
    started = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CapacityError(
            f"The server was told to stop and still runs after {_STOP_SECONDS:.0f} seconds."
        ) from error
    if status:
        raise CapacityError(f"The server ended with status {status} when it was told to stop.")
    return time.perf_counter() - started
