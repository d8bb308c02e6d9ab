"""Whoever holds a pointer holds the array, and threads that start cold see one table."""

import ast
import ctypes
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import treadle
from treadle.native.pointers import OwningStructure, bytes_beyond, pointer, pointers, structs
from treadle.runtime.native_step.structs import MIRRORS

SOURCE = Path(treadle.__file__).parent


class Pair(OwningStructure):
    _fields_ = (("first", ctypes.c_void_p), ("count", ctypes.c_int64))
    _points_to_ = (("f8", ("first",)),)


class Nest(OwningStructure):
    _fields_ = (("number", ctypes.c_int32), ("pair", Pair), ("pairs", ctypes.c_void_p))


class Row(OwningStructure):
    _fields_ = (("places", ctypes.c_void_p * 2), ("count", ctypes.c_int64))


def late(array):
    """Set through views of a struct in a struct in an array of structs."""
    found = structs(Nest, [Nest(), Nest()])
    found[1].pair.first = array
    return found


HOLDS = {
    "a pointer": pointer,
    "an array of pointers": lambda array: pointers([array]),
    "a struct": lambda array: Pair(array, 3),
    "a struct by name": lambda array: Pair(count=3, first=array),
    "a struct in a struct": lambda array: Nest(1, Pair(array, 3)),
    "a struct in an array": lambda array: structs(Pair, [Pair(array, 3), Pair()]),
    "an array of structs in a struct": lambda a: Nest(1, Pair(), structs(Pair, [Pair(a, 3)])),
    "an array of pointers in a struct": lambda array: Row([None, array], 3),
    "structs in pointers": lambda array: pointers([None, Pair(array, 3)]),
    "what is set later": late,
}


@pytest.fixture(scope="module")
def _others_set_aside() -> None:
    """Let the collector look at nothing that other tests left."""
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("_others_set_aside")
@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_what_is_pointed_to_lives_as_long_as_the_pointer(hold) -> None:
    array = np.arange(1000.0)
    seen = weakref.ref(array)
    held = hold(array)
    del array
    gc.collect()
    assert seen() is not None
    del held
    gc.collect()
    assert seen() is None


def test_a_field_that_is_set_again_lets_go_of_what_it_had() -> None:
    array = np.arange(1000.0)
    seen, held = weakref.ref(array), late(array)
    del array
    held[1].pair.first = None
    assert seen() is None
    assert held[1].pair.first is None


@pytest.mark.parametrize("kind", [Pair, Nest, Row, *MIRRORS], ids=lambda kind: kind.__name__)
def test_no_pointer_of_a_struct_takes_an_address(kind) -> None:
    """What is no array keeps nothing alive, so it is refused, in every struct and field."""
    made, address = kind(), np.arange(8).ctypes.data
    for name, ctype in kind._fields_:
        if ctype is ctypes.c_void_p:
            with pytest.raises(TypeError, match="Found int for a pointer"):
                setattr(made, name, address)
        elif issubclass(ctype, ctypes.Array):
            with pytest.raises(TypeError, match="Found int for a pointer"):
                setattr(made, name, [address, address])
    with pytest.raises(AssertionError, match="no field 'other'"):
        made.other = 1


def test_arrays_that_c_would_misread_are_no_pointers() -> None:
    with pytest.raises(AssertionError, match="float32"):
        Pair(np.arange(8, dtype=np.float32), 8)
    with pytest.raises(AssertionError, match="first"):
        Pair(np.arange(8.0)[::2], 4)


def uses_of(tree: ast.AST) -> set[str]:
    """What a file does with addresses: names of ctypes' functions, and attributes of arrays."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        of_ctypes = isinstance(node.value, ast.Name) and node.value.id == "ctypes"
        if of_ctypes and node.attr in ("addressof", "cast", "Structure", "Union", "POINTER"):
            found.add(node.attr)
        if node.attr in ("data_as", "from_address", "from_buffer", "__array_interface__"):
            found.add(node.attr)
        if isinstance(node.value, ast.Attribute) and node.value.attr == "ctypes":
            found.add(f"ctypes.{node.attr}")
        if node.attr == "data_ptr":
            found.add("data_ptr")
    return found


def test_nobody_else_handles_addresses() -> None:
    """So that every pointer that C keeps is made by what owns it."""
    uses = {
        str(file.relative_to(SOURCE)): found
        for file in SOURCE.rglob("*.py")
        if (found := uses_of(ast.parse(file.read_text())))
    }
    assert uses.pop("native/pointers.py") == {"addressof", "Structure", "ctypes.data"}
    assert uses.pop("native/mirror.py") == {"Structure"}
    assert uses == {}


def test_an_address_by_any_name_is_found() -> None:
    lines = ("x.ctypes.data", "ctypes.addressof(x)", "ctypes.cast(x, y)", "x.ctypes.data_as(y)")
    for line in (*lines, "class A(ctypes.Structure): pass", "t.data_ptr()", "K.from_buffer(x)"):
        assert uses_of(ast.parse(line)), line
    assert not uses_of(ast.parse("ctypes.c_void_p; x.data; ctypes.byref(x)"))


def test_a_pointer_may_point_inside() -> None:
    array = np.arange(5, dtype=np.int64)
    place = ctypes.cast(pointer(array, 3), ctypes.POINTER(ctypes.c_int64))
    assert place[0] == 3
    assert bytes_beyond(array[3:], 64) == (bytes_beyond(array, 64) + 24) % 64


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
