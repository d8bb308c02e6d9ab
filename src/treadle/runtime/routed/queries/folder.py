"""A router as a folder: what it says of itself, and its numbers."""

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import CheckpointError
from treadle.model.embed.specs import embedder_of
from treadle.runtime.routed.queries.program import Floats, made, parts
from treadle.runtime.routed.queries.query import QueryRouter
from treadle.runtime.routed.queries.record import RouterRecord
from treadle.runtime.routed.queries.scorers import SCORERS

__all__ = ["NUMBERS_FILE", "RECORD_FILE", "load_router", "save_router"]

RECORD_FILE, NUMBERS_FILE = "router.json", "router.safetensors"
_SCORER = "scorer."
_PROJECTION, _QUESTIONS = "projection", "questions"


def load_router(folder: Path) -> QueryRouter:
    """Read a router's folder, or one of its saved steps.

    Raises:
        CheckpointError: It is none, is damaged, or the model that makes its vectors is missing.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    record, file = _record(folder), folder / NUMBERS_FILE
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} is missing or damaged ({error}); copy the router again."
        ) from error
    cls = SCORERS.get(str(record.scorer.get("kind")))
    if cls is None:
        raise CheckpointError(
            f"{folder / RECORD_FILE} has a scorer of kind {record.scorer.get('kind')!r}, and this "
            f"treadle knows {', '.join(SCORERS)}; use the version that made it."
        )
    embedder = embedder_of(record.features) if cls.reads_vectors else None
    projection = _projection(tensors, record, file)
    sizes = {"models": len(record.models)}
    if embedder is not None:
        sizes["dim"] = embedder.dim if projection is None else projection.shape[1]
        if projection is not None and projection.shape[0] != embedder.dim:
            raise CheckpointError(
                f"{file} reads vectors of {projection.shape[0]} numbers, and the features have "
                f"{embedder.dim}; copy the router again."
            )
    own = {k.removeprefix(_SCORER): v for k, v in tensors.items() if k.startswith(_SCORER)}
    scorer = made(cls, record.scorer, own, sizes, str(file))
    questions = frozenset(int(one) for one in tensors.get(_QUESTIONS, np.zeros(0, np.uint64)))
    return QueryRouter(record, scorer, embedder, projection, questions)


def save_router(router: QueryRouter, folder: Path) -> None:
    """Write a router into a folder; its record takes its scorer's settings."""
    from safetensors.numpy import save

    plain, arrays = parts(router.scorer)
    tensors = {f"{_SCORER}{name}": values for name, values in arrays.items()}
    tensors[_QUESTIONS] = np.asarray(sorted(router.questions), np.uint64)
    is_projected = router.projection is not None and router.scorer.reads_vectors
    if router.projection is not None and is_projected:
        tensors[_PROJECTION] = np.ascontiguousarray(router.projection)
    size = tensors[_PROJECTION].shape[1] if is_projected else None
    record = router.record.model_copy(update={"scorer": plain, "projection": size})
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    (folder / NUMBERS_FILE).write_bytes(save(tensors, metadata={"format": "np"}))


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


def _projection(tensors: dict[str, Floats], record: RouterRecord, file: Path) -> Floats | None:
    found = tensors.get(_PROJECTION)
    wanted = record.projection
    is_right = (found is None) == (wanted is None)
    if found is not None and is_right:
        is_right = (
            found.dtype == np.float32
            and found.ndim == 2
            and found.shape[1] == wanted
            and bool(np.isfinite(found).all())
        )
    if not is_right:
        form = "none" if found is None else f"{found.dtype} {list(found.shape)}"
        raise CheckpointError(
            f"{file} was expected to hold a finite projection to {wanted} numbers in float32, and "
            f"holds {form}; copy the router again."
        )
    return found
