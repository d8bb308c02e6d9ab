"""Structs that C and Python share: what differs is refused when a kernel is loaded."""

import ctypes
import importlib
import pkgutil

import numpy as np
import pytest

import treadle
from treadle import native
from treadle.core.errors import TreadleError
from treadle.native import compiler, loader, mirror
from treadle.native import text as texts
from treadle.native.pointers import OwningStructure
from treadle.runtime.native_step import llama as step
from treadle.runtime.native_step import structs

pytestmark = pytest.mark.skipif(loader.library("obs") is None, reason="no machine code here")
MIRRORS = {"obs": (native._Block,), "text": (texts._Characters, texts._StopWords)}
MIRRORS["step"] = structs.MIRRORS
EVERY = [(kernel, struct) for kernel, own in MIRRORS.items() for struct in own]


def changed(struct, fields, points_to=None):
    pointees = getattr(struct, "_points_to_", ())
    members = {
        "_fields_": tuple(fields),
        "_points_to_": pointees if points_to is None else points_to,
    }
    return type(struct.__name__, (OwningStructure,), members)


def test_every_struct_of_ours_is_compared():
    for module in pkgutil.walk_packages(treadle.__path__, "treadle."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = {s for s in OwningStructure.__subclasses__() if s.__module__.startswith("treadle.")}
    assert ours == {struct for _, struct in EVERY}


def test_every_struct_of_c_has_a_mirror():
    for kernel in compiler.KERNELS:
        library = loader.library(kernel)
        compiled = mirror._compiled(kernel, library) if hasattr(library, "mirrored") else {}
        assert set(compiled) == {s.__name__.lstrip("_") for s in MIRRORS.get(kernel, ())}


@pytest.mark.parametrize(
    ("kernel", "struct"), EVERY, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_struct_that_changed_on_one_side_is_refused(kernel, struct):
    """A field more, one less, two in another order, one of another type: each is named."""
    name, fields = struct.__name__.lstrip("_"), list(struct._fields_)
    assert loader.library(kernel, struct) is not None
    (first, kind), (second, _) = fields[0], fields[1]
    other = ctypes.c_float if kind is not ctypes.c_float else ctypes.c_int32
    swapped = [(second, fields[1][1]), fields[0], *fields[2:]]
    said = {
        f"field {len(fields)} is missing in C and 'more'": [*fields, ("more", ctypes.c_int32)],
        f"field {len(fields) - 1} is '{fields[-1][0]}' .* in C and missing": fields[:-1],
        f"field 0 is '{first}' .* in C and '{second}'": swapped,
        f"field 0 is '{first}' .* in C and '{first}' .* of kind": [(first, other), *fields[1:]],
        f"field 0 is '{first}' .* in C and 'renamed'": [("renamed", kind), *fields[1:]],
    }
    for difference, own in said.items():
        with pytest.raises(
            TreadleError, match=f"The struct {name} of the kernel '{kernel}' is not"
        ):
            loader.library(kernel, changed(struct, own))
        with pytest.raises(TreadleError, match=difference):
            loader.library(kernel, changed(struct, own))


@pytest.mark.parametrize("kind", ["f8", "i4", ""])
def test_a_pointer_to_other_numbers_is_refused(kind):
    kinds = ((kind, ("weight", "upper", "error")), ("u1", ("keep",)))
    says = rf"field 0 is 'weight' \(8 bytes of kind pf4 at 0\) in C and .* kind p{kind} at 0\) in P"
    with pytest.raises(TreadleError, match=says):
        loader.library("obs", changed(native._Block, native._Block._fields_, kinds))


def test_a_struct_that_c_does_not_have_is_refused():
    class Unknown(ctypes.Structure):
        _fields_ = (("field", ctypes.c_int32),)

    with pytest.raises(
        TreadleError, match=r"C has no such struct\. Give both sides the same fields"
    ):
        loader.library("obs", Unknown)


def test_users_of_kernels_hand_their_structs_over(monkeypatch, llama):
    """What is compared is what is used: all structs come by when the kernels are asked for."""
    seen: dict[str, set[type]] = {}

    def spied(kernel, *mirrors):
        seen.setdefault(kernel, set()).update(mirrors)
        return loader.library(kernel, *mirrors)

    for module in (native, texts, step):
        monkeypatch.setattr(module, "library", spied)
    step.LlamaStep(llama, "fp32", 1).close()
    one = np.ones((1, 1), np.float32)
    native.obs_block(one, one, np.ones((1, 1), np.bool_), one.copy())
    texts.count_documents(texts.Texts.of(["a"]), "words", ["a"], ("a",))
    assert seen == {kernel: set(own) for kernel, own in MIRRORS.items()}
