"""Holds the structs that Python hands to a kernel against those that the kernel was compiled with.

A kernel that takes structs has a function `mirrored` (mirror.h), by which C says where each field
of each struct lies and to which numbers it points. What differs is found when the kernel is loaded,
not when numbers are wrong. What void pointers and pointers to structs point to is not compared.
"""

import ctypes
from typing import NamedTuple

from treadle.core.errors import TreadleError

__all__ = ["Mirror", "require_same"]

Mirror = type[ctypes.Structure]
_INTEGERS = {ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64}
_NATURALS = {ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64}
_FLOATS = {ctypes.c_float, ctypes.c_double}


class _Field(NamedTuple):
    name: str
    offset: int
    num_bytes: int
    kind: str
    """i: integer, u: without a sign, f: float, p: array, struct or pointer; pf4: one to floats."""


class _Struct(NamedTuple):
    num_bytes: int
    fields: tuple[_Field, ...]


def require_same(kernel: str, library: ctypes.CDLL, mirrors: tuple[Mirror, ...]) -> None:
    """Check that C has the same fields in the same places as each class of `mirrors`.

    A class has the name of its struct, maybe with an underscore before it. It says to which numbers
    its fields point by `_points_to_`, pairs of a kind with its bytes (f4) and names of fields.

    Raises:
        TreadleError: A struct is missing or differs.
    """
    if not mirrors:
        return
    compiled = _compiled(kernel, library)
    for mirror in mirrors:
        name, own = mirror.__name__.removeprefix("_"), _own(mirror)
        if compiled.get(name) != own:
            raise TreadleError(
                f"The struct {name} of the kernel '{kernel}' is not what {mirror.__module__} "
                f"expects: {_difference(compiled.get(name), own)}. Give both sides the same "
                f"fields; in an installed package, install treadle again."
            )


def _compiled(kernel: str, library: ctypes.CDLL) -> dict[str, _Struct]:
    """Return what C says of its structs."""
    say = getattr(library, "mirrored", None)
    if say is None:
        raise TreadleError(
            f"The kernel '{kernel}' has no function 'mirrored', which says what its structs are; "
            f"add MIRRORS(...) of mirror.h to {kernel}.c."
        )
    say.restype, say.argtypes = ctypes.c_int64, [ctypes.c_char_p, ctypes.c_int64]
    size = say(None, 0) + 1
    room = ctypes.create_string_buffer(size)
    say(room, size)
    found = {}
    for line in room.value.decode().splitlines():
        name, num_bytes, *fields = line.split(" ")
        found[name] = _Struct(int(num_bytes), tuple(_field(*f.split(":")) for f in fields))
    return found


def _field(name: str, offset: str, num_bytes: str, kind: str) -> _Field:
    return _Field(name, int(offset), int(num_bytes), kind)


def _own(mirror: Mirror) -> _Struct:
    said = getattr(mirror, "_points_to_", ())
    fields, pointees = [], {name: kind for kind, names in said for name in names}
    for name, ctype, *_ in mirror._fields_:
        place = getattr(mirror, name)
        fields.append(_Field(name, place.offset, place.size, _kind(ctype) + pointees.get(name, "")))
    return _Struct(ctypes.sizeof(mirror), tuple(fields))


def _kind(ctype: object) -> str:
    for kind, types in (("i", _INTEGERS), ("u", _NATURALS), ("f", _FLOATS)):
        if ctype in types:
            return kind
    return "p"


def _difference(compiled: _Struct | None, own: _Struct) -> str:
    if compiled is None:
        return "C has no such struct"
    for place in range(max(len(compiled.fields), len(own.fields))):
        found, wanted = (s.fields[place : place + 1] for s in (compiled, own))
        if found != wanted:
            return f"field {place} is {_said(found)} in C and {_said(wanted)} in Python"
    return f"it has {compiled.num_bytes} bytes in C and {own.num_bytes} in Python"


def _said(fields: tuple[_Field, ...]) -> str:
    for name, offset, num_bytes, kind in fields:
        return f"'{name}' ({num_bytes} bytes of kind {kind} at {offset})"
    return "missing"
