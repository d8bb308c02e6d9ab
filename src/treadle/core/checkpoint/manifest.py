"""treadle.json and the model card: how a folder was made, and what travels beside its weights."""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from treadle.core.errors import CheckpointError

__all__ = [
    "MANIFEST_FILE",
    "Manifest",
    "Parent",
    "Provenance",
    "SideFile",
    "model_card",
    "read_manifest",
]

MANIFEST_FILE = "treadle.json"
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def _treadle_version() -> str:
    try:
        return importlib.metadata.version("treadle")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parent(_Record):
    """A model that went in; the hash is empty where its weights were not at hand."""

    name: str
    content_hash: str = ""


class Provenance(_Record):
    """How a folder was made."""

    verb: str
    action: str = ""
    method: str | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int | None = None
    parents: tuple[Parent, ...] = ()
    fingerprint: str = ""
    """Of the run, as in its result; empty where no result tells of it."""
    treadle_version: str = Field(default_factory=_treadle_version)


class SideFile(_Record):
    """A file beside the weights; where it is required, the weights alone compute something else."""

    path: str
    kind: str
    version: int
    base_hash: str
    required: bool


class Manifest(_Record):
    """The content of treadle.json; the writer fills in `content_hash` when it finishes."""

    format: Literal[1] = 1
    content_hash: str = ""
    side_files: tuple[SideFile, ...] = ()
    provenance: Provenance

    def completed(self, content_hash: str) -> "Manifest":
        """Return the manifest of the finished weights; side files without a base are theirs."""
        files = (
            one if one.base_hash else one.model_copy(update={"base_hash": content_hash})
            for one in self.side_files
        )
        return self.model_copy(update={"content_hash": content_hash, "side_files": tuple(files)})


def read_manifest(folder: Path) -> Manifest | None:
    """Return the folder's treadle.json, or None if treadle did not make the folder.

    Raises:
        CheckpointError: the file is there but is not a manifest of this format.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return None
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        raise CheckpointError(
            f"{file} is not a manifest of format 1 ({first['msg']} at {place}); copy it again, or "
            "make the folder again with this version of treadle."
        ) from error


def model_card(name: str, provenance: Provenance, summary: str = "") -> str:
    """Return a short README.md: front matter for hubs, how the model was made, and from what."""
    tags: list[JsonValue] = ["treadle", *(["merge"] if provenance.verb == "merge" else [])]
    front: dict[str, JsonValue] = {"library_name": "transformers", "tags": tags}
    if hub_ids := [p.name for p in provenance.parents if _HUB_ID.fullmatch(p.name)]:
        front["base_model"] = list[JsonValue](hub_ids)
    step = " ".join(filter(None, [provenance.verb, provenance.action, provenance.method]))
    rows: list[tuple[str, JsonValue]] = [
        ("verb", step),
        ("seed", provenance.seed),
        ("treadle", provenance.treadle_version),
    ]
    rows += [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in provenance.settings.items()
    ]
    rows += [(f"from {parent.name}", parent.content_hash) for parent in provenance.parents]
    table = "\n".join(f"| {key} | `{value}` |" for key, value in rows if value not in (None, ""))
    return "\n\n".join(
        filter(
            None,
            [
                f"---\n{yaml.safe_dump(front, sort_keys=True)}---",
                f"# {name}",
                summary or f"Made by `treadle {step}`.",
                f"| how it was made | |\n|---|---|\n{table}",
                "The whole record is in `treadle.json`.\n",
            ],
        )
    )
