"""Read recorded trees: those that DeFT measures with, and plain JSON of our own.

Ours is ``{"prompt": text or token ids, "nodes": [{"parent": null or a place in this list, "tokens":
how many, or their ids}]}``; a parent stands before its children, null is the prompt.
"""

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from treadle.core.errors import DataError, SettingsError
from treadle.runtime.decode.base import Controller
from treadle.runtime.decode.tables import CONTROLLERS

__all__ = ["RecordedNode", "RecordedTree", "read_recording", "recording_of"]


class RecordedNode(BaseModel):
    """A node of a recorded tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: Annotated[int, Field(ge=0)] | None
    num_tokens: Annotated[int, Field(ge=1)]
    tokens: tuple[int, ...] | None = None


class RecordedTree(NamedTuple):
    """A prompt and how its tree grew."""

    prompt: str | list[int]
    nodes: tuple[RecordedNode, ...]
    num_prompt: int | None
    """Tokens of the prompt when it was recorded, where the file says it."""

    @property
    def controller(self) -> Controller:
        """What lets a tree grow like it."""
        return CONTROLLERS.resolve({"method": "replay", "nodes": self.nodes})


def read_recording(path: str | Path, number: int = 0) -> RecordedTree:
    """Read a recorded tree.

    Args:
        path: Of a JSON file.
        number: Of the tree, where the file is a list of them.

    Raises:
        DataError: There is no such file, or no tree in it.
        SettingsError: It has no tree of this number.
    """
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path} ({error}); give a JSON file of a tree.") from error
    if isinstance(found, list):
        if not 0 <= number < len(found):
            raise SettingsError(
                f"{path} has {len(found)} trees and none of number {number}; give 0 to "
                f"{len(found) - 1}."
            )
        found = found[number]
    try:
        return recording_of(found)
    except DataError as error:
        raise DataError(f"{path}, tree {number}: {error}") from error


def recording_of(tree: Mapping[str, Any]) -> RecordedTree:  # Any: JSON values, checked here
    """Return what a mapping in one of the two forms says.

    Raises:
        DataError: It is none of them.
    """
    is_mapping = isinstance(tree, Mapping)
    try:
        if is_mapping and "data" in tree:
            return _of_deft(tree)
        if is_mapping and "nodes" in tree:
            return _of_ours(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"A node is not as expected ({error!r}); mend the recording.") from error
    keys = ", ".join(map(str, tree)) if is_mapping else type(tree).__name__
    raise DataError(
        f"Found {keys}, expected the keys prompt and data (DeFT's form) or prompt and nodes; give "
        f"a recorded tree."
    )


def _of_deft(tree: Mapping[str, Any]) -> RecordedTree:  # Any: JSON values
    data = tree["data"]
    if not data:
        raise DataError("The tree is empty; take another one.")
    nodes: list[RecordedNode] = []
    waiting: deque[tuple[int, int | None]] = deque((c, None) for c in data["0"]["children"])
    while waiting:
        number, parent = waiting.popleft()
        record = data[str(number)]
        if record["value"]:  # some thoughts of DeFT's records are empty; what follows them is kept
            nodes.append(RecordedNode(parent=parent, num_tokens=record["value"]))
            parent = len(nodes) - 1
        waiting.extend((child, parent) for child in record["children"])
    if not nodes:
        raise DataError("The tree has no tokens behind its prompt; take another one.")
    return RecordedTree(tree["prompt"], tuple(nodes), int(data["0"]["value"]))


def _of_ours(tree: Mapping[str, Any]) -> RecordedTree:  # Any: JSON values
    nodes = []
    for record in tree["nodes"]:
        tokens = record["tokens"]
        is_count = isinstance(tokens, int)
        nodes.append(
            RecordedNode(
                parent=record.get("parent"),
                num_tokens=tokens if is_count else len(tokens),
                tokens=None if is_count else tuple(tokens),
            )
        )
    prompt = tree["prompt"]
    own = prompt if isinstance(prompt, str) else [int(token) for token in prompt]
    return RecordedTree(own, tuple(nodes), None)
