"""Objects for levels of one vector width give the same bits."""

import numpy as np
import pytest

from naive import tokens_of
from runtime.flat import pool_of, rows_of
from treadle.core.hardware import instruction_set
from treadle.native import compiler
from treadle.runtime.native_step.llama import LlamaStep

pytestmark = [
    pytest.mark.slow,  # compiles the step for every level
    pytest.mark.skipif(compiler.find_compiler() is None, reason="needs a C compiler"),
]


@pytest.mark.parametrize("form", ["fp32", "fp16", "q8", "q4_1"])
def test_products_of_bytes_change_no_bit(form, llama, monkeypatch):
    """With VNNI or without, and as the compiler sees this processor."""
    rows = rows_of([(tokens_of(1, 45)[0].tolist(), 0, [5, 2, 7, 0, 3, 9])])
    found: dict[int, list[np.ndarray]] = {}
    for level in (*compiler.fitting_levels(instruction_set()), compiler.NATIVE):
        monkeypatch.setenv("TREADLE_LEVEL", level.name)
        step = LlamaStep(llama, form, 1)
        lanes = step._kernel.step_lanes()
        found.setdefault(lanes, []).append(step.forward(rows, pool_of(step, "int8")))
        step.close()
    for same in found.values():
        for other in same[1:]:
            np.testing.assert_array_equal(other, same[0])
