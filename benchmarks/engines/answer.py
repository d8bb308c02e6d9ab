"""What every engine's process does: load once, then answer one command a line until the input ends.

A command is {"prompts": [[token ids]], "new_tokens": n}; all prompts come at once and are continued
greedily by exactly n tokens. The answer holds seconds: of the wall, of this process's processors,
and until each prompt's first token. {"windows": [[token ids]]} asks for the mean loss in nats.
{"prompt": [token ids], "sequences": n} reads a prompt once and gives its cache, copied, to n
sequences; {"steps": n, "sequences": m} then lets m of them go on by n tokens, from where the prompt
ended.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

Tokens = list[list[int]]
Generate = Callable[[Tokens, int], list[float]]
"""Answers prompts; returns the clock's time of each first token."""


def _resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))


class Behind(Protocol):
    """Sequences behind a context of one length."""

    def read(self, prompt: list[int], sequences: int) -> None:
        """Read a prompt, and copy its cache for further sequences."""

    def prepare(self) -> None:
        """Make the copies."""

    def step(self, tokens: int, sequences: int) -> None:
        """Let so many sequences go on by so many tokens behind the prompt."""


Loaded = tuple[Generate, Callable[[Tokens], float] | None, Behind | None]


def serve(load: Callable[[], Loaded]) -> None:
    """Load the engine and answer the commands of the standard input."""
    # Engines print: what the caller reads goes to a copy of the standard output.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wall, cpu = time.perf_counter(), time.process_time()
    generate, loss, behind = load()
    generate([[5, 6, 7, 8]], 2)
    told = {
        "load_seconds": time.perf_counter() - wall,
        "load_cpu_seconds": time.process_time() - cpu,
    }
    print(json.dumps(told), file=out)
    for line in sys.stdin:
        command = json.loads(line)
        if "windows" in command:
            assert loss is not None
            print(json.dumps({"loss": loss(command["windows"])}), file=out)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        if "prompt" in command or "steps" in command:
            assert behind is not None
            if "prompt" in command:
                behind.read(command["prompt"], command["sequences"])
            else:
                behind.step(command["steps"], command["sequences"])
            spent = {
                "seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
            }
            if "prompt" in command:
                behind.prepare()
            print(json.dumps(spent), file=out)
            continue
        first = generate(command["prompts"], command["new_tokens"])
        end = time.perf_counter()
        answer = {
            "seconds": end - wall,
            "cpu_seconds": time.process_time() - cpu,
            "first_token_seconds": [at - wall for at in first],
            "peak_memory_bytes": _resident("VmHWM"),
        }
        print(json.dumps(answer), file=out)
