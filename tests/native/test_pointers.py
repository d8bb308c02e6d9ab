"""Whoever holds a pointer holds the array, and threads that start cold see one table."""

import ctypes
import subprocess
import sys
import weakref

import numpy as np
import pytest

from treadle.native.pointers import pointer, pointers, struct


class Pair(ctypes.Structure):
    _fields_ = (("first", ctypes.c_void_p), ("count", ctypes.c_int64))


@pytest.mark.parametrize(
    "hold", [pointer, lambda array: pointers([array]), lambda array: struct(Pair, array, 3)]
)
def test_what_is_pointed_to_lives_as_long_as_the_pointer(hold) -> None:
    array = np.arange(1000.0)
    seen = weakref.ref(array)
    held = hold(array)
    del array
    assert seen() is not None
    del held
    assert seen() is None


def test_a_pointer_may_point_inside() -> None:
    array = np.arange(5, dtype=np.int64)
    place = ctypes.cast(pointer(array, 3), ctypes.POINTER(ctypes.c_int64))
    assert place[0] == 3


COLD = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
sys.setswitchinterval(1e-6)
from treadle.native import text, text_twins
from treadle.native.characters import characters
from treadle.native.documents import Texts
documents = [Texts.of([f"Word number {n}! «Ärger», {n} times; 你好。" * 40]) for n in range(64)]
gate = threading.Barrier(16)
def count(documents):
    gate.wait()
    table = id(characters(True))
    found = [text.count_documents(d, "words", ("the",), ()) for d in documents]
    return table, [counts.tolist() for counts, _ in found]
with ThreadPoolExecutor(16) as pool:
    answers = list(pool.map(count, [documents] * 16))
assert len({table for table, _ in answers}) == 1, "several tables were made"
expected = [text_twins.count_documents(d, "words", ("the",), ())[0].tolist() for d in documents[:2]]
assert all(found[:2] == expected and found == answers[0][1] for _, found in answers)
"""


def test_threads_that_start_together_count_the_same() -> None:
    subprocess.run([sys.executable, "-c", COLD], check=True, timeout=600)
