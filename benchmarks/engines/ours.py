"""treadle's engine: ours.py MODEL WEIGHTS THREADS CONTEXT_TOKENS."""

import sys
import time

import numpy as np
from answer import Tokens, serve

PAGE_SIZE = 16


def load():
    from treadle.runtime import LLM, SamplingParams
    from treadle.runtime.cache.pages import KeyValues
    from treadle.runtime.executor import StepRows
    from treadle.runtime.request import RequestState

    model, weights, threads, context = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
    llm = LLM(
        model,
        weights=weights,
        num_threads=threads,
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

    return generate, loss


serve(load)
