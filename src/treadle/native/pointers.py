"""Pointers for C that keep what they point to: whoever holds one holds the array.

ctypes copies addresses and forgets whose they are. Here nobody handles addresses: a pointer, and a
field of a struct, is given the array (or the struct) itself, and keeps it.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["OwningStructure", "bytes_beyond", "pointer", "pointers", "structs"]

S = TypeVar("S", bound="OwningStructure")
Array = npt.NDArray[np.generic]


class OwningStructure(ctypes.Structure):
    """A struct that C reads, whose fields for pointers take arrays, structs or arrays of these.

    What they are given lives as long as the struct, or as the struct or array of structs that it
    is a part of. `_points_to_` says to which numbers (see `mirror`).
    """

    _takes_strides_ = False
    """Whether the rows of its arrays may be parts of longer ones."""

    def __init__(self, *values: Any, **named: Any) -> None:  # Any: what its fields take
        names = _members(type(self))
        assert len(values) <= len(names)
        for name, value in (*zip(names, values, strict=False), *named.items()):
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        member = _members(type(self)).get(name)
        assert member is not None, f"{type(self).__name__} has no field '{name}'"
        if member.kind == "number":
            ctypes.Structure.__setattr__(self, name, value)
            return
        if isinstance(value, np.ndarray):
            assert member.item_bytes in (0, value.itemsize), (name, value.dtype)
            assert self._takes_strides_ or value.flags.c_contiguous, name
        kept = pointers(value) if member.kind == "pointers" else value
        held = _address(value) if member.kind == "pointer" else kept
        ctypes.Structure.__setattr__(self, name, held)
        _owned(self)[ctypes.addressof(self) + member.offset] = kept


class _Member(NamedTuple):
    kind: Literal["number", "pointer", "pointers", "struct"]
    offset: int
    item_bytes: int
    """Of what it points to; 0: anything."""


@functools.cache
def _members(struct: type[OwningStructure]) -> dict[str, _Member]:
    """Return the fields of a struct, in their order."""
    said = getattr(struct, "_points_to_", ())
    sizes = {field: int(kind[1:]) for kind, fields in said for field in fields}
    found = {}
    for name, ctype, *_ in struct._fields_:
        kind: Literal["number", "pointer", "pointers", "struct"] = "number"
        if ctype is ctypes.c_void_p:
            kind = "pointer"
        elif issubclass(ctype, ctypes.Array):
            kind = "pointers"
        elif issubclass(ctype, ctypes.Structure):
            kind = "struct"
        found[name] = _Member(kind, getattr(struct, name).offset, sizes.get(name, 0))
    return found


def _owned(part: Any) -> dict[int, Any]:  # Any: objects of ctypes
    """Return what lives as long as `part`: by the address of the field that points to it.

    A part of a struct or of an array is a fleeting view; the whole is what lives.
    """
    while part._b_base_ is not None:
        part = part._b_base_
    found: dict[int, Any] = vars(part).setdefault("_owned", {})
    return found


def _address(value: object) -> int | None:
    """Return where a value lies that C is to read or write.

    Raises:
        TypeError: It is a plain number, which keeps nothing alive.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    if isinstance(value, OwningStructure | ctypes.Array):
        return ctypes.addressof(value)
    raise TypeError(
        f"Found {type(value).__name__} for a pointer, expected an array or a struct; give what is "
        f"pointed to, so that it lives as long."
    )


def pointer(array: Array, first: int = 0) -> ctypes.c_void_p:
    """Return a pointer to element `first` of an array, which lives as long as it does."""
    found = ctypes.c_void_p(array.ctypes.data + first * array.itemsize)
    found._owner = array  # type: ignore[attr-defined]  # ctypes' objects take attributes
    return found


def pointers(values: Sequence[Any]) -> "ctypes.Array[ctypes.c_void_p]":
    """Return an array of pointers to arrays (or structs, or None), which live as long as it."""
    found = (ctypes.c_void_p * len(values))(*map(_address, values))
    found._owners = values  # type: ignore[attr-defined]  # ctypes' objects take attributes
    return found


def structs(kind: type[S], parts: Sequence[S]) -> "ctypes.Array[S]":
    """Return structs one behind the other; what they point to lives as long as this."""
    found = (kind * len(parts))(*parts)
    found._owners = list(parts)  # type: ignore[attr-defined]  # ctypes' objects take attributes
    return found


def bytes_beyond(array: Array, boundary: int) -> int:
    """Return how far behind a multiple of `boundary` an array begins."""
    return int(array.ctypes.data) % boundary
