"""Names and settings in words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from treadle.page.numbers import bytes_unit, plain

__all__ = [
    "SHORT_HASH",
    "Fact",
    "capital",
    "count",
    "facts",
    "is_set",
    "last_part",
    "listed",
    "protocol_facts",
    "settings_of",
    "shortened",
    "shortened_apart",
    "spaced",
    "value_text",
]

SHORT_HASH = 8
_HEX = re.compile(r"[0-9a-f]{16,}")
_JOINS = {
    "file": "as in the file",
    "\\n\\n": "blank line between documents",
    "\\n": "new line between documents",
    "": "nothing between documents",
    " ": "space between documents",
}
"""How documents were joined, line ends escaped -> the same in words."""


class Fact(NamedTuple):
    """A name and a value; `full` is set where the text is a shortened hash."""

    name: str
    text: str
    full: str = ""


def spaced(name: str) -> str:
    """Return a field's name in words, without the unit that its value will carry."""
    name = name.removeprefix("num_")
    for unit in ("_tokens", "_bytes", "_seconds", "_sha256"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def capital(text: str) -> str:
    """Return `text` with its first letter as a sentence begins."""
    return text[:1].upper() + text[1:]


def last_part(path: str) -> str:
    """Return the name at a path's end."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def shortened(name: str, most: int = 48) -> str:
    """Return both ends of a name too long for a sentence or a picture; a table has it all."""
    if len(name) <= most:
        return name
    tail = most // 3  # names made by rule differ at their ends
    return f"{name[: most - tail - 1]}…{name[-tail:]}"


def shortened_apart(names: Sequence[str], most: int) -> list[str]:
    """Return the beginnings of long names; both ends where only the ends tell them apart."""
    begun = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
    return [
        short if begun.count(short) == 1 else shortened(name, most)
        for name, short in zip(names, begun, strict=True)
    ]


def count(number: int, noun: str) -> str:
    """Return ``1 model`` or ``3 models``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Iterable[str]) -> str:
    """Return ``a, b and c``."""
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def is_set(value: Any) -> bool:  # Any: JSON values
    """Whether a setting says something: none, nothing and the method of that name do not."""
    return value is not None and value not in ("", [], {}, {"method": "none"})


def value_text(name: str, value: Any) -> str:  # Any: JSON values
    """Return a JSON value in words, the name's unit behind a number; nothing where none is set."""
    if not is_set(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(name, value)
    if isinstance(value, Mapping):
        rest = {key: e for key, e in value.items() if key != "method" and is_set(e)}
        inner = ", ".join(f"{spaced(key)} {value_text(key, entry)}" for key, entry in rest.items())
        return " ".join(filter(None, [str(value.get("method", "")), f"({inner})" if inner else ""]))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(value_text("", entry) for entry in value)
    return str(value)


def _number(name: str, value: float) -> str:
    if name.startswith("num_"):
        return plain(value)
    if name.endswith("_bytes"):
        unit, size = bytes_unit([value])
        return f"{plain(value / size, 3)} {unit}"
    if name.endswith("_tokens"):
        return f"{plain(value)} tokens"
    if name.endswith("_seconds"):
        return f"{plain(value)} s"
    text = plain(value, 6)
    # A fraction of 1.0 and a count of 1 are two settings.
    return f"{text}.0" if isinstance(value, float) and text.isdecimal() else text


def facts(values: Mapping[str, Any]) -> list[Fact]:  # Any: JSON values
    """Return what is set of `values` in words, long hashes shortened and moved to the end."""
    found = []
    for name, value in values.items():
        if not is_set(value):
            continue
        text = value_text(name, value)
        if isinstance(value, str) and _HEX.fullmatch(value):
            found.append(Fact(spaced(name) + " hash" * (name != "hash"), text[:SHORT_HASH], text))
        else:
            found.append(Fact(spaced(name), text))
    return sorted(found, key=lambda fact: bool(fact.full))


def protocol_facts(protocol: Mapping[str, Any]) -> list[Fact]:  # Any: JSON values
    """Return a protocol in words: how documents were joined, which windows were taken."""
    values: dict[str, Any] = {}  # Any: JSON values
    for name, value in protocol.items():
        if name == "sampled_seed":
            values["windows"] = "the first ones" if value is None else f"drawn by seed {value}"
        elif name == "join" and isinstance(value, str):
            escaped = value.replace("\n", "\\n")
            values[name] = _JOINS.get(escaped, escaped)
        else:
            values[name] = value
    return facts(values)


def settings_of(settings: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON values
    """Return a run's settings in words, without the method's name."""
    return {key: value_text(key, value) for key, value in settings.items() if key != "method"}
