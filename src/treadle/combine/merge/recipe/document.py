"""A YAML document whose every value knows where it stands, so that errors can say it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from treadle.core.errors import DataError, SettingsError
from treadle.core.mistaken import pointed
from treadle.core.registry import near

__all__ = ["Node", "read"]


class Node(NamedTuple):
    """A value of the document and where it stands."""

    value: Any  # Any: whatever the YAML holds
    file: str
    path: str = ""

    def refusal(self, message: str) -> SettingsError:
        """Return the error that says where and what."""
        place = f"{self.file}, key '{self.path}'" if self.path else self.file
        return SettingsError(f"{place}: {message}")

    def mapping(self, keys: Sequence[str] | None = None) -> dict[str, "Node"]:
        """Return the entries that are not null; only `keys` are allowed, if given."""
        if not isinstance(self.value, dict):
            raise self.refusal(f"found {self.value!r}, expected a mapping; write 'key: value'.")
        for key in self.value:
            if not isinstance(key, str):
                raise self.refusal(f"the key {key!r} is no text; put it in quotes.")
            if keys is not None and key not in keys:
                raise self.refusal(f"unknown key '{key}'. {near(key, list(keys))}")
        prefix = f"{self.path}." if self.path else ""
        return {
            key: Node(value, self.file, f"{prefix}{key}")
            for key, value in self.value.items()
            if value is not None
        }

    def entries(self) -> list["Node"]:
        """Return the elements of a list that holds at least one."""
        if not isinstance(self.value, list) or not self.value:
            raise self.refusal(f"found {self.value!r}, expected a list; write '- ' before each.")
        return [
            Node(value, self.file, f"{self.path}[{index}]")
            for index, value in enumerate(self.value)
        ]

    def text(self) -> str:
        """Return a text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.refusal(f"found {self.value!r}, expected a text; put it in quotes.")
        return self.value

    def count(self, least: int) -> int:
        """Return a whole number from `least` on."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < least:
            raise self.refusal(
                f"found {self.value!r}, expected a whole number from {least} on; change it."
            )
        return self.value

    def needed(self, entries: Mapping[str, "Node"], key: str) -> "Node":
        """Return one of this mapping's entries, which must be there."""
        if key not in entries:
            raise self.refusal(f"the key '{key}' is missing; add it.")
        return entries[key]


def read(path: Path) -> list[Any]:  # Any: YAML
    """Return the documents of a YAML file that are not empty.

    Raises:
        DataError: The file is missing or no YAML.
        SettingsError: A key stands twice in one mapping.
    """
    if not path.is_file():
        raise DataError(f"No recipe at '{path}'; give a YAML file.")
    if what := pointed(path):
        raise DataError(f"'{path}' is {what}.")
    try:
        return [found for found in _documents(path) if found is not None]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"'{path}' is not YAML: {error}. Mend the line named.") from error


def _documents(path: Path) -> Iterator[Any]:  # Any: YAML
    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    try:
        while loader.check_node():
            node = loader.get_node()
            # Before construction: it copies the entries of `<<` into the mapping.
            _refuse_repeated_keys(node, str(path), set())
            yield loader.construct_document(node)
    finally:
        loader.dispose()


def _refuse_repeated_keys(node: yaml.Node | None, file: str, seen: set[int]) -> None:
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))  # an alias may lead back to its own mapping
    if isinstance(node, yaml.MappingNode):
        found: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in found:
                line = key.start_mark.line + 1
                raise SettingsError(
                    f"'{file}', line {line}: the key '{key.value}' stands twice in one mapping; "
                    f"remove one."
                )
            found.add(str(key.value))
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            _refuse_repeated_keys(part, file, seen)
