"""`treadle export`: a portable folder from one that only treadle loads, or in another dtype."""

import copy
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from treadle.app.from_gguf import export_gguf, require_no_other_setting
from treadle.app.padding import Padding, padded, plan_padding
from treadle.app.text_only import text_model
from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    Manifest,
    Parent,
    PlannedTensor,
    Provenance,
    content_hash,
    model_card,
    prepare_target,
    read_manifest,
)
from treadle.core.checkpoint.publish import PROCESSORS, carry_files, require_carried
from treadle.core.codec import DTYPES, FLOATS
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.progress import steps
from treadle.model import facts
from treadle.model.belonging import require_filled, require_finite_where_read, shapes_of
from treadle.model.facts import NONUNIFORM, base_config, is_wrapper
from treadle.model.load import resolve, skeleton

__all__ = ["export"]

Config = dict[str, Any]  # Any: JSON values
_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NONUNIFORM_KIND = "nonuniform-shapes"
_SYNC_BYTES = 256 << 20  # a killed export repeats at most this much, or one tensor


class _Plan(NamedTuple):
    """What becomes of a folder."""

    padding: Padding
    code: str | None
    """The dtype of all floats; None keeps each tensor's."""
    left_out: list[str]
    """Optional side files: they belong to the former numbers."""
    names: dict[str, str]
    """Name in the folder -> name in the output, of the tensors that go along."""
    is_text_only: bool


def export(
    folder: Path,
    out: Path,
    *,
    pad: bool = False,
    text_only: bool = False,
    codes: bool = False,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    overwrite: bool = False,
) -> str:
    """Make a folder that other programs load, and that computes the same.

    A killed export goes on where it stopped when it is started again. Memory holds one tensor at a
    time.

    Args:
        folder: The model folder (or hub id), or a GGUF file, of which it makes a folder.
        out: The folder to make.
        pad: Fill blocks of fewer neurons or heads with zeros, up to the widest block.
        text_only: Take the text model out of a wrapper with vision or audio towers.
        codes: Of a GGUF file: keep the codes of Q4_0 and Q8_0, as compressed-tensors'
            pack-quantized holds them; all other blocks become floats.
        dtype: Cast all floats; without it each tensor keeps its own, and what a GGUF file holds as
            codes becomes float16.
        overwrite: Replace an existing model folder.

    Returns:
        What was done.

    Raises:
        SettingsError: Nothing would change, or the settings do not fit the folder.
        UnsupportedModelError: The model cannot be padded or cast exactly.
    """
    out = Path(out)
    if (file := Path(folder).expanduser()).is_file():
        require_no_other_setting(pad, text_only)
        return export_gguf(file, out, _code(dtype), codes, overwrite)
    if codes:
        raise SettingsError(
            f"--codes has no effect on '{folder}', which is no GGUF file; leave it away."
        )
    source = resolve(folder)
    _require_target(source, out, overwrite)
    with CheckpointReader(source) as reader:
        plan = _text_plan(reader, pad, dtype) if text_only else _plan(reader, pad, dtype)
        provenance = _provenance(reader, pad, text_only, dtype)
        _write(reader, out, plan, provenance, overwrite)
        return _summary(reader, out, plan)


def _plan(reader: CheckpointReader, pad: bool, dtype: str | None) -> _Plan:
    code = _code(dtype)
    is_nonuniform = reader.config.get("model_type") == NONUNIFORM
    if pad and not is_nonuniform:
        raise SettingsError(
            f"There is nothing to pad in '{reader.folder}': its blocks have one width, and it "
            f"loads as it is; leave --pad away."
        )
    if is_nonuniform and not pad:
        raise SettingsError(
            f"The blocks of '{reader.folder}' differ in width, so that only treadle loads it; pass "
            f"--pad to fill them with zeros."
        )
    if not pad and dtype is None:
        raise SettingsError(
            "Nothing was asked for; pass --dtype, --pad for uneven blocks, or --text-only for the "
            "text model of a wrapper."
        )
    _require_plain(reader)
    left_out = _leave_out(reader)
    _require_whole(reader)
    same = Padding(reader.config, shapes_of(reader), {}, {})
    names = {name: name for name in reader.tensors if name not in reader.tied}
    return _Plan(plan_padding(reader) if pad else same, code, left_out, names, False)


def _text_plan(reader: CheckpointReader, pad: bool, dtype: str | None) -> _Plan:
    """Plan the text model of a wrapper."""
    if pad:
        raise SettingsError(
            "--pad and --text-only make two folders, one after the other; pass --pad first, and "
            "--text-only with what it made."
        )
    if reader.config.get("model_type") == NONUNIFORM:
        raise SettingsError(
            f"The blocks of '{reader.folder}' differ in width, so that no text model of its type "
            f"has its shapes; pass --pad first, and --text-only with what it makes."
        )
    _require_plain(reader)
    text = text_model(reader)
    whole = Padding(text.config, shapes_of(reader), {}, {})
    return _Plan(whole, _code(dtype), _leave_out(reader), text.names, True)


def _code(dtype: str | None) -> str | None:
    if dtype is None:
        return None
    if dtype not in _CODES:
        raise SettingsError(f"dtype {dtype!r} is unknown; choose one of: {', '.join(_CODES)}.")
    return _CODES[dtype]


def _require_target(source: Path, out: Path, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work."""
    prepare_target(out, overwrite)
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise SettingsError(
            f"The output '{out}' is the model's own folder, or lies in it; choose another one."
        )


def _require_plain(reader: CheckpointReader) -> None:
    """Refuse numbers that mean something only together with others."""
    narrow = [name for name, info in reader.tensors.items() if info.dtype.startswith("F8")]
    if base_config(reader.config).get("quantization_config") or narrow:
        found = f"holds 8-bit floats ('{narrow[0]}')" if narrow else "has a quantization_config"
        raise UnsupportedModelError(
            f"'{reader.folder}' {found}: its numbers need their scales, and neither a cast nor "
            f"zeros keep their meaning; export the unquantised model."
        )


def _require_whole(reader: CheckpointReader) -> None:
    """Refuse a folder that lacks what its config needs, where transformers knows the config."""
    text = facts.text_config(reader.config)
    has_facts = text.get("model_type") in facts.ARCHITECTURES
    if has_facts:
        skeleton(reader)
    if not has_facts or is_wrapper(reader.config):
        require_filled(reader)


def _leave_out(reader: CheckpointReader) -> list[str]:
    """Return the optional side files.

    Raises:
        UnsupportedModelError: The model computes with a required one.
    """
    manifest = read_manifest(reader.folder)
    side_files = manifest.side_files if manifest else ()
    for side_file in side_files:
        if side_file.required and side_file.kind != _NONUNIFORM_KIND:
            raise UnsupportedModelError(
                f"'{reader.folder}' computes with {side_file.path} ({side_file.kind}), which no "
                f"plain folder expresses; export the model that it was made from."
            )
    return [side_file.path for side_file in side_files if not side_file.required]


def _provenance(
    reader: CheckpointReader, pad: bool, text_only: bool, dtype: str | None
) -> Provenance:
    name = reader.folder.absolute().name
    parents = (Parent(name=name, content_hash=content_hash(reader)),)
    settings = {"pad": pad, "dtype": dtype} | ({"text_only": True} if text_only else {})
    return Provenance(verb="export", settings=settings, parents=parents)


def _write(
    reader: CheckpointReader, out: Path, plan: _Plan, provenance: Provenance, overwrite: bool
) -> None:
    planned = {
        name: PlannedTensor(
            own, _target(reader.tensors[name].dtype, plan.code), plan.padding.shapes[name]
        )
        for name, own in plan.names.items()
    }
    require_carried(reader.folder)
    with CheckpointWriter(
        out,
        list(planned.values()),
        parent=None,
        config=_with_dtype(plan.padding.config, plan.code),
        overwrite=overwrite,
        fingerprint=f"export {provenance.parents[0].content_hash} {provenance.settings}",
    ) as writer:
        _stream(reader, writer, planned, plan.padding)
        carry_files(reader.folder, writer.folder, PROCESSORS if plan.is_text_only else "")
        writer.finish(Manifest(provenance=provenance), model_card(writer.out.name, provenance))


def _stream(
    reader: CheckpointReader,
    writer: CheckpointWriter,
    planned: dict[str, PlannedTensor],
    padding: Padding,
) -> None:
    already, finished, pending_bytes = writer.done, [], 0
    total = sum(tensor.num_bytes for tensor in planned.values())
    with steps(f"exporting {writer.out.name}", total) as bar:
        for name, tensor in planned.items():
            if tensor.name not in already:
                values = reader.array(name)
                require_finite_where_read(name, reader)
                writer.write(tensor.name, padded(values, tensor.shape, padding.places.get(name)))
                reader.release(name)
                finished.append(tensor.name)
                pending_bytes += tensor.num_bytes
            bar.advance(tensor.num_bytes)
            if pending_bytes > _SYNC_BYTES:
                writer.mark_done(finished)
                finished, pending_bytes = [], 0


def _target(dtype: str, code: str | None) -> str:
    return code if code is not None and dtype in FLOATS else dtype


def _with_dtype(config: Config, code: str | None) -> Config:
    """Return the config with the dtype wherever it states one, or else at the top."""
    if code is None:
        return config
    changed = copy.deepcopy(config)
    parts = [part for part in (changed, *changed.values()) if isinstance(part, dict)]
    places = [(part, key) for part in parts for key in ("dtype", "torch_dtype") if key in part]
    for part, key in places or [(changed, "dtype")]:
        part[key] = DTYPES[code].name
    return changed


def _summary(reader: CheckpointReader, out: Path, plan: _Plan) -> str:
    lines = [
        f"{name}: {', '.join(map(str, found))} in the blocks, now {target} in all"
        for name, (found, target) in plan.padding.widths.items()
    ]
    if plan.padding.places:
        before, after = (
            sum(math.prod(shape) for shape in shapes.values())
            for shapes in (shapes_of(reader), plan.padding.shapes)
        )
        lines.append(f"weights: {before:,} before, {after:,} with the zeros")
    if plan.is_text_only:
        others = [name for name in reader.tensors if name not in plan.names]
        towers = sorted({name.removeprefix("model.").split(".")[0] for name in others})
        lines.append(
            f"text model: {len(plan.names)} tensors as {plan.padding.config['architectures'][0]}; "
            f"left behind: {len(others)} of {', '.join(towers)}"
        )
    if plan.left_out:
        lines.append(f"left out: {', '.join(plan.left_out)} (of the former folder)")
    return "\n".join([*lines, f"written: {out}"])
