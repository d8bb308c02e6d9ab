"""Copying a checkpoint, as it is or in another dtype, in bounded memory."""

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

from treadle.core import progress
from treadle.core.checkpoint.hashing import content_hash
from treadle.core.checkpoint.header import PlannedTensor, TensorInfo
from treadle.core.checkpoint.manifest import (
    Manifest,
    Parent,
    Provenance,
    SideFile,
    model_card,
    read_manifest,
)
from treadle.core.checkpoint.reader import CheckpointReader
from treadle.core.checkpoint.writer import MAX_SHARD_BYTES, CheckpointWriter
from treadle.core.codec import DTYPES, FLOATS, dtype_code
from treadle.core.errors import SettingsError

__all__ = ["copy_checkpoint", "with_dtype"]

_CHUNK_BYTES = 32 << 20  # of the wider of the two dtypes
_SYNC_BYTES = 256 << 20  # a killed copy repeats at most this much, or one tensor

logger = logging.getLogger(__name__)


def copy_checkpoint(
    source: CheckpointReader | Path,
    out: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> CheckpointReader:
    """Copy a model folder, with its floats in `dtype`; a killed copy goes on where it stopped.

    Anonymous memory stays under 100 MB whatever the sizes of model and tensors. Tied names are
    written once. A cast drops optional side files, because they belong to other numbers.

    Args:
        source: The model to copy.
        out: The folder to make.
        dtype: float32, float16, bfloat16, or another float's code; None keeps each tensor's.
        max_shard_bytes: The bound on a shard's tensors.
        overwrite: Replace an existing model folder.

    Raises:
        SettingsError: `out` exists, `dtype` is unfit, or a side file forbids the cast.
    """
    reader = source if isinstance(source, CheckpointReader) else CheckpointReader(source)
    code = None if dtype is None else _float_code(dtype)
    side_files = _choose_side_files(reader.folder, code)
    infos = [info for name, info in reader.tensors.items() if name not in reader.tied]
    planned = [PlannedTensor(info.name, _target(info, code), info.shape) for info in infos]
    parent = Parent(name=reader.folder.absolute().name, content_hash=content_hash(reader))
    provenance = Provenance(verb="copy", settings={"dtype": dtype}, parents=(parent,))
    with CheckpointWriter(
        out,
        planned,
        parent=reader,
        config=reader.config if code is None else with_dtype(reader.config, code),
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
        fingerprint=f"copy {parent.content_hash} {code}",
    ) as writer:
        _stream(reader, writer, infos)
        for side_file in side_files:
            target = writer.folder / side_file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(reader.folder / side_file.path, target)
        manifest = Manifest(side_files=side_files, provenance=provenance)
        writer.finish(manifest, model_card(writer.out.name, provenance))
    return CheckpointReader(writer.out)


def _stream(reader: CheckpointReader, writer: CheckpointWriter, infos: list[TensorInfo]) -> None:
    finished: list[str] = []
    pending_bytes = 0
    already = writer.done
    with progress.steps(f"copying {writer.out.name}", sum(info.num_bytes for info in infos)) as bar:
        for info in infos:
            if info.name not in already:
                num_elements = _CHUNK_BYTES // 8
                for first in range(0, info.num_elements, num_elements):
                    values = reader.read_range(info.name, first, num_elements)
                    writer.write_range(info.name, first, values)
                    bar.advance(values.nbytes)
                finished.append(info.name)
                pending_bytes += info.num_bytes
            if pending_bytes > _SYNC_BYTES:
                writer.mark_done(finished)
                finished, pending_bytes = [], 0


def _float_code(dtype: str) -> str:
    code = dtype_code(dtype)
    if code not in FLOATS:
        raise SettingsError(f"dtype {dtype!r} is no float; choose float32, float16 or bfloat16.")
    return code


def _target(info: TensorInfo, code: str | None) -> str:
    return code if code is not None and info.dtype in FLOATS else info.dtype


def _choose_side_files(folder: Path, code: str | None) -> tuple[SideFile, ...]:
    manifest = read_manifest(folder)
    if manifest is None or code is None:
        return () if manifest is None else manifest.side_files
    for side_file in manifest.side_files:
        if side_file.required:
            raise SettingsError(
                f"{folder} computes with {side_file.path}, which belongs to its present numbers; "
                "copy it without a dtype, or export it first."
            )
        logger.warning("Leaving out %s: it belongs to the uncast weights.", side_file.path)
    return ()


def with_dtype(config: dict[str, Any], code: str) -> dict[str, Any]:
    """Return the config with the dtype in every place that states one, or else at the top."""
    named = DTYPES[code].name
    changed = copy.deepcopy(config)
    parts = [part for part in [changed, *changed.values()] if isinstance(part, dict)]
    places = [(part, key) for part in parts for key in ("dtype", "torch_dtype") if key in part]
    for part, key in places or [(changed, "dtype")]:
        part[key] = named
    return changed
