"""A GGUF file as a Hugging Face folder: floats, or codes where a format holds them exactly."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import (
    CheckpointWriter,
    Manifest,
    Parent,
    PlannedTensor,
    Provenance,
    model_card,
)
from treadle.core.checkpoint.publish import write_text
from treadle.core.checkpoint.reader import EMBEDDINGS
from treadle.core.codec import DTYPES, Array, cast
from treadle.core.errors import DataError, UnsupportedModelError
from treadle.core.progress import steps
from treadle.model.belonging import require_finite_where_read
from treadle.model.coded import BLOCK, Coded, DecodedReader
from treadle.model.facts import HEADS
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.model import open_gguf
from treadle.model.gguf.tokenizer import has_tokenizer, tokenizer_files
from treadle.model.grid import Grid
from treadle.model.load import skeleton
from treadle.model.packing import (
    pack_grid,
    planned_matrix,
    quantization_config,
)

__all__ = ["Unpacked", "write_folder"]

_DECODED = "F16"
"""Codes times scales of 16 bits: at most 4.9e-4 of a weight is rounded away (see `pretrained`)."""
_BITS = {"q4_0": 4, "q8": 8}
"""Forms that pack-quantized holds exactly -> bits; minima that are no multiples it does not."""
_SYNC_BYTES = 256 << 20  # a killed run repeats at most this much, or one tensor


class Unpacked(NamedTuple):
    """What was written."""

    num_coded: int
    """Matrices that kept their codes."""
    num_rounded: int
    """Tensors whose numbers are floats of another width than those of the file say."""
    no_tokenizer: str
    """Why no tokenizer was written; empty where one was."""


def write_folder(
    file: Path,
    out: Path,
    provenance: Provenance,
    *,
    code: str | None = None,
    keeps_codes: bool = False,
    overwrite: bool = False,
    card_summary: str = "",
) -> Unpacked:
    """Write the model in a GGUF file as a folder; memory holds one tensor at a time.

    A killed run goes on where it stopped when it is started again.

    Args:
        file: The file; any part of a split one.
        out: The folder to make.
        provenance: How it was made; its parents name the file by its hash.
        code: The dtype of all floats; None: floats keep theirs, and decoded codes take float16.
        keeps_codes: Whether blocks that compressed-tensors' pack-quantized holds stay codes.
        overwrite: Replace an existing model folder.
        card_summary: A sentence for the model card.

    Raises:
        CheckpointError: The file is damaged, or lacks something.
        UnsupportedModelError: No block of it can stay codes, and all that can should.
    """
    with open_gguf(file) as reader:
        skeleton(reader)
        plan = _plan(reader, code, keeps_codes)
        texts, no_tokenizer = _tokenizer_texts(file)
        with CheckpointWriter(
            out,
            [tensor for tensors in plan.tensors.values() for tensor in tensors],
            parent=None,
            config=plan.config,
            overwrite=overwrite,
            fingerprint=f"gguf {_fingerprint(provenance)} {code} {keeps_codes}",
        ) as writer:
            _stream(reader, writer, plan)
            for name, content in texts.items():
                write_text(writer.folder / name, content)
            card = model_card(writer.out.name, provenance, card_summary)
            writer.finish(Manifest(provenance=provenance), card)
        rounded = [n for n, i in reader.tensors.items() if _is_rounded(reader, plan, n, i.dtype)]
    return Unpacked(len(plan.bits), len(rounded), no_tokenizer)


class _Plan(NamedTuple):
    tensors: dict[str, list[PlannedTensor]]
    """Name in the reader -> what is written of it."""
    bits: dict[str, int]
    """Matrices that stay codes -> their bits."""
    config: dict[str, Any]


def _fingerprint(provenance: Provenance) -> str:
    parents: tuple[Parent, ...] = provenance.parents
    return " ".join(str(parent.content_hash) for parent in parents)


def _plan(reader: DecodedReader, code: str | None, keeps_codes: bool) -> _Plan:
    bits = dict(_kept(reader)) if keeps_codes else {}
    if keeps_codes and not bits:
        raise UnsupportedModelError(
            f"'{reader.folder}' holds no block of Q4_0 or Q8_0, whose codes pack-quantized has "
            f"exactly; leave --codes out for a folder of floats."
        )
    tensors: dict[str, list[PlannedTensor]] = {}
    for name, info in reader.tensors.items():
        if name in bits:
            stem, groups = name.removesuffix(".weight"), info.shape[-1] // BLOCK
            tensors[name] = planned_matrix(stem, info.shape, bits[name], groups, True, "F16")
        else:
            own = code or (_DECODED if reader.coded(name) is not None else info.dtype)
            tensors[name] = [PlannedTensor(name, own, info.shape)]
    embedding = next(name for name in tensors if name.endswith(EMBEDDINGS))
    config = dict(reader.config) | {"dtype": DTYPES[tensors[embedding][0].dtype].name}
    if bits:
        config["quantization_config"] = _groups_of(reader, bits)
    return _Plan(tensors, bits, config)


def _kept(reader: DecodedReader) -> Iterator[tuple[str, int]]:
    """Yield the matrices of blocks whose codes the format holds."""
    for name, info in reader.tensors.items():
        found = reader.coded(name) if ".layers." in name and len(info.shape) == 2 else None
        if isinstance(found, Coded) and found.form in _BITS:
            yield name, _BITS[found.form]


def _groups_of(reader: DecodedReader, bits: dict[str, int]) -> dict[str, Any]:
    """Return the quantization_config; where widths differ, the rarer one names its modules."""
    ignored = [
        name.removesuffix(".weight")
        for name, info in reader.tensors.items()
        if len(info.shape) == 2 and name not in bits and not name.endswith(EMBEDDINGS)
    ]
    heads = [head.removesuffix(".weight") for head in HEADS if head in reader.tied]
    (usual, _), *others = Counter(bits.values()).most_common()
    found = quantization_config(usual, BLOCK, True, [*ignored, *heads])
    for number, (num_bits, _) in enumerate(others, 1):
        own = quantization_config(num_bits, BLOCK, True, [])["config_groups"]["group_0"]
        stems = [n.removesuffix(".weight") for n, found in bits.items() if found == num_bits]
        found["config_groups"][f"group_{number}"] = own | {"targets": stems}
        rest = [n.removesuffix(".weight") for n, found in bits.items() if found == usual]
        found["config_groups"]["group_0"]["targets"] = rest
    return found


def _stream(reader: DecodedReader, writer: CheckpointWriter, plan: _Plan) -> None:
    already, finished, pending_bytes = writer.done, [], 0
    total = sum(t.num_bytes for tensors in plan.tensors.values() for t in tensors)
    with steps(f"unpacking {reader.folder.name}", total) as bar:
        for name, tensors in plan.tensors.items():
            num_bytes = sum(tensor.num_bytes for tensor in tensors)
            if not {tensor.name for tensor in tensors} <= already:
                for part, values in _parts(reader, plan, name).items():
                    writer.write(part, values)
                reader.release(name)
                finished += [tensor.name for tensor in tensors]
                pending_bytes += num_bytes
            bar.advance(num_bytes)
            if pending_bytes > _SYNC_BYTES:
                writer.mark_done(finished)
                finished, pending_bytes = [], 0


def _parts(reader: DecodedReader, plan: _Plan, name: str) -> dict[str, Array]:
    """Return what is written of a tensor."""
    if name in plan.bits:
        found = reader.coded(name)
        assert isinstance(found, Coded)
        return pack_grid(name.removesuffix(".weight"), _grid(found), True)
    require_finite_where_read(name, reader)
    (planned,) = plan.tensors[name]
    return {name: cast(reader.array(name), planned.dtype, name)}


def _grid(coded: Coded) -> Grid:
    """Return codes and scales in the order of columns."""
    rows, num_blocks, _ = coded.codes.shape
    codes: npt.NDArray[np.uint8]
    if coded.form == "q8":
        codes = coded.codes.view(np.uint8) ^ np.uint8(128)
    else:
        codes = np.concatenate([coded.codes & np.uint8(15), coded.codes >> np.uint8(4)], axis=2)
    scales = np.ascontiguousarray(coded.scales)
    middle = np.full(scales.shape, 1 << (_BITS[coded.form] - 1), np.uint8)
    groups = np.arange(num_blocks * BLOCK) // BLOCK
    return Grid(codes.reshape(rows, -1), middle, scales, groups, _BITS[coded.form])


def _is_rounded(reader: DecodedReader, plan: _Plan, name: str, dtype: str) -> bool:
    """Say whether a tensor's floats are narrower than its numbers."""
    if name in plan.bits:
        return False
    (planned,) = plan.tensors[name]
    return planned.dtype not in (dtype, "F32", "F64")


def _tokenizer_texts(file: Path) -> tuple[dict[str, Any], str]:
    """Return the tokenizer's files, or why there are none."""
    described = GgufFile(file)
    try:
        if not has_tokenizer(described):
            return {}, f"'{file}' carries none"
        return dict(tokenizer_files(described)), ""
    except DataError as error:
        return {}, str(error)
    finally:
        described.close()
