"""One JSON object as it was meant: exact numbers, and a field that is no JSON costs no document.

The strict parser reads what it can without a loss. All else is read here once more: numbers that a
float would change stay as they are written, and values that JSON does not have are replaced. Every
replacement has a name; the same object gives the same record whichever way it came.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from treadle.core.table.mends import FOLDER_LOST, NO_UTF8

__all__ = ["JsonRecord", "NotJson", "fields_in", "read_object", "rest_of", "strings_in"]

_MAX_DEPTH = 254
"""What orjson writes at most."""
_NO_VALUE = "a value that JSON does not have (such as NaN) became null"
_BEYOND = "a number beyond float64 became null"
_SURROGATE = "half a surrogate pair was replaced"
_TWICE = "of a key that stands twice the last value was taken"
_CONTROL = "a control character was escaped"
_MARK = "a byte order mark was left out"
_DEEP = f"a value below {_MAX_DEPTH} levels became null"
_ESCAPE = "a backslash that escapes nothing was kept as one"
_STRAY = "\udc5c"
"""Stands for a backslash that escapes nothing, until it is known where it stands."""

_SHAPE = bytes(
    ord(
        "0"
        if chr(b) in "0123456789."
        else "e"
        if chr(b) in "eE"
        else "-"
        if chr(b) in "+-"
        else " "
    )
    for b in range(256)
)
"""Of every byte, what it can be in a number."""
_LONG_SHAPES = (b"0" * 16, b"0e000", b"0e-000")
"""In any number that a float might change: more than 15 digits, or an exponent of three."""
_SHORT_BYTES = 500
"""Up to here two texts are sooner compared than looked through."""
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKENS = re.compile(rf'{_STRING}|[^\s\[\]{{}},:"]+', re.DOTALL)
_BRACKETS = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_ESCAPES = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt])?')
_PLAIN = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SURROGATES = re.compile("[\ud800-\udfff]")
_FOREIGN = re.compile("[\udc80-\udcff]")
"""What Python puts in place of bytes that are no UTF-8."""
_EMPTY_BYTES = len("{}")
_SAFE_CHARS = 16
"""A number without an exponent that is written in fewer has no digit too many."""
_INTEGER_DIGITS = 4000
"""Python makes no integer of a longer text."""


class NotJson(ValueError):
    """A line that holds no record; says why."""


class _Written(NamedTuple):
    """A number that no float holds, as it is written."""

    digits: str
    is_beyond: bool


class JsonRecord:
    """The fields of an object, and by name what was replaced in those that were taken."""

    def __init__(self, fields: dict[str, Any], mends: list[str], is_strict: bool) -> None:
        self._fields, self._mends, self._is_strict = fields, mends, is_strict

    @property
    def mends(self) -> list[str]:
        """What was replaced, each thing once."""
        return list(dict.fromkeys(self._mends))

    def take(self, column: str) -> Any:  # Any: a JSON value
        """Take a field out; one that is named as in "meta.text" may lie in another.

        Raises:
            KeyError: There is none.
        """
        fields, name = self._fields, column
        while name not in fields and "." in name:
            outer, _, name = name.partition(".")
            fields = fields[outer]
            if not isinstance(fields, dict):
                raise KeyError(column)
        return fields.pop(name)

    def text(self, column: str) -> str | None:
        """Take a text out; None if the field holds another value.

        Raises:
            KeyError: There is no such field.
            NotJson: The text itself is damaged.
        """
        found = self.take(column)
        if not isinstance(found, str):
            return None
        if self._is_strict or not _SURROGATES.search(found):
            return found
        if NO_UTF8 in self._mends and _FOREIGN.search(found):
            raise NotJson("not UTF-8")
        if _ESCAPE in self._mends and _STRAY in found:
            raise NotJson("not JSON")
        return self._clean(found)

    def name(self, column: str) -> Any:  # Any: a JSON value
        """Take an id out; numbers keep their digits, and no two broken strings become one."""
        try:
            found = self.take(column)
        except KeyError:
            return None
        if isinstance(found, _Written):
            return found.digits
        return self._key(found) if isinstance(found, str) else found

    def rest(self, extra: Mapping[str, str | None]) -> str | None:
        """Return the other fields as JSON, with those `extra` ones that they lack."""
        import orjson

        if not self._is_strict:
            self._settle()
        if any(_says_else(self._fields.get(key, one), one) for key, one in extra.items()):
            self._mends.append(FOLDER_LOST)
        fields = {**extra, **self._fields} if extra else self._fields
        return orjson.dumps(fields).decode() if fields else None

    def set_apart(self, names: Iterable[str], prefix: str) -> None:
        """Put a prefix before the names of those fields that would stand for something else."""
        taken = frozenset(names)
        if taken & self._fields.keys():
            self._fields = {
                prefix + key if key in taken else key: one for key, one in self._fields.items()
            }

    def names_of_texts(self) -> list[str]:
        """Return the names of the fields that hold texts, those in another as "meta.text"."""
        found, held = list[str](), [("", self._fields)]
        while held:
            prefix, fields = held.pop()
            found += [prefix + name for name, one in fields.items() if isinstance(one, str)]
            inner = [(name, one) for name, one in fields.items() if isinstance(one, dict)]
            held += [(f"{prefix}{name}.", one) for name, one in inner]
        return found

    def strings(self) -> list[str]:
        """Return every text in the fields, in their order."""
        return [self._clean(text) for text in strings_in(self._fields)]

    def _settle(self) -> None:
        """Put what can be written in place of all that cannot; nesting may be too deep to call."""
        held: list[Any] = [self._fields]  # Any: JSON values
        while held:
            values = held.pop()
            if isinstance(values, dict):
                pairs = [(self._key(key), self._settled(one)) for key, one in values.items()]
                values.clear()
                values.update(pairs)
            else:
                values[:] = [self._settled(one) for one in values]
            inner = values.values() if isinstance(values, dict) else values
            held += [one for one in inner if isinstance(one, dict | list)]

    def _settled(self, value: Any) -> Any:  # Any: JSON values
        import orjson

        if isinstance(value, str):
            return self._clean(value)
        if not isinstance(value, _Written):
            return value
        if value.is_beyond:
            self._mends.append(_BEYOND)
            return None
        return orjson.Fragment(value.digits)

    def _clean(self, text: str) -> str:
        """Return a text with U+FFFD in place of what is no character."""
        return _SURROGATES.sub("\ufffd", self._known(text))

    def _key(self, text: str) -> str:
        """Return a text in which what is no character stands as its escape: texts stay apart."""
        return self._known(text).encode("utf-8", "backslashreplace").decode()

    def _known(self, text: str) -> str:
        if self._is_strict:
            return text
        known = text.replace(_STRAY, "\\") if _ESCAPE in self._mends else text
        if _SURROGATES.search(known) and NO_UTF8 not in self._mends:
            self._mends.append(_SURROGATE)
        return known


def _says_else(value: Any, of_path: str | None) -> bool:  # Any: a JSON value
    is_same = value == of_path or (isinstance(value, int | float) and json.dumps(value) == of_path)
    return not is_same


def strings_in(value: Any) -> Iterator[str]:  # Any: JSON values
    """Yield every text in a value, in order; nesting may be too deep to call."""
    held = [value]
    while held:
        one = held.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list | tuple):
            held += reversed(list(one.values()) if isinstance(one, dict) else one)


def read_object(line: bytes) -> JsonRecord:
    """Return what a line says.

    Raises:
        NotJson: It is no JSON object.
    """
    import orjson

    try:
        found = orjson.loads(line)
        if isinstance(found, dict) and _is_faithful(line, orjson.dumps(found)):
            return JsonRecord(found, [], True)
    except (orjson.JSONDecodeError, TypeError):  # the latter: deeper than it can write
        pass
    return _Reader().read(line)


def rest_of(content: bytes, extra: Mapping[str, str | None]) -> tuple[str | None, list[str]]:
    """Return an object as JSON that is written in one way (None: it is empty), and its mends.

    Raises:
        NotJson: It is no JSON object.
    """
    import orjson

    if not extra:
        try:
            written = orjson.dumps(orjson.loads(content))
            if _is_faithful(content, written):
                return written.decode() if len(written) > _EMPTY_BYTES else None, []
        except (orjson.JSONDecodeError, TypeError):
            pass
    record = read_object(content)
    return record.rest(extra), record.mends


def fields_in(meta: str) -> dict[str, Any]:  # Any: JSON values
    """Return the fields of a JSON text that `rest` wrote, with all digits of integers."""
    import orjson

    if _long_numbers(meta.encode()):
        whole: dict[str, Any] = json.loads(meta, parse_int=_integer)
        return whole
    found: dict[str, Any] = orjson.loads(meta)
    return found


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < _INTEGER_DIGITS else digits


def _is_faithful(content: bytes, written: bytes) -> bool:
    """Whether writing what was read has lost no digit and no key (each has a colon)."""
    if content.count(b":") != written.count(b":"):
        return False
    shape = content.translate(_SHAPE)
    if not any(one in shape for one in _LONG_SHAPES):
        return True
    if len(content) < _SHORT_BYTES and _squeezed(content) == _squeezed(written):
        return True
    return _long_numbers(content) == _long_numbers(written)


def _squeezed(content: bytes) -> bytes:
    return content.replace(b": ", b":").replace(b", ", b",")


def _long_numbers(content: bytes) -> list[bytes]:
    """Return all that looks like a number which a float might change."""
    shape, found = content.translate(_SHAPE), []
    for one in _LONG_SHAPES:
        place = shape.find(one)
        while place >= 0:
            start, stop = shape.rfind(b" ", 0, place) + 1, shape.find(b" ", place)
            stop = stop if stop >= 0 else len(shape)
            found.append(content[start:stop])
            place = shape.find(one, stop)
    return found


class _Reader:
    """Reads one line that the strict parser refuses, or would change."""

    def __init__(self) -> None:
        self._mends: list[str] = []

    def read(self, line: bytes) -> JsonRecord:
        always: list[str] = []
        try:
            text = line.decode()
        except UnicodeDecodeError:
            always.append(NO_UTF8)
            text = line.decode(errors="surrogateescape")
        if text.startswith("\ufeff"):
            text = text[1:]
            always.append(_MARK)
        if text.count("[") + text.count("{") > _MAX_DEPTH:
            text = self._shallow(text, always)
        found = self._parsed(text)
        if found is None:
            raise NotJson("not UTF-8" if NO_UTF8 in always else "not JSON")
        if not isinstance(found, dict):
            raise NotJson("not a JSON object")
        return JsonRecord(found, [*always, *self._mends], False)

    def _parsed(self, text: str) -> Any:  # Any: JSON values; None where there are none
        for is_mended in (False, True):
            for is_strict in (True, False):
                self._mends = [] if is_strict else [_CONTROL]
                tried = _TOKENS.sub(self._token, text) if is_mended else text
                try:
                    return json.loads(
                        tried,
                        strict=is_strict,
                        parse_int=self._number,
                        parse_float=self._number,
                        parse_constant=self._constant,
                        object_pairs_hook=self._object,
                    )
                except (json.JSONDecodeError, RecursionError):
                    continue
        return None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
        found = dict(pairs)
        if len(found) < len(pairs):
            self._mends.append(_TWICE)
        return found

    def _constant(self, _name: str) -> None:
        self._mends.append(_NO_VALUE)

    def _token(self, found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith('"'):
            return _ESCAPES.sub(self._escape, token)
        if _PLAIN.fullmatch(token):
            return token
        self._mends.append(_NO_VALUE)
        return "null"

    def _escape(self, found: re.Match[str]) -> str:
        if found[1]:
            return found[0]
        self._mends.append(_ESCAPE)
        return _STRAY

    @staticmethod
    def _number(digits: str) -> Any:  # Any: a number, or how it is written
        import orjson

        is_integer = digits.removeprefix("-").isdecimal()
        try:
            value = orjson.loads(digits)
            if len(digits) < _SAFE_CHARS and "e" not in digits.lower():
                return value
        except orjson.JSONDecodeError:
            return _Written(digits, not is_integer)
        if is_integer and isinstance(value, float):
            return _Written(digits, False)
        try:
            is_kept = Decimal(digits) == Decimal(orjson.dumps(value).decode())
        except InvalidOperation:  # an exponent beyond all numbers
            is_kept = False
        return value if is_kept else _Written(digits, False)

    @staticmethod
    def _shallow(text: str, mends: list[str]) -> str:
        """Return a text with null in place of what lies too deep to be written again."""
        depth, start, stop, pieces = 0, 0, 0, []
        for found in _BRACKETS.finditer(text):
            if found[0] in "[{":
                depth += 1
                start = found.start() if depth == _MAX_DEPTH + 1 else start
            elif found[0] in "]}":
                if depth == _MAX_DEPTH + 1:
                    pieces += [text[stop:start], "null"]
                    stop = found.end()
                depth -= 1
        if pieces:
            mends.append(_DEEP)
        return "".join([*pieces, text[stop:]])
