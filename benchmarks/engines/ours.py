"""treadle's engine: ours.py MODEL WEIGHTS THREADS CACHE_MB [KV_DTYPE]."""

import sys
import time

import numpy as np
from answer import Tokens, serve

PAGE_SIZE = 16
BATCH = 512
ROOM = 256
"""Tokens that follow a prompt, at most."""


class Behind:
    """Sequences behind a context, each with pages of its own, by the executor's own call."""

    def __init__(self, executor, dtype: str) -> None:
        self._executor, self._dtype = executor, dtype

    def read(self, prompt: list[int], sequences: int) -> None:
        """Read a prompt as the first of several sequences."""
        from treadle.runtime.cache.pages import KeyValues

        shape, self._length, self._count = self._executor.shape, len(prompt), sequences
        self._each = -(-(len(prompt) + ROOM) // PAGE_SIZE)
        self._pool = None  # before the next one takes memory
        self._pool = KeyValues(
            *(shape.kv_heads, shape.head_dim, self._each * sequences, PAGE_SIZE, self._dtype)
        )
        for first in range(0, len(prompt), BATCH):
            self._run(prompt[first : first + BATCH], first, 1)

    def prepare(self) -> None:
        """Copy its cache to the others."""
        for layer in self._pool.layers:
            for array in layer.arrays():
                for number in range(1, self._count):
                    array[number * self._each : (number + 1) * self._each] = array[: self._each]

    def step(self, tokens: int, sequences: int) -> None:
        """Let so many sequences go on by so many tokens behind the prompt."""
        last = np.full(sequences, 5, np.int32)
        for place in range(tokens):
            last = self._run(last, self._length + place, sequences).argmax(axis=1)

    def _run(self, tokens, first: int, count: int) -> np.ndarray:
        """Run rows of the first `count` sequences, as many of each, from position `first` on."""
        from treadle.runtime.executor import StepRows

        each = len(tokens) // count
        places = np.arange(first, first + each)
        firsts = np.arange(count)[:, None] * self._each * PAGE_SIZE
        used = -(-(first + each) // PAGE_SIZE)
        pages = np.arange(count)[:, None] * self._each + np.arange(used)
        arrays = (
            *(tokens, np.tile(places, count), (firsts + places).ravel()),
            *(np.arange(count + 1) * each, np.full(count, first + each)),
            *(np.arange(count + 1) * used, pages.ravel(), np.arange(1, count + 1) * each - 1),
        )
        rows = StepRows(*(np.ascontiguousarray(one, np.int32) for one in arrays))
        return self._executor.forward(rows, self._pool)


def load():
    from treadle.runtime import LLM, SamplingParams
    from treadle.runtime.cache.pages import KeyValues
    from treadle.runtime.executor import StepRows
    from treadle.runtime.request import RequestState

    model, weights, threads, context = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
    dtype = sys.argv[5] if len(sys.argv) > 5 else "fp16"
    llm = LLM(
        model,
        weights=weights,
        num_threads=threads,
        kv_dtype=dtype,
        max_num_seqs=32,
        max_num_batched_tokens=512,
        cache_bytes=None if context == 0 else context << 20,
        clock=time.perf_counter,
    )

    def generate(prompts: Tokens, new_tokens: int) -> list[float]:
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        groups = [llm.submit(prompt, params) for prompt in prompts]
        requests = [request for group in groups for request in group]
        while any(request.state is not RequestState.FINISHED for request in requests):
            llm.step()
        for group in groups:
            llm.output(group)
        return [request.first_token for request in requests]

    def loss(windows: Tokens) -> float:
        executor, losses = llm._runner.executor, []
        shape = executor.shape
        for row in windows:
            count = len(row)
            pages = np.arange(-(-count // PAGE_SIZE), dtype=np.int32)
            places = np.arange(count, dtype=np.int32)
            pool = KeyValues(shape.kv_heads, shape.head_dim, len(pages), PAGE_SIZE, "fp32")
            ends = [np.array(pair, np.int32) for pair in ([0, count], [count], [0, len(pages)])]
            rows = StepRows(np.array(row, np.int32), places, places, *ends, pages, places)
            logits = executor.forward(rows, pool)[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            normal = np.log(np.exp(logits).sum(axis=1))
            losses.append(float((normal - logits[np.arange(count - 1), row[1:]]).mean()))
        return float(np.mean(losses))

    return generate, loss, Behind(llm._runner.executor, dtype)


serve(load)
