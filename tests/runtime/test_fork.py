"""A forked child goes on with its parent's engine, whose threads it does not have."""

import subprocess
import sys

import pytest

from products import few
from treadle.native.loader import library

SCRIPT = """
import os, signal, sys, torch
from treadle.runtime import LLM, SamplingParams
torch.set_num_threads(2)
params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
def answer(llm): return llm.generate([[5, 6, 7] * 30], params)[0].outputs[0].token_ids
used, unused = (LLM(sys.argv[1], num_threads=3, cache_bytes=2**20) for _ in range(2))
expected = answer(used)
if (child := os.fork()) == 0:
    signal.alarm(300)
    os._exit(42 if answer(used) == answer(unused) == expected else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(0 if status == 42 and answer(used) == expected else f"the child ended with {status}")
"""


@pytest.mark.parametrize("model_type", few(["llama", "gpt2"], "llama"))
def test_a_forked_child_answers_as_its_parent(model_type, tiny_model):
    if model_type == "llama" and library("step") is None:
        pytest.skip("needs a C compiler")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tiny_model(model_type))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
