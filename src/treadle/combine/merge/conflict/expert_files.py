"""Writing what each expert keeps of its own: tensor by tensor, into one file."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats
from treadle.combine.merge.conflict.choosing import num_kept
from treadle.combine.merge.inputs.sources import TensorSource
from treadle.combine.merge.jobs import TensorJob
from treadle.core.checkpoint import CheckpointReader
from treadle.core.checkpoint.header import PlannedTensor, build_header
from treadle.core.checkpoint.layered import packed_changes
from treadle.core.codec import DTYPES, Array
from treadle.core.keep import keep_rows
from treadle.core.seed import numpy_stream

__all__ = ["Keep", "OwnShare", "written_expert"]

Keep = Literal["magnitude", "rows", "random"]


class OwnShare(NamedTuple):
    """What an expert keeps of a matrix."""

    density: float
    """Which share of its numbers."""
    keep: Keep
    """Those that differ most from the dense model, over the matrix or in each of its rows; or drawn
    ones, whose differences are enlarged so that their sum stays (DARE)."""
    seed: int


def written_expert(
    file: Path, place: int, jobs: Sequence[TensorJob], dense: CheckpointReader, keeping: OwnShare
) -> None:
    """Write an expert's own numbers; memory holds one tensor at a time.

    Args:
        file: To be written; its parts lie beside it until it is whole.
        place: Of the expert among the models of each job.
        jobs: The tensors that it has of its own.
        dense: The model that it stands beside.
        keeping: How much it keeps.
    """
    planned: list[PlannedTensor] = []
    parts = file.with_name(f".{file.name}.parts")
    with parts.open("wb") as stream:
        for job in jobs:
            name = job.inputs.name
            own = _read(job.inputs.models[place], job.inputs.shape)
            beside = np.asarray(dense.array(name), np.float32)
            values, kept = _kept(name, own, beside, keeping, place)
            code = dense.tensors[name].dtype
            dense.release(name)
            packed = packed_changes(name, code, values.astype(DTYPES[code]), kept)
            for part, (dtype, array) in packed.items():
                planned.append(PlannedTensor(part, dtype, array.shape))
                stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    _joined(file, parts, planned)
    parts.unlink()


def _joined(file: Path, parts: Path, planned: Sequence[PlannedTensor]) -> None:
    """Make one safetensors file of tensors that lie one behind the other."""
    header, infos = build_header(file, planned)
    starts = {info.name: info.start_byte for info in infos}
    made = file.with_name(f".{file.name}.made")
    with made.open("wb") as target, parts.open("rb") as source:
        target.write(header)
        for one in planned:
            target.seek(starts[one.name])
            left = one.num_bytes
            while left:
                run = source.read(min(left, 1 << 24))
                target.write(run)
                left -= len(run)
        target.flush()
        os.fsync(target.fileno())
    shutil.move(made, file)


def _read(source: TensorSource, shape: tuple[int, ...]) -> Floats:
    found = np.empty(math.prod(shape), np.float32)
    source.read(0, found)
    return found.reshape(shape)


def _kept(
    name: str, own: Floats, dense: Floats, keeping: OwnShare, place: int
) -> tuple[Array, npt.NDArray[np.bool_] | None]:
    """Return an expert's tensor, and where its numbers are its own; None: everywhere."""
    if own.ndim < 2 or keeping.density >= 1:
        return own, None
    change = own - dense
    count = num_kept(own.shape, keeping.density, by_row=False)
    if keeping.keep == "random":
        stream = numpy_stream(keeping.seed, f"expert {place}: {name}")
        kept = _largest(stream.random(own.shape, dtype=np.float32), count) & (change != 0)
        return dense + change * np.float32(change.size / max(count, 1)), kept
    sizes = np.abs(change)
    if keeping.keep == "rows":
        flat = sizes.reshape(-1, sizes.shape[-1])
        left = flat.shape[1] - math.ceil(keeping.density * flat.shape[1])
        kept = keep_rows(flat, left).reshape(own.shape)
    else:
        kept = _largest(sizes, count)
    return own, kept & (change != 0)


def _largest(sizes: Floats, count: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the `count` largest; of equal ones the first."""
    flat = sizes.reshape(-1)
    kept = np.zeros(flat.size, np.bool_)
    if count:
        bound = np.partition(flat, flat.size - count)[flat.size - count]
        kept = flat > bound
        ties = np.flatnonzero(flat == bound)
        kept[ties[: count - int(kept.sum())]] = True
    return kept.reshape(sizes.shape)
