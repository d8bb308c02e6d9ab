"""The kinds of side files: what each is, whether its folder can be read without it, its form.

A new kind is one line of the table. Folders from elsewhere, or from a newer treadle, may hold kinds
that this one does not know: those that are not required are left alone, all others refused.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from treadle.core.checkpoint.manifest import Manifest, SideFile, read_manifest
from treadle.core.errors import CheckpointError, UnsupportedModelError

__all__ = ["KINDS", "SideFileKind", "check_side_file", "require_understood", "side_file"]


class SideFileKind(NamedTuple):
    """One line of the table."""

    is_required: bool
    """Whether the folder means something else to who does not read the file."""
    says: str
    """What stands in it, for people."""
    version: int = 1
    """Of its form; a newer one than this is not read."""
    model: str = ""
    """``module:Class`` of the pydantic model of a JSON file."""
    columns: tuple[str, ...] = ()
    """Columns that a Parquet file, or each of a folder of them, has at least."""


KINDS: Mapping[str, SideFileKind] = MappingProxyType(
    {
        "result": SideFileKind(
            False, "the account of the run that made the folder", model="treadle.core.result:Result"
        ),
        "recipe": SideFileKind(False, "the recipe of a merge, in mergekit's grammar"),
        "nonuniform-shapes": SideFileKind(
            True, "a config whose blocks differ in width, which only treadle reads"
        ),
        "routing": SideFileKind(
            True,
            "which of several models answers a prompt",
            model="treadle.core.checkpoint.routed:Routing",
        ),
        "router": SideFileKind(True, "the numbers by which one of several models is chosen"),
        "layer-routing": SideFileKind(
            True,
            "which experts answer a prompt in the layers that they have of their own",
            model="treadle.core.checkpoint.layered:LayerRouting",
        ),
        "expert": SideFileKind(True, "what an expert has of its own beside a dense model"),
        "query-router": SideFileKind(True, "which of several models answers a query, by name"),
        "router-steps": SideFileKind(False, "a router after every so many steps of its training"),
        "retaining-heads": SideFileKind(
            False, "trained heads that say which entries of the cache stay"
        ),
        "journal": SideFileKind(False, "every trial of a search, with its losses"),
        "decisions": SideFileKind(
            False,
            "a row for every document, with the reason it went for",
            columns=("id", "is_kept", "drop_reason"),
        ),
        "statistics": SideFileKind(False, "what rules measured of documents", columns=("id",)),
        "index": SideFileKind(
            False, "what later runs need to know these documents", columns=("id",)
        ),
        "rejects": SideFileKind(
            False, "records that are no documents", columns=("file", "row", "reason")
        ),
        "mended": SideFileKind(
            False, "what was replaced in documents", columns=("file", "row", "what")
        ),
        "order": SideFileKind(
            True, "how tokens are cut into rows and steps", model="treadle.core.ledger:Order"
        ),
        "documents": SideFileKind(
            False, "where each document's tokens stand", columns=("id", "first_token", "num_tokens")
        ),
        "digests": SideFileKind(False, "hashes of the tokens, piece by piece"),
        "ledger": SideFileKind(
            False, "which row is in which slot of which step", columns=("step", "slot", "row")
        ),
        "spans": SideFileKind(
            False, "which pieces of documents are in a row", columns=("row", "document")
        ),
    }
)


def side_file(kind: str, path: str, base_hash: str = "") -> SideFile:
    """Return the entry of a side file in the manifest.

    Args:
        kind: A key of `KINDS`.
        path: Inside the folder.
        base_hash: Of what it belongs to; empty for the weights of the folder itself, whose hash is
            filled in when the folder is finished.
    """
    entry = KINDS[kind]
    return SideFile(
        path=path,
        kind=kind,
        version=entry.version,
        base_hash=base_hash,
        required=entry.is_required,
    )


def require_understood(folder: Path) -> Manifest | None:
    """Return the folder's manifest, if it has one and this treadle reads all that is required.

    Raises:
        UnsupportedModelError: A required side file is of a kind or version that it does not know.
        CheckpointError: One is not there, or belongs to other weights; or the manifest is damaged.
    """
    manifest = read_manifest(folder)
    for entry in manifest.side_files if manifest is not None else ():
        if not entry.required:
            continue
        kind = KINDS.get(entry.kind)
        if kind is None or entry.version > kind.version:
            known = "" if kind is None else f" (it reads version {kind.version})"
            raise UnsupportedModelError(
                f"'{folder}' means what its side file {entry.path} says (kind '{entry.kind}', "
                f"version {entry.version}), which this treadle does not read{known}; use the "
                f"version that made it."
            )
        if not (folder / entry.path).exists():
            raise CheckpointError(
                f"'{folder}' lacks its required side file {entry.path} ({entry.kind}: "
                f"{kind.says}); copy the whole folder again."
            )
    return manifest


def check_side_file(folder: Path, entry: SideFile) -> str:
    """Return what is wrong with a side file, in words; an empty text where nothing is."""
    kind, path = KINDS.get(entry.kind), folder / entry.path
    if not path.exists():
        return "is missing"
    if kind is None:
        return f"is of a kind that this treadle does not know ('{entry.kind}')"
    if entry.version > kind.version:
        return f"is of version {entry.version}, and this treadle reads {kind.version}"
    if kind.model:
        return _check_json(path, kind.model)
    return _check_parquet(path, kind.columns) if kind.columns else ""


def _check_json(path: Path, model: str) -> str:
    module, _, name = model.partition(":")
    schema: type[BaseModel] = getattr(import_module(module), name)
    try:
        schema.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        return f"is damaged ({first['msg']} at {place})"
    return ""


def _check_parquet(path: Path, columns: tuple[str, ...]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            names = pq.read_schema(file).names
        except (OSError, pa.ArrowException) as error:
            return f"is damaged ({file.name}: {str(error).splitlines()[0]})"
        missing = [name for name in columns if name not in names]
        if missing:
            return f"lacks the columns {', '.join(missing)} ({file.name})"
    return ""
