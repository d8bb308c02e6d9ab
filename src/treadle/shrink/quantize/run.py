"""One run: the walk over the blocks, each matrix put on its grid and packed."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    PlannedTensor,
    content_hash,
    model_card,
    prepare_target,
    require_elsewhere,
    side_file,
)
from treadle.core.codec import FLOATS, Array
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.result import RESULT_FILE, Figure, Measurement, Result, Series, digest
from treadle.core.run import Recording, recorded
from treadle.core.seed import torch_stream
from treadle.model.blockwise import (
    Calibration,
    Change,
    Rewriter,
    View,
    layers_of,
    require_memory,
    rewrite,
)
from treadle.model.facts import NONUNIFORM, base_config, is_wrapper, position_notes
from treadle.model.grid import Grid
from treadle.model.packing import (
    pack_grid,
    packed_names,
    planned_matrix,
    quantization_config,
    unpack_grid,
)
from treadle.model.statistics import BlockStatistics
from treadle.model.text import Bos
from treadle.shrink.quantize.base import Quantizer, Scheme

if TYPE_CHECKING:
    from treadle.model.facts import Linear

__all__ = ["QuantizeRequest", "quantize_model"]


class QuantizeRequest(NamedTuple):
    """What was asked for, checked."""

    method: Quantizer
    num_bits: int
    group_columns: int
    is_symmetric: bool
    text: str | None
    num_windows: int
    window_tokens: int
    bos: Bos
    seed: int

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return what determines the output beside the model and the seed."""
        asked = {
            **self.method.settings(),
            "bits": self.num_bits,
            "group": self.group_columns or "row",
            "symmetric": self.is_symmetric,
        }
        if self.text is None:
            return asked
        windows: dict[str, Any] = {  # Any: JSON values
            "num_windows": self.num_windows,
            "window_tokens": self.window_tokens,
            "bos": self.bos,
        }
        return {**asked, **windows, "text": self.text}


class _Part(Change):
    """Rounds matrices and keeps their codes until they are written."""

    def __init__(self, run: "_Quantizing", view: View) -> None:
        self._run, self._view = run, view
        self._grids: dict[str, Grid] = {}

    def change(self, matrices: Sequence["Linear"], known: BlockStatistics) -> None:
        """Put each matrix on its grid; from here on the block computes with the rounded one."""
        import torch

        for matrix in matrices:
            weight = self._view(matrix)
            generator = torch_stream(self._run.request.seed, f"quantize.{matrix.name}")
            before = weight.clone(memory_format=torch.contiguous_format)
            grid = self._run.request.method.quantize(before, self._run.scheme(matrix), generator)
            weight.copy_(torch.from_numpy(grid.floats()))
            self._grids[matrix.name] = grid

    def written(self, matrices: Sequence["Linear"]) -> Iterator[tuple[str, Array]]:
        """Yield the packed tensors of each matrix on disk, its parts one below the other."""
        by_tensor: dict[str, list[Linear]] = {}
        for matrix in matrices:
            by_tensor.setdefault(matrix.tensor, []).append(matrix)
        for name, parts in by_tensor.items():
            ordered = sorted(parts, key=lambda part: part.rows.start or 0)
            grid = _stacked([self._grids[part.name] for part in ordered])
            stem = name.removesuffix(".weight")
            yield from pack_grid(stem, grid, self._run.request.is_symmetric).items()


def _stacked(grids: list[Grid]) -> Grid:
    rows = zip(*((grid.codes, grid.zeros, grid.scales) for grid in grids), strict=True)
    codes, zeros, scales = (np.concatenate(part) for part in rows)
    return Grid(codes, zeros, scales, grids[0].groups, grids[0].num_bits)


class _Quantizing(Rewriter):
    """What the walk is to do."""

    def __init__(self, request: QuantizeRequest, reader: CheckpointReader) -> None:
        self.request, self._reader = request, reader
        self.title = f"quantize ({request.method.name})"

    def scheme(self, matrix: "Linear") -> Scheme:
        """Return the grid of a matrix: scales have the dtype of its weights."""
        request, dtype = self.request, self._reader.tensors[matrix.tensor].dtype
        return Scheme(request.num_bits, request.group_columns, request.is_symmetric, dtype)

    def replaced(self, matrices: Sequence["Linear"]) -> list[str]:
        return list(dict.fromkeys(matrix.tensor for matrix in matrices))

    def names(self, matrices: Sequence["Linear"]) -> list[str]:
        stems = [name.removesuffix(".weight") for name in self.replaced(matrices)]
        return [part for stem in stems for part in packed_names(stem, self.request.is_symmetric)]

    def open(self, layer: int, view: View) -> _Part:
        return _Part(self, view)


def quantize_model(
    request: QuantizeRequest,
    reader: CheckpointReader,
    name: str,
    out: Path,
    overwrite: bool,
    trust_remote_code: bool,
) -> Result:
    """Quantise the model in `reader`, which the user calls `name`, and publish the folder `out`."""
    from treadle.model.belonging import require_named
    from treadle.model.load import skeleton

    module = skeleton(reader, trust_remote_code)  # checks that weights and config belong together
    layers = layers_of(reader)
    require_named(module, layers, base_config(reader.config))
    matrices = [matrix for found in layers for matrix in found]
    _require_plain(request, reader, matrices)
    prepare_target(out, overwrite)
    require_elsewhere(out, reader.folder, "the model's")
    with recorded(
        "quantize",
        request.method,
        request.settings(),
        seed=request.seed,
        out=out,
        overwrite=None,
    ) as run:
        groups = f"groups of {request.group_columns}" if request.group_columns else "rows"
        run.deed = f"weights rounded to {request.num_bits} bits, in {groups}"
        run.read("model", name, content_hash(reader), "model")
        run.read("config", "config.json", digest(reader.config), "config")
        calibration = _calibration(run, request, reader, layers)
        config = {
            **reader.config,
            "quantization_config": quantization_config(
                request.num_bits,
                request.group_columns,
                request.is_symmetric,
                _left_alone(reader, matrices),
            ),
        }
        planned = _planned(request, reader, matrices)
        with CheckpointWriter(
            out,
            planned,
            parent=reader,
            config=config,
            overwrite=overwrite,
            fingerprint=run.fingerprint,
        ) as writer:
            quantizing = _Quantizing(request, reader)
            _walk(run, quantizing, reader, writer, calibration, trust_remote_code)
            _account_for(run, request, reader, writer, matrices, planned)
            run.finish(writer.folder)
            manifest = run.manifest([side_file("result", RESULT_FILE)])
            writer.finish(manifest, model_card(out.name, manifest.provenance))
    return run.result


def _require_plain(
    request: QuantizeRequest, reader: CheckpointReader, matrices: Sequence["Linear"]
) -> None:
    """Refuse what the format cannot hold, before any work."""
    if reader.config.get("model_type") == NONUNIFORM:
        raise UnsupportedModelError(
            f"The blocks of '{reader.folder}' differ in width, which no loader of quantised "
            f"folders takes; make them of one width first: treadle export FOLDER OUT --pad."
        )
    if is_wrapper(reader.config):
        raise UnsupportedModelError(
            f"'{reader.folder}' is a wrapper of model_type '{reader.config.get('model_type')}' "
            f"around a text model, and how loaders name the layers of its towers in a quantised "
            f"folder is not known here; quantise its text model: treadle export FOLDER OUT "
            f"--text-only, then OUT."
        )
    for matrix in matrices:
        info = reader.tensors[matrix.tensor]
        if matrix.expert is not None or matrix.transposed or not matrix.tensor.endswith(".weight"):
            what = "an expert's" if matrix.expert is not None else "stored transposed"
            raise UnsupportedModelError(
                f"Tensor '{matrix.tensor}' in '{reader.folder}' is {what} matrix, which this verb "
                f"does not pack yet; quantise a dense model with linear layers, or load this one "
                f"with LLM(..., weights='q8')."
            )
        if info.dtype not in FLOATS:
            raise UnsupportedModelError(
                f"Tensor '{matrix.tensor}' in '{info.file}' is {info.dtype}, no float; give the "
                f"unquantised model."
            )
        columns = info.shape[1]
        if request.group_columns and columns % request.group_columns:
            raise SettingsError(
                f"group = {request.group_columns} does not divide the {columns} columns of tensor "
                f"'{matrix.tensor}'; choose a divisor such as {_divisor(columns)}, or row."
            )


def _left_alone(reader: CheckpointReader, matrices: Sequence["Linear"]) -> list[str]:
    """Return the modules with a matrix that stays as it is; the head is one, tied or not."""
    packed = {matrix.tensor for matrix in matrices}
    others = (
        name.removesuffix(".weight")
        for name, info in reader.tensors.items()
        if name not in packed and name.endswith(".weight") and len(info.shape) == 2
    )
    return list(dict.fromkeys(["lm_head", *others]))


def _divisor(columns: int) -> int:
    """Return the largest usual group that divides a matrix."""
    usual = (128, 64, 32, 16, 8, 4, 2)
    return next((size for size in usual if columns % size == 0), columns)


def _calibration(
    run: Recording, request: QuantizeRequest, reader: CheckpointReader, layers: list[list["Linear"]]
) -> Calibration | None:
    """Draw the windows on which the drift is measured, if it is."""
    from treadle.model.belonging import shapes_of
    from treadle.model.load import load_tokenizer
    from treadle.model.text import sampled_windows

    if request.text is None:
        return None
    tokenizer = load_tokenizer(reader.folder)
    windows = sampled_windows(
        *(request.text, tokenizer, request.num_windows, request.window_tokens),
        *(request.seed, request.bos),
    )
    run.notes += position_notes(base_config(reader.config), request.window_tokens)
    run.protocol = windows.protocol.model_dump()
    run.read("text", windows.protocol.corpus, windows.protocol.corpus_sha256, "data")
    require_memory(2 * windows.tokens.numel(), layers[0], shapes_of(reader))
    return Calibration(windows.tokens, needs_gram=False, is_paired=True)


def _planned(
    request: QuantizeRequest, reader: CheckpointReader, matrices: Sequence["Linear"]
) -> list[PlannedTensor]:
    packed = {matrix.tensor for matrix in matrices}
    planned: list[PlannedTensor] = []
    for name, info in reader.tensors.items():
        if name in packed:
            columns = info.shape[1]
            planned += planned_matrix(
                name.removesuffix(".weight"),
                info.shape,
                request.num_bits,
                columns // (request.group_columns or columns),
                request.is_symmetric,
                info.dtype,
            )
        elif name not in reader.tied:
            planned.append(PlannedTensor(name, info.dtype, info.shape))
    return planned


def _walk(
    run: Recording,
    quantizing: _Quantizing,
    reader: CheckpointReader,
    writer: CheckpointWriter,
    calibration: Calibration | None,
    trust_remote_code: bool,
) -> None:
    from treadle.model.layers import LayeredModel

    done = rewrite(
        reader,
        writer,
        quantizing,
        fingerprint=run.fingerprint,
        model=None if calibration is None else LayeredModel(reader, trust_remote_code),
        calibration=calibration,
    )
    if done.first_layer:
        run.resumed(f"had written the first {done.first_layer} blocks")
    if done.drift:
        run.figures.append(_drift_figure(quantizing.request.method.name, done.drift))
        run.measurements.append(
            Measurement(
                name="drift",
                value=done.drift[-1],
                unit="of the last hidden states' norm, against the unquantised model",
                better="lower",
            )
        )


def _drift_figure(name: str, drift: list[float]) -> Figure:
    return Figure(
        kind="line",
        title="How far hidden states are from those of the unquantised model",
        x_label="block",
        y_label="relative error",
        series=[Series(name=name, x=list(range(len(drift))), y=drift)],
    )


def _weight_error(
    request: QuantizeRequest,
    reader: CheckpointReader,
    writer: CheckpointWriter,
    names: Sequence[str],
) -> float:
    """Return ‖Q - W‖ / ‖W‖ over all matrices, of what was written, summed in float64."""
    error = power = 0.0
    for name in names:
        weight = np.asarray(reader.array(name), np.float32)
        parts = packed_names(name.removesuffix(".weight"), request.is_symmetric)
        rounded = unpack_grid([writer.read(part) for part in parts], request.num_bits).floats()
        error += float(np.square(rounded - weight, dtype=np.float64).sum())
        power += float(np.square(weight, dtype=np.float64).sum())
        reader.release(name)
        for part in parts:
            writer.release(part)
    return math.sqrt(error / power) if power else 0.0


def _account_for(
    run: Recording,
    request: QuantizeRequest,
    reader: CheckpointReader,
    writer: CheckpointWriter,
    matrices: Sequence["Linear"],
    planned: Sequence[PlannedTensor],
) -> None:
    packed = list(dict.fromkeys(matrix.tensor for matrix in matrices))
    num_weights = sum(int(np.prod(reader.tensors[name].shape)) for name in packed)
    stems = tuple(f"{name.removesuffix('.weight')}.weight_" for name in packed)
    num_bytes = sum(one.num_bytes for one in planned if one.name.startswith(stems))
    run.measurements += [
        Measurement(
            name="bits_per_weight",
            value=8 * num_bytes / num_weights,
            unit="bits of codes, scales and zero points, counted, of the blocks' matrices",
            better="lower",
        ),
        Measurement(
            name="weight_error",
            value=_weight_error(request, reader, writer, packed),
            unit="of the norm of the blocks' matrices",
            better="lower",
        ),
    ]
    run.bytes["input"] = reader.num_bytes
    run.bytes["output"] = sum(tensor.num_bytes for tensor in planned)
