"""What every engine's process does: load once, then answer one command a line until the input ends.

A command is {"prompts": [[token ids]], "new_tokens": n}; all prompts come at once and are continued
greedily by exactly n tokens. The answer holds seconds: of the wall, of this process's processors,
and until each prompt's first token. {"windows": [[token ids]]} asks for the mean loss in nats.
"""

import json
import os
import sys
import time
from collections.abc import Callable

Tokens = list[list[int]]
Generate = Callable[[Tokens, int], list[float]]
"""Answers prompts; returns the clock's time of each first token."""


def _resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))


def serve(load: Callable[[], tuple[Generate, Callable[[Tokens], float] | None]]) -> None:
    """Load the engine and answer the commands of the standard input."""
    # Engines print: what the caller reads goes to a copy of the standard output.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wall, cpu = time.perf_counter(), time.process_time()
    generate, loss = load()
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
        first = generate(command["prompts"], command["new_tokens"])
        end = time.perf_counter()
        answer = {
            "seconds": end - wall,
            "cpu_seconds": time.process_time() - cpu,
            "first_token_seconds": [at - wall for at in first],
            "peak_memory_bytes": _resident("VmHWM"),
        }
        print(json.dumps(answer), file=out)
