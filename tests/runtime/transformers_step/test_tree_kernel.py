"""The kernel for GPUs: what the generic step computes without it, by Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.transformers_step.blocks_and_nodes import CASES, compare


def test_interpreted_it_gives_what_nodes_give():
    """Triton must not have been imported before, so that this takes a process of its own."""
    pytest.importorskip("triton")
    tests = Path(__file__).parents[2]
    path = os.pathsep.join([str(tests), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "runtime.transformers_step.blocks_and_nodes"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(CASES)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_it_gives_what_nodes_give(case):
    assert compare(*case, "cuda")
