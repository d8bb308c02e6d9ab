"""`treadle bench load` and `treadle bench replay`: what a server does under a load."""

from pathlib import Path

import numpy as np

from treadle.core.arguments import checked
from treadle.core.errors import SettingsError
from treadle.core.result import Input, Result
from treadle.core.seed import numpy_stream
from treadle.core.trace import Counts, Trace, arrivals, read_trace
from treadle.judge.bench.served import LatencyObjective
from treadle.judge.bench.session import Session, file_hash

__all__ = ["bench_load", "bench_replay"]


@checked
def bench_load(
    address: str,
    out: Path,
    *,
    rate: float | None = None,
    clients: int | None = None,
    num_requests: int = 100,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    spread: float = 0.0,
    variation: float = 1.0,
    first_seconds: float = 2.0,
    token_seconds: float = 0.2,
    model: str | None = None,
    api_key: str | None = None,
    ignore_eos: bool = True,
    num_warm_ups: int = 2,
    timeout_seconds: float = 600.0,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Send requests of drawn lengths to a server and measure its latencies, rates and goodput.

    With `rate` it is an open loop: requests come whether or not earlier ones are answered, as those
    of independent people do. With `clients` it is a closed one: so many ask, each again when it is
    answered. Ctrl+C ends the load, and what was measured is written.

    Args:
        address: Of an OpenAI-style server, such as http://127.0.0.1:8000.
        out: Folder for result.json and requests.jsonl.
        rate: Requests per second; the times between them are Poisson's.
        clients: Requests on their way at once, instead of a rate.
        num_requests: How many are sent.
        prompt_tokens: Of a request, on average.
        new_tokens: Of an answer, on average.
        spread: Lengths are drawn evenly between (1 - spread) and (1 + spread) times the average.
        variation: Coefficient of variation of the times between requests: 1 is Poisson, more comes
            in bursts, 0 is even.
        first_seconds: Goodput counts answers whose first piece came within it.
        token_seconds: Goodput counts answers whose further tokens took at most so long on average.
        model: Name of one of the server's models (default: its first).
        api_key: Sent as a bearer token (default: that of TREADLE_API_KEY, else OPENAI_API_KEY).
        ignore_eos: Ask for answers of exactly the given length, as treadle and vLLM can; switch it
            off for servers that refuse it.
        num_warm_ups: Requests sent before, one after the other, that do not count.
        timeout_seconds: Longest silence of the server before a request counts as failed.
        seed: Of lengths, times and prompts.
        overwrite: Replace the result in `out`.

    Returns:
        The account of the load, as in the folder's result.json.

    Raises:
        SettingsError: The server cannot be reached or has no such model, or requests do not fit
            into its context.
    """
    if (rate is None) == (clients is None):
        raise SettingsError("Give either rate (an open loop) or clients (a closed one).")
    _require_positive(rate=rate, clients=clients, num_requests=num_requests)
    _require_positive(prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    if not 0 <= spread <= 1 or variation < 0:
        raise SettingsError(
            f"Found spread {spread} and variation {variation}; spread lies in 0..1, and variation "
            f"is not negative."
        )
    trace = Trace(
        arrivals(rate or np.inf, num_requests, seed, variation),
        _lengths(prompt_tokens, spread, num_requests, seed, "prompt lengths"),
        _lengths(new_tokens, spread, num_requests, seed, "answer lengths"),
    )
    session = Session(
        "load",
        address,
        out,
        LatencyObjective(first_seconds, token_seconds),
        model=model,
        api_key=api_key,
        ignore_eos=ignore_eos,
        num_warm_ups=num_warm_ups,
        timeout_seconds=timeout_seconds,
        seed=seed,
        overwrite=overwrite,
    )
    settings = {
        "rate": rate,
        "clients": clients,
        "num_requests": num_requests,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "spread": spread,
        "variation": variation,
    }
    return session.run(trace, settings, num_clients=clients)


@checked
def bench_replay(
    address: str,
    trace: Path,
    out: Path,
    *,
    speed: float = 1.0,
    thin: float = 1.0,
    scale: float = 1.0,
    num_requests: int | None = None,
    seconds: float | None = None,
    shorten: bool = False,
    first_seconds: float = 2.0,
    token_seconds: float = 0.2,
    model: str | None = None,
    api_key: str | None = None,
    ignore_eos: bool = True,
    num_warm_ups: int = 2,
    timeout_seconds: float = 600.0,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Send the requests of a recorded trace at their times and measure latencies and goodput.

    Prompts have the lengths of the trace and share the prefixes that it says they share. What was
    replayed is written as Mooncake's JSONL beside the result, where its lengths were not scaled.

    Args:
        address: Of an OpenAI-style server, such as http://127.0.0.1:8000.
        trace: Azure's or BurstGPT's CSV, or Mooncake's JSONL.
        out: Folder for result.json and requests.jsonl.
        speed: Requests come so many times as fast.
        thin: Random share of the requests that is sent, at their times: keeps the bursts of a load
            that is too much for one machine.
        scale: Lengths of prompts and answers are multiplied by it.
        num_requests: Only the first ones.
        seconds: Only those that come within it, after `speed`.
        shorten: Cut prompts that do not fit into the model's context, instead of refusing.
        first_seconds: Goodput counts answers whose first piece came within it.
        token_seconds: Goodput counts answers whose further tokens took at most so long on average.
        model: Name of one of the server's models (default: its first).
        api_key: Sent as a bearer token (default: that of TREADLE_API_KEY, else OPENAI_API_KEY).
        ignore_eos: Ask for answers of exactly the traced length, as treadle and vLLM can; switch it
            off for servers that refuse it.
        num_warm_ups: Requests sent before, one after the other, that do not count.
        timeout_seconds: Longest silence of the server before a request counts as failed.
        seed: Of thinning and prompts.
        overwrite: Replace the result in `out`.

    Returns:
        The account of the load, as in the folder's result.json.

    Raises:
        DataError: The trace cannot be read.
        SettingsError: The server cannot be reached or has no such model, or requests do not fit
            into its context.
    """
    _require_positive(speed=speed, thin=thin, scale=scale)
    _require_positive(num_requests=num_requests, seconds=seconds)
    session = Session(
        "replay",
        address,
        out,
        LatencyObjective(first_seconds, token_seconds),
        model=model,
        api_key=api_key,
        ignore_eos=ignore_eos,
        num_warm_ups=num_warm_ups,
        timeout_seconds=timeout_seconds,
        seed=seed,
        overwrite=overwrite,
        shorten=shorten,
    )
    settings = {
        "speed": speed,
        "thin": thin,
        "scale": scale,
        "num_requests": num_requests,
        "seconds": seconds,
        "shorten": shorten,
    }
    found = read_trace(trace).faster(speed)
    if thin < 1:
        found = found.thinned(thin, seed)
    if seconds is not None:
        found = found.pick(found.arrival_seconds <= seconds)
    if num_requests is not None:
        found = found.pick(np.arange(min(num_requests, found.num_requests)))
    source = Input(name="trace", path=str(trace), content_hash=file_hash(trace), role="data")
    return session.run(found, settings, source, scale=scale)


def _require_positive(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise SettingsError(f"Found {name} {value}, expected more than 0; raise it.")


def _lengths(average: int, spread: float, count: int, seed: int, name: str) -> Counts:
    drawn = numpy_stream(seed, name).uniform(1 - spread, 1 + spread, count)
    lengths: Counts = np.maximum(1, np.rint(average * drawn)).astype(np.int64)
    return lengths
