"""Kernels under AddressSanitizer: what C reads and writes is there, and belongs to somebody.

A child process loads kernels that the sanitizer watches, cold, in many threads. What was freed
before C read it, and what lies beyond an array, ends it with a report.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.flat import EXECUTORS

TEXT = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
sys.setswitchinterval(1e-6)
from treadle.native import text
from treadle.native.documents import Texts
documents = [Texts.of([f"Word number {n}! «Ärger», {n} times; 你好。" * 9]) for n in range(4)]
draw = np.random.default_rng(0).integers(1, 2**63, (2, 8), np.uint64)
gate = threading.Barrier(8)
def use(number):
    gate.wait()
    for own in documents:
        text.count_documents(own, "characters" if number % 2 else "words", ("the",), ("the",))
        text.minhash_documents(own, "words", 3, *draw, 4)
        sets = text.shingle_documents(own, "words", 2)
        text.run_documents(own, "characters", 4)
        text.jaccard(sets, np.zeros(3, np.int64), np.zeros(3, np.int64))
        text.similar_pieces(own, np.array([0, 1]), 0.2, 8, 4)
        many, none = np.zeros(40, np.int64), np.zeros(40, bool)
        for keys in (None, np.arange(80, dtype=np.uint64).reshape(40, 2)):
            text.leaders(sets, many, many, none, 0.8, keys)
        text.stars(keys % 7, none)
        text.unite(np.arange(9), np.arange(8), np.arange(1, 9))
        text.parse_lines(np.frombuffer(b'{"text": "a", "id": 1}\\n' * 9, np.uint8), "text", "id")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(use, range(8)))
print("done")
"""
FREED = """
from treadle.native.pointers import OwningStructure
kept = OwningStructure.__setattr__
def forgets(self, name, value):
    kept(self, name, value)
    vars(self).get("_owned", {}).clear()
OwningStructure.__setattr__ = forgets
from treadle.native import characters
characters.characters = lambda is_chinese: characters._characters.__wrapped__(is_chinese)
"""
"""Structs that own nothing, and tables that nobody else holds: the fault that once was there."""
STEP = """
import sys
import numpy as np
from pathlib import Path
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.native_step.llama import LlamaStep
model_type = sys.argv[2]
folder = tiny.build(model_type, Path(sys.argv[1]) / model_type)
prompts = [np.random.default_rng(n).integers(1, 320, 30 + n).tolist() for n in range(4)]
params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, prompt_logprobs=0)
for form, kv_dtype in (("fp32", "fp32"), ("fp16", "fp16"), ("q8", "int8"), ("q4_1", "int4")):
    step = LlamaStep(folder, form, 3)
    for keep in ({}, {"keep": "random", "keep_budget": 12}):
        engine = LLM(folder, executor=step, kv_dtype=kv_dtype, cache_bytes=2**18, **keep)
        step.set_head_windows([[9, None, 30, 2], None] if keep else None)
        engine.generate(prompts, params)
        engine.log_probs([*prompts, prompts[0][:9] + prompts[1]])
    step.close()
print("done")
"""


def preloaded() -> str | None:
    """Return the sanitizer's library, which must be there before all others, if there is one."""
    gcc = shutil.which("gcc")
    if gcc is None or sys.platform != "linux":
        return None
    found = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return found if Path(found).is_absolute() else None


pytestmark = pytest.mark.skipif(
    preloaded() is None, reason="gcc has no AddressSanitizer here (apt-get install gcc)"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a script with watched kernels, which it compiles if it must."""
    watched = os.environ | {
        **{"CC": "gcc -fsanitize=address", "TREADLE_CACHE": str(tmp_path_factory.mktemp("cache"))},
        **{"TREADLE_NATIVE": "1", "TREADLE_LEVEL": "native", "OMP_NUM_THREADS": "1"},
        **{"LD_PRELOAD": str(preloaded()), "ASAN_OPTIONS": "detect_leaks=0:exitcode=99"},
    }
    first = "import os; del os.environ['LD_PRELOAD']  # the compiler is not watched\n"

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", first + script, *arguments]
        return subprocess.run(command, env=watched, capture_output=True, text=True, timeout=600)

    return run


def test_kernels_of_texts_read_what_is_there(run) -> None:
    """Cold, in many threads; and a table that was freed before C reads it is reported."""
    done = run(TEXT)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
    found = run(FREED + TEXT)
    assert found.returncode == 99
    assert "heap-use-after-free" in found.stderr
    assert "native/text" in found.stderr


@pytest.mark.slow
@pytest.mark.skipif("native" not in EXECUTORS, reason="no native step here")
@pytest.mark.parametrize("model_type", ["gemma3_text", "qwen2_moe", "gpt2"])
def test_the_native_step_reads_what_is_there(model_type, run, tmp_path) -> None:
    done = run(STEP, str(tmp_path), model_type)
    assert (done.returncode, done.stdout[-5:]) == (0, "done\n"), done.stderr[-3000:]
