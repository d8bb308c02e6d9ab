"""References to models: PATH@REVISION+ADAPTER@REVISION, as recipes and command lines write them."""

from typing import NamedTuple

from treadle.combine.merge.recipe.document import Node

__all__ = ["ModelRef", "read_reference"]


class ModelRef(NamedTuple):
    """A model, and the LoRA adapter to be applied to it."""

    path: str
    """A folder, a hub id or `packaged:NAME`."""
    adapter: str | None = None
    revision: str | None = None
    """A hub's revision; whoever opens a local folder refuses one."""
    adapter_revision: str | None = None

    def __str__(self) -> str:
        model = f"{self.path}@{self.revision}" if self.revision else self.path
        if self.adapter is None:
            return model
        revision = f"@{self.adapter_revision}" if self.adapter_revision else ""
        return f"{model}+{self.adapter}{revision}"


def read_reference(node: Node) -> ModelRef:
    """Read "path@revision+adapter@revision", or mergekit's mapping of the same.

    Raises:
        SettingsError: It is neither.
    """
    if isinstance(node.value, dict):
        entries = node.mapping(("model", "lora"))
        path, revision = _revised(node.needed(entries, "model"))
        adapter, adapter_revision = _revised(entries["lora"]) if "lora" in entries else (None, None)
        return ModelRef(path, adapter, revision, adapter_revision)
    parts = [Node(part, node.file, node.path) for part in node.text().split("+")]
    if len(parts) > 2:
        raise node.refusal(f"found several '+' in '{node.value}'; write MODEL or MODEL+ADAPTER.")
    path, revision = _revised(parts[0])
    adapter, adapter_revision = _revised(parts[1]) if len(parts) > 1 else (None, None)
    return ModelRef(path, adapter, revision, adapter_revision)


def _revised(node: Node) -> tuple[str, str | None]:
    if isinstance(node.value, dict):
        entries = node.mapping(("path", "revision"))
        revision = entries["revision"].text() if "revision" in entries else None
        return node.needed(entries, "path").text(), revision
    path, *revisions = node.text().split("@")
    if len(revisions) > 1 or not path or "" in revisions:
        raise node.refusal(f"found '{node.value}', expected PATH or PATH@REVISION; change it.")
    return path, revisions[0] if revisions else None
