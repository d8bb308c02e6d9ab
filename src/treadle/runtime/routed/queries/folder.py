"""A router as a folder: what it says of itself, and its numbers."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import CheckpointError
from treadle.core.ports import Embedder
from treadle.model.embed.specs import embedder_of
from treadle.runtime.routed.queries.program import Floats, made, parts
from treadle.runtime.routed.queries.query import QueryRouter
from treadle.runtime.routed.queries.record import RouterRecord
from treadle.runtime.routed.queries.scorers import SCORERS

__all__ = [
    "DIRECTIONS_FILE",
    "NUMBERS_FILE",
    "RECORD_FILE",
    "load_router",
    "router_hash",
    "save_router",
]

RECORD_FILE, NUMBERS_FILE = "router.json", "router.safetensors"
DIRECTIONS_FILE = "directions.safetensors"
"""What the vectors are projected to, where they are."""
_SCORER = "scorer."
_PROJECTION, _QUESTIONS = "projection", "questions"


def load_router(folder: Path) -> QueryRouter:
    """Read a router's folder, or one of its saved steps.

    Raises:
        CheckpointError: It is none, is damaged, or the model that makes its vectors is missing.
    """
    record, file = _record(folder), folder / NUMBERS_FILE
    tensors = _tensors(file)
    cls = SCORERS.get(str(record.scorer.get("kind")))
    if cls is None:
        raise CheckpointError(
            f"{folder / RECORD_FILE} has a scorer of kind {record.scorer.get('kind')!r}, and this "
            f"treadle knows {', '.join(SCORERS)}; use the version that made it."
        )
    embedder = _embedder(folder, record) if cls.reads_vectors else None
    projection = _projection(folder, record)
    sizes = {"models": len(record.models)}
    if embedder is not None:
        sizes["dim"] = embedder.dim if projection is None else projection.shape[1]
        if projection is not None and projection.shape[0] != embedder.dim:
            raise CheckpointError(
                f"{folder / DIRECTIONS_FILE} reads vectors of {projection.shape[0]} numbers, and "
                f"the features have {embedder.dim}; copy the router again."
            )
    own = {k.removeprefix(_SCORER): v for k, v in tensors.items() if k.startswith(_SCORER)}
    scorer = made(cls, record.scorer, own, sizes, str(file))
    questions = frozenset(int(one) for one in tensors.get(_QUESTIONS, np.zeros(0, np.uint64)))
    return QueryRouter(record, scorer, embedder, projection, questions)


def router_hash(folder: Path) -> str:
    """Return a hash of all that decides how a router chooses, but for a model that it reads by."""
    digests = [
        hashlib.sha256((folder / name).read_bytes()).digest()
        for name in (RECORD_FILE, NUMBERS_FILE, DIRECTIONS_FILE)
        if (folder / name).exists()
    ]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def save_router(router: QueryRouter, folder: Path, shared: Path | None = None) -> None:
    """Write a router into a folder; its record takes its scorer's settings.

    Args:
        router: What is written.
        folder: Where.
        shared: Holds the directions of several routers, of which each gets a link.
    """
    from safetensors.numpy import save

    plain, arrays = parts(router.scorer)
    tensors = {f"{_SCORER}{name}": values for name, values in arrays.items()}
    tensors[_QUESTIONS] = np.asarray(sorted(router.questions), np.uint64)
    folder.mkdir(parents=True, exist_ok=True)
    size = None
    if router.projection is not None and router.scorer.reads_vectors:
        size = router.projection.shape[1]
        _save_directions(router.projection, folder, shared)
    record = router.record.model_copy(update={"scorer": plain, "projection": size})
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    (folder / NUMBERS_FILE).write_bytes(save(tensors, metadata={"format": "np"}))


def _save_directions(projection: Floats, folder: Path, shared: Path | None) -> None:
    from safetensors.numpy import save

    source = (shared or folder) / DIRECTIONS_FILE
    if shared is None or not source.exists():
        content = {_PROJECTION: np.ascontiguousarray(projection)}
        source.write_bytes(save(content, metadata={"format": "np"}))
    if shared is None or shared == folder:
        return
    try:
        os.link(source, folder / DIRECTIONS_FILE)
    except OSError:  # a file system without links
        shutil.copyfile(source, folder / DIRECTIONS_FILE)


def _tensors(file: Path) -> dict[str, Floats]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found: dict[str, Floats] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} is missing or damaged ({error}); copy the router again."
        ) from error
    return found


def _record(folder: Path) -> RouterRecord:
    file = folder / RECORD_FILE
    try:
        return RouterRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"'{folder}' holds no {RECORD_FILE}; give the folder of a router, which treadle route "
            f"makes, or one of its steps."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise CheckpointError(
            f"{file} is not what a router says of itself ({first['msg']} at {place}); copy it "
            f"again."
        ) from error


def _embedder(folder: Path, record: RouterRecord) -> Embedder:
    try:
        return embedder_of(record.features)
    except CheckpointError as error:
        place = getattr(record.features, "folder", record.features.kind)
        raise CheckpointError(
            f"The router '{folder}' reads queries by '{place}', as its {RECORD_FILE} says: {error}"
        ) from error


def _projection(folder: Path, record: RouterRecord) -> Floats | None:
    if record.projection is None:
        return None
    file = folder / DIRECTIONS_FILE
    found = _tensors(file).get(_PROJECTION)
    if (
        found is None
        or found.dtype != np.float32
        or found.ndim != 2
        or found.shape[1] != record.projection
        or not np.isfinite(found).all()
    ):
        form = "none" if found is None else f"{found.dtype} {list(found.shape)}"
        raise CheckpointError(
            f"{file} was expected to hold a finite projection to {record.projection} numbers in "
            f"float32, and holds {form}; copy the router again."
        )
    return found
