"""Traces of requests: when each came, how long it was, and what its prompt shared with others."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError
from treadle.core.seed import numpy_stream

__all__ = ["BLOCK_TOKENS", "Counts", "Trace", "arrivals", "read_trace", "write_trace"]

BLOCK_TOKENS = 512
"""Tokens that one hash of Mooncake's traces stands for."""
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURST = ("Timestamp", "Request tokens", "Response tokens")
_MOONCAKE = ("timestamp", "input_length", "output_length")

Seconds = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Trace(NamedTuple):
    """Requests in the order in which they come."""

    arrival_seconds: Seconds
    """Since the first request; never falling."""
    prompt_tokens: Counts
    answer_tokens: Counts
    blocks: tuple[tuple[int, ...], ...] | None = None
    """Of each request, the hashes of its prompt's blocks: equal hashes are equal tokens, and all
    that stands before them is equal, too. None where the trace does not tell."""
    block_tokens: int = BLOCK_TOKENS
    num_failed: int = 0
    """Requests of the source that had no answer, and are left out."""

    @property
    def num_requests(self) -> int:
        """How many requests there are."""
        return self.arrival_seconds.size

    @property
    def seconds(self) -> float:
        """How long it took until the last request came."""
        return float(self.arrival_seconds[-1]) if self.num_requests else 0.0

    def pick(self, places: npt.NDArray[Any]) -> "Trace":  # Any: indices or booleans
        """Return the requests at `places`, the first of which comes at second 0."""
        arrival = self.arrival_seconds[places]
        kept = np.arange(self.num_requests)[places]
        return self._replace(
            arrival_seconds=arrival - (arrival[0] if arrival.size else 0.0),
            prompt_tokens=self.prompt_tokens[places],
            answer_tokens=self.answer_tokens[places],
            blocks=None if self.blocks is None else tuple(self.blocks[k] for k in kept),
        )

    def faster(self, speed: float) -> "Trace":
        """Return the same requests, coming `speed` times as fast."""
        return self._replace(arrival_seconds=self.arrival_seconds / speed)

    def thinned(self, fraction: float, seed: int) -> "Trace":
        """Return a random share of the requests at their times, and the first in any case.

        Thinning keeps the shape of a load that is too much for a machine; going slower would
        stretch its bursts.
        """
        drawn = numpy_stream(seed, "thinned trace").random(self.num_requests) < fraction
        drawn[:1] = True
        return self.pick(drawn)

    def shorter(self, scale: float) -> "Trace":
        """Return the requests with all lengths times `scale`, rounded, and at least one token."""

        def scaled(counts: Counts) -> Counts:
            found: Counts = np.maximum(1, np.rint(counts * scale)).astype(np.int64)
            return found

        return self._replace(
            prompt_tokens=scaled(self.prompt_tokens),
            answer_tokens=scaled(self.answer_tokens),
            block_tokens=max(1, round(self.block_tokens * scale)),
        )


def arrivals(rate: float, num_requests: int, seed: int, variation: float = 1.0) -> Seconds:
    """Return when requests come, `rate` a second on average; the first comes at second 0.

    Times between them are Gamma-distributed with the coefficient of variation `variation`: 1 is a
    Poisson process, more comes in bursts, 0 is even. An infinite rate lets all come at once.
    """
    if variation == 0:
        gaps = np.full(num_requests, 1.0)
    else:
        shape = 1 / variation**2
        stream = numpy_stream(seed, "arrivals")
        gaps = stream.gamma(shape, 1 / shape, num_requests)
    times: Seconds = np.cumsum(gaps) / rate
    return times - times[:1]


def read_trace(path: Path) -> Trace:
    """Read a trace: Azure's or BurstGPT's CSV, or Mooncake's JSONL.

    Requests are sorted by time. Those that had no answer are left out and counted.

    Raises:
        DataError: It is none of them, or a line is not as it should be.
    """
    if not path.is_file():
        raise DataError(f"No trace at '{path}'; give a CSV of Azure or BurstGPT, or a JSONL file.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows, blocks = _mooncake(file) if path.suffix == ".jsonl" else _table(path, file)
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text ({error}); give a trace.") from error
    except _LineError as error:
        raise DataError(f"'{path}', line {error.line}: {error}; mend or remove it.") from error
    if not rows:
        raise DataError(f"'{path}' has no requests; give a trace that has some.")
    return _sorted(rows, blocks)


Row = tuple[float, int, int]


class _LineError(Exception):
    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def _sorted(rows: list[Row], blocks: list[tuple[int, ...]] | None) -> Trace:
    seconds = np.array([row[0] for row in rows])
    order = np.argsort(seconds, kind="stable")
    trace = Trace(
        seconds[order],
        np.array([rows[place][1] for place in order], dtype=np.int64),
        np.array([rows[place][2] for place in order], dtype=np.int64),
        None if blocks is None else tuple(blocks[place] for place in order),
    )
    answered = (trace.answer_tokens > 0) & (trace.prompt_tokens > 0)
    if not answered.any():
        raise DataError("No request of the trace has an answer; give another trace.")
    return trace.pick(answered)._replace(num_failed=int((~answered).sum()))


def _table(path: Path, file: Any) -> tuple[list[Row], None]:  # Any: lines
    reader = csv.DictReader(file)
    found = reader.fieldnames or []
    for columns in (_AZURE, _BURST):
        if set(columns) <= set(found):
            break
    else:
        raise DataError(
            f"'{path}' has the columns {', '.join(found)[:200] or 'none'}; expected Azure's "
            f"({', '.join(_AZURE)}) or BurstGPT's ({', '.join(_BURST)})."
        )
    when, read, written = columns
    rows: list[Row] = []
    for row in reader:
        try:
            seconds = _azure_seconds(row[when]) if columns is _AZURE else float(row[when])
            rows.append(_row(seconds, row[read], row[written]))
        except (TypeError, ValueError) as error:
            raise _LineError(reader.line_num, f"{error}") from error
    return rows, None


def _azure_seconds(text: str) -> float:
    time = np.datetime64(text.strip().replace(" ", "T").removesuffix("Z"), "ns")
    return float((time - np.datetime64("2000-01-01T00:00:00", "ns")).astype(np.int64)) / 1e9


def _mooncake(file: Any) -> tuple[list[Row], list[tuple[int, ...]] | None]:  # Any: lines
    rows, blocks = [], []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            when, read, written = (entry[name] for name in _MOONCAKE)
            rows.append(_row(float(when) / 1000, read, written))
            blocks.append(tuple(map(int, entry.get("hash_ids") or ())))
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else f"{error}"
            expected = ", ".join(_MOONCAKE)
            raise _LineError(number, f"{what}; expected an object with {expected}") from error
    return rows, blocks if any(blocks) else None


def _row(seconds: float, read: Any, written: Any) -> Row:  # Any: numbers or their text
    found = seconds, int(read), int(written)
    if not np.isfinite(seconds) or min(found[1:]) < 0:
        raise ValueError(f"found {found}, expected a time and two counts")
    return found


def write_trace(trace: Trace, path: Path) -> None:
    """Write `trace` as Mooncake's JSONL, beside and renamed into place.

    Where it does not tell which prompts share blocks, none do.
    """
    if trace.block_tokens != BLOCK_TOKENS and trace.blocks is not None:
        raise SettingsError(
            f"A hash of the format stands for {BLOCK_TOKENS} tokens, and the blocks of this trace "
            f"have {trace.block_tokens}; write it before its lengths are scaled."
        )
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        for place, blocks in enumerate(_all_blocks(trace)):
            entry = {
                "timestamp": round(float(trace.arrival_seconds[place]) * 1000),
                "input_length": int(trace.prompt_tokens[place]),
                "output_length": int(trace.answer_tokens[place]),
                "hash_ids": list(blocks),
            }
            file.write(json.dumps(entry) + "\n")
    os.replace(beside, path)


def _all_blocks(trace: Trace) -> Sequence[Sequence[int]]:
    if trace.blocks is not None:
        return trace.blocks
    num_blocks = -(-trace.prompt_tokens // BLOCK_TOKENS)
    ends = np.cumsum(num_blocks).tolist()
    return [range(end - count, end) for end, count in zip(ends, num_blocks.tolist(), strict=True)]
