"""`treadle merge extract-lora`: what a model learned, as a LoRA adapter of its base."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from treadle.combine.merge.base import Floats
from treadle.combine.merge.carried import carried, is_left_out
from treadle.combine.merge.extracted import Part, TunedPair, account_for_parts, write_adapter
from treadle.combine.merge.inputs.compatibility import namesakes, require_one_architecture
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.inputs.towers import parse_name
from treadle.combine.merge.inputs.wholeness import require_complete
from treadle.combine.merge.maths.low_rank import nearest
from treadle.combine.merge.recipe.grammar import of_models
from treadle.combine.merge.tokens.lenders import BY_TOKEN
from treadle.core.arguments import checked
from treadle.core.checkpoint import PlannedTensor
from treadle.core.checkpoint.publish import publish, remove, require_replaceable
from treadle.core.codec import Array, cast, dtype_code
from treadle.core.errors import CheckpointError, SettingsError, TreadleError
from treadle.core.progress import steps
from treadle.core.result import Result
from treadle.core.run import Recording, recorded
from treadle.core.seed import numpy_stream
from treadle.model.adapters import CONFIG_FILE, PREFIX
from treadle.model.adapters.naming import Shelf, shelves
from treadle.model.facts import own_name

__all__ = ["merge_extract_lora"]

_PARTS = "parts"


@checked
def merge_extract_lora(
    base: str | Path,
    model: str | Path,
    out: Path,
    *,
    rank: int = 32,
    energy: float | None = None,
    whole: list[str] | None = None,
    leave_out: list[str] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Write what a model learned as a LoRA adapter of the base that it was tuned from.

    Each matrix that differs becomes the nearest product of two factors of the given rank, in peft's
    format; vectors that differ (norms, biases) are kept whole, and so are the rows of embedding and
    head where the model has tokens that its base lacks, with its tokenizer. BASE+OUT is then the
    model, up to what the rank leaves out, which is measured. A killed run goes on where it stopped.

    Args:
        base: Hugging Face folder, hub id or packaged:smollm2; FOLDER+ADAPTER adds a LoRA.
        model: The model that was tuned from it, likewise.
        out: Folder to write.
        rank: Of each product, at most.
        energy: Keep of each matrix the fewest directions that hold this share (0..1) of its squared
            change, at most `rank`.
        whole: Parts of names, such as lm_head, of matrices to be kept whole.
        leave_out: Parts of names of tensors whose change is left out.
        dtype: Of the factors, and of what is kept whole.
        seed: Of the sketches of large matrices.
        overwrite: Replace an existing adapter once the new one is complete.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is out of bounds, or `out` exists.
        CheckpointError: The models do not fit together, hold NaN, or do not differ.
        CapacityError: The disk is full.
    """
    out = Path(out)
    _require_bounds(rank, energy)
    opened = Models()
    try:
        pair = [opened[of_models("linear", [str(one)]).sources[0].model] for one in (base, model)]
        require_one_architecture(pair)
        require_complete(pair)
        pair[1].call_as(pair[0])
        settings = {"rank": rank, "energy": energy, "whole": whole, "leave_out": leave_out}
        with recorded(
            "merge",
            settings={**settings, "dtype": dtype},
            action="extract-lora",
            seed=seed,
            out=out,
            overwrite=None,
        ) as run:
            is_ours = (out / CONFIG_FILE).is_file()
            require_replaceable(out, overwrite, is_ours, f"adapter (a folder with {CONFIG_FILE})")
            run.read("base", str(pair[0].ref), pair[0].content_hash, "base")
            run.read("model", str(pair[1].ref), pair[1].content_hash, "model")
            kept, left = tuple(whole or ()), tuple(leave_out or ())
            request = _Request(TunedPair(*pair), rank, energy, kept, left, dtype_code(dtype), seed)
            folder = _begun(out, run.fingerprint)
            try:
                parts = _extracted(request, folder / _PARTS, run)
                account_for_parts(run, parts, request.pair)
                write_adapter(folder, parts, request.pair, out.name)
                run.finish(folder)
                remove(folder / _PARTS)
                publish(folder, out)
            except (TreadleError, OSError):
                remove(folder)  # the same call would meet the same mistake
                raise
        return run.result
    finally:
        opened.close()


class _Request(NamedTuple):
    """What is asked, of which models."""

    pair: TunedPair
    rank: int
    energy: float | None
    whole: tuple[str, ...]
    leave_out: tuple[str, ...]
    dtype: str
    seed: int


def _require_bounds(rank: int, energy: float | None) -> None:
    if rank < 1:
        raise SettingsError(f"rank = {rank}; give at least 1.")
    if energy is not None and not 0 < energy <= 1:
        raise SettingsError(f"energy = {energy} is outside of 0..1; give a share, such as 0.9.")


def _differing(request: _Request, run: Recording) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors that may differ, with their shape in the model, and refuse what cannot."""
    base, model = request.pair
    for name in dict.fromkeys([*base.names, *model.names]):
        if any(part in name for part in request.leave_out):
            continue
        pair = [(one, name) for one in (base, model)]
        if note := is_left_out(pair):
            run.notes.append(note)
            continue
        if carried(pair, name) is not None:
            continue
        found = [one.source(name) for one in (base, model)]
        shapes = [source.shape[1:] for source in found if source is not None]
        if not (name.endswith(BY_TOKEN) and len(shapes) == 2 and shapes[0] == shapes[1]):
            namesakes(pair)  # says what is amiss
        assert found[1] is not None
        yield name, found[1].shape


def _extracted(request: _Request, folder: Path, run: Recording) -> list[Part]:
    """Decompose every tensor that differs, or take what an interrupted run made of it."""
    todo = list(_differing(request, run))
    places = shelves(request.pair.base.reader.config, dict(todo))
    unchanged = folder / "unchanged.txt"
    same = set(unchanged.read_text().split("\n")) if unchanged.is_file() else set()
    found: list[Part] = []
    num_resumed = 0
    with steps("extract-lora", len(todo)) as bar:
        for number, (name, _) in enumerate(todo):
            file = folder / f"{number:05d}.bin"
            if name in same or file.with_suffix(".json").is_file():
                num_resumed += 1
            else:
                _decompose(request, name, places[name], file, unchanged)
            if file.with_suffix(".json").is_file():
                found.append(_read_part(name, places[name], file))
            bar.advance()
    found = [part for part in found if part.change or not part.is_idle(found)]
    if num_resumed:
        run.resumed(f"had compared {num_resumed} of {len(todo)} tensors")
    if not found:
        raise CheckpointError(
            f"'{request.pair.base.ref}' and '{request.pair.model.ref}' do not differ in anything "
            f"that is looked at, so there is nothing to extract; give a tuned model."
        )
    if not any(part.rank for part in found):  # peft takes no adapter without a product
        found += _zeros(request, places, folder)
    return found


def _zeros(request: _Request, places: Mapping[str, Shelf], folder: Path) -> Iterator[Part]:
    """Yield a product of rank 1 that changes nothing."""
    inside = (n for n, s in places.items() if s.kind == "linear" and s.is_known)
    plain = (n for n in inside if parse_name(n).layer is not None and not n.endswith(BY_TOKEN))
    name = next((n for n in plain if not any(part in n for part in request.whole)), None)
    source = None if name is None else request.pair.base.source(name)
    if name is None or source is None:
        return
    rows, columns = reversed(source.shape) if places[name].is_transposed else source.shape
    pair = (np.zeros(shape, np.float32) for shape in ((rows, 1), (1, columns)))
    left, right = (cast(zeros, request.dtype, name) for zeros in pair)
    file = folder / "zeros.bin"
    _write_part(file, _factors(request, places[name], left, right), request.dtype, 0.0, 0.0)
    yield _read_part(name, places[name], file)


def _read_part(name: str, shelf: Shelf, file: Path) -> Part:
    said = json.loads(file.with_suffix(".json").read_text())
    tensors = [PlannedTensor(one, dtype, tuple(shape)) for one, dtype, shape in said["tensors"]]
    return Part(name, shelf, file, tensors, said["change"], said["missing"])


def _decompose(request: _Request, name: str, shelf: Shelf, file: Path, unchanged: Path) -> None:
    """Write what the adapter has of a tensor, or note that it has nothing."""
    old, new = _whole(request.pair.base, name), _whole(request.pair.model, name)
    is_part = not shelf.is_known and shelf.kind == "linear"  # of one tensor in peft's eyes
    if old.shape == new.shape and np.array_equal(old, new) and not is_part:
        with unchanged.open("a") as stream:
            stream.write(f"{name}\n")
        return
    is_kept = shelf.kind == "whole" or any(part in name for part in request.whole)
    if is_kept and is_part:
        raise SettingsError(
            f"'{name}' is a part of one tensor in transformers' module, so peft would leave it out "
            f"if it were kept whole; leave it out of --whole."
        )
    if old.shape != new.shape or is_kept:
        kept = cast(new, request.dtype, name)
        arrays = {
            f"{PREFIX}{module}.{shelf.parameter}": kept for module in _modules(request, shelf)
        }
        is_other = old.shape != new.shape
        change = 0.0 if is_other else _squared(new - old)
        return _write_part(file, arrays, request.dtype, change, _squared(new - _floats(kept)))
    if shelf.kind == "none":
        raise CheckpointError(
            f"'{name}' differs, and its shape {list(new.shape)} has no place in a LoRA adapter. "
            f"If it holds all experts of a block, give a base whose folder has them one by one, as "
            f"it was published (the model may be in either form); or leave it out with "
            f"--leave-out {name}."
        )
    delta = np.ascontiguousarray((new - old).T) if shelf.is_transposed else new - old
    energy = None if is_part else request.energy
    parts = nearest(delta, request.rank, energy, numpy_stream(request.seed, name))
    if is_part:
        parts = parts.filled(request.rank)  # peft joins them, which takes equal ranks
    left, right = (cast(one, request.dtype, name) for one in (parts.left, parts.right))
    missing = _squared(delta - _floats(left) @ _floats(right))
    _write_part(
        file, _factors(request, shelf, left, right), request.dtype, _squared(delta), missing
    )


def _modules(request: _Request, shelf: Shelf) -> list[str]:
    """Return the modules that have a tensor: an embedding may be the head, too."""
    if shelf.kind != "embedding" or not request.pair.is_tied:
        return [shelf.module]
    head = next(iter(request.pair.base.tied))
    return [shelf.module, own_name(head).removesuffix(".weight")]


def _factors(request: _Request, shelf: Shelf, left: Array, right: Array) -> dict[str, Array]:
    """Return left [out, rank] and right [rank, in] by their keys; peft turns those of tables."""
    module, *heads = _modules(request, shelf)
    stem = f"{PREFIX}{module}.lora_"
    found = {f"{stem}A.weight": right, f"{stem}B.weight": left}
    if shelf.kind == "embedding":
        found = {f"{stem}embedding_A": left.T, f"{stem}embedding_B": right.T}
    for head in heads:
        stem = f"{PREFIX}{head}.lora_"
        found |= {f"{stem}A.weight": right, f"{stem}B.weight": left}
    return found


def _floats(values: Array) -> Floats:
    found: Floats = values.astype(np.float32)
    return found


def _whole(model: Model, name: str) -> Floats:
    source = model.source(name)
    assert source is not None, "the walk names what both have"
    target = np.empty(source.shape, np.float32)
    source.read(0, target.reshape(-1))
    return target


def _squared(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _write_part(
    file: Path, arrays: Mapping[str, Array], dtype: str, change: float, missing: float
) -> None:
    with file.open("wb") as stream:
        for array in arrays.values():
            stream.write(np.ascontiguousarray(array).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
    said = {
        "tensors": [(name, dtype, array.shape) for name, array in arrays.items()],
        "change": change,
        "missing": missing,
    }
    beside = file.with_suffix(".beside")
    beside.write_text(json.dumps(said))
    os.replace(beside, file.with_suffix(".json"))


def _begun(out: Path, fingerprint: str) -> Path:
    """Return the folder that grows beside `out`, empty unless the same run began it."""
    folder = out.with_name(f".{out.name}.partial")
    key = folder / _PARTS / "key.txt"
    if not key.is_file() or key.read_text() != fingerprint:
        remove(folder)
        key.parent.mkdir(parents=True)
        key.write_text(fingerprint)
    return folder
