"""One pruning run: load, visit, call the methods, write, report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core import hardware, keep
from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    PlannedTensor,
    content_hash,
    model_card,
    prepare_target,
    require_finite,
)
from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.core.result import Input, Recording, Result, digest, write_result
from treadle.shrink.prune.account import figures_and_measurements, manifest_of
from treadle.shrink.prune.base import Statistics
from treadle.shrink.prune.blocks import BlockPruner, Choice, View
from treadle.shrink.prune.calibrate import (
    DenseStatistics,
    KeptHidden,
    read_block,
    require_memory,
    run_block,
)
from treadle.shrink.prune.global_threshold import GlobalThreshold, find_threshold
from treadle.shrink.prune.patterns import require_divisible
from treadle.shrink.prune.request import Request
from treadle.shrink.prune.shrinking import (
    Cut,
    Unit,
    cut_tensor,
    cuts,
    num_kept,
    shrunk_config,
    units,
)

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear
    from treadle.model.layers import LayeredModel
    from treadle.model.statistics import BlockStatistics
    from treadle.model.text import Windows

__all__ = ["Run"]


class Run:
    """One pruning run: what was read, what was decided, what was written."""

    def __init__(
        self, request: Request, reader: CheckpointReader, name: str, trust_remote_code: bool
    ) -> None:
        from treadle.model import facts
        from treadle.model.load import base_config, shapes_of, skeleton

        self.request, self.reader, self.name = request, reader, name
        self.trust_remote_code = trust_remote_code
        self.config, self.shapes = base_config(reader.config), shapes_of(reader)
        # Weights and config must belong together, whether or not this run will build the module.
        skeleton(reader, trust_remote_code)
        self.layers = [
            facts.linears(self.config, layer, self.shapes)
            for layer in range(facts.num_layers(self.config))
        ]
        for matrices in self.layers:
            for matrix in matrices:
                shape = self.shapes[matrix.tensor]
                require_divisible(
                    request.pattern, shape[0 if matrix.transposed else 1], matrix.tensor
                )
        self.choice = Choice(request.metric, request.pattern, request.update, request.seed)
        self.windows = self._windows()
        self.sparsities: list[float] = []
        self.threshold: GlobalThreshold | None = None
        self.gradients: dict[str, torch.Tensor] = {}
        self.notes: list[str] = []
        self.fingerprint = ""

    def _windows(self) -> "Windows | None":
        from treadle.model.load import load_tokenizer
        from treadle.model.text import sampled_windows

        request = self.request
        if not request.needs_data or request.text is None:
            return None
        tokenizer = load_tokenizer(self.reader.folder)
        found = sampled_windows(
            request.text, tokenizer, request.num_windows, request.window_tokens, request.seed
        )
        hardware.return_freed_memory()
        return found

    def write(self, out: Path, overwrite: bool) -> Result:
        """Prune everything and publish the folder."""
        self._require_target(out, overwrite)
        inputs = [
            Input(name="model", path=self.name, content_hash=content_hash(self.reader)),
            Input(name="config", path="config.json", content_hash=digest(self.reader.config)),
        ]
        if self.windows:
            protocol = self.windows.protocol
            inputs.append(
                Input(name="text", path=protocol.corpus, content_hash=protocol.corpus_sha256)
            )
        settings = self.request.settings()
        recording = Recording(
            "prune", self.request.metric.name, settings, self.request.seed, inputs
        )
        self.fingerprint = recording.fingerprint
        model = self._layered_model()
        dense = self._dense_statistics(model)
        self.gradients = self._gradients()
        self.sparsities = self._allocate(dense)
        self.threshold = self._threshold(dense)
        config, planned_cuts = self._plan()
        planned = self._planned(planned_cuts)
        with CheckpointWriter(
            out,
            planned,
            parent=self.reader,
            config=config,
            overwrite=overwrite,
            fingerprint=recording.fingerprint,
        ) as writer:
            self._copy_rest(writer)
            self._prune_blocks(writer, model, dense)
            result = recording.finish(out, **self._outcome(writer, planned))
            write_result(result, writer.folder)
            manifest = manifest_of(result, self.name, "treadle_base" in config)
            writer.finish(manifest, model_card(out.name, manifest.provenance))
        return result

    def _require_target(self, out: Path, overwrite: bool) -> None:
        """Refuse an output that cannot be written, before any work."""
        prepare_target(out, overwrite)
        source = self.reader.folder.resolve()
        if source in (out.resolve(), *out.resolve().parents):
            raise SettingsError(
                f"The output '{out}' is the model's own folder, or lies in it; choose another one."
            )

    def _layered_model(self) -> "LayeredModel | None":
        from treadle.model.layers import LayeredModel

        request = self.request
        if not request.needs_inputs and not request.allocation.needs:
            return None
        if request.needs_inputs and request.mode == "one-pass" and self.windows:
            require_memory(self.windows.tokens.numel(), self.layers[0], self.shapes)
        return LayeredModel(self.reader, self.trust_remote_code)

    def _dense_statistics(self, model: "LayeredModel | None") -> DenseStatistics | None:
        if model is None or self.windows is None or not self.request.needs_dense:
            return None
        needs_gram = "gram" in self.request.needs and self.request.mode == "dense"
        dense = DenseStatistics(model, self.windows.tokens, needs_gram)
        dense.collect()
        return dense

    def _gradients(self) -> "dict[str, torch.Tensor]":
        from treadle.model.statistics import collect_gradients

        if "gradient" not in self.request.needs or self.windows is None:
            return {}
        return collect_gradients(self.reader.folder, self.windows.tokens, self.trust_remote_code)

    def _allocate(self, dense: DenseStatistics | None) -> list[float]:
        def blocks() -> "Iterator[list[tuple[torch.Tensor, Statistics]]]":
            for layer, matrices in enumerate(self.layers):
                if not self.request.allocation.needs or dense is None:
                    yield []
                    continue
                known, weights = dense.block(layer), read_block(self.reader, matrices)
                yield [(weights[m.name], Statistics(known[m.input])) for m in matrices]

        return self.request.allocation.allocate(blocks(), self.request.sparsity)

    def _threshold(self, dense: DenseStatistics | None) -> GlobalThreshold | None:
        if self.request.pattern.kind != "global":
            return None

        def scores() -> "Iterator[tuple[str, torch.Tensor]]":
            for layer in range(len(self.layers)):
                known = dense.block(layer) if dense else {}
                for matrices, pruner in self._readers(layer):
                    for matrix in matrices:
                        yield matrix.name, pruner.score(matrix, pruner.statistics(matrix, known))

        return find_threshold(scores, lambda total: keep.num_pruned(total, self.request.sparsity))

    def _units(self, layer: int) -> list[Unit]:
        if not self.request.pattern.is_structured:
            return []
        return units(self.request.pattern.kind, self.layers[layer], self.config, self.shapes)

    def _plan(self) -> tuple[dict[str, Any], dict[str, Cut]]:  # Any: JSON values
        """Return the config of the output and how its tensors will be cut.

        Counts matter here, not which indices.
        """
        if not self.request.pattern.is_structured:
            return self.reader.config, {}
        kept = [
            [(unit, num_kept(unit, sparsity)) for unit in self._units(layer)]
            for layer, sparsity in enumerate(self.sparsities)
        ]
        config = shrunk_config(
            self.request.pattern.kind, self.reader.config, kept, self.request.allow_nonuniform
        )
        flat = [(unit, range(count)) for block in kept for unit, count in block]
        return config, cuts(flat, self.shapes)

    def _planned(self, planned_cuts: dict[str, Cut]) -> list[PlannedTensor]:
        planned = []
        for name, info in self.reader.tensors.items():
            if name in self.reader.tied:
                continue
            shape = list(info.shape)
            if cut := planned_cuts.get(name):
                shape[cut.axis] = len(cut.kept)
            planned.append(PlannedTensor(name, info.dtype, tuple(shape)))
        return planned

    def _touched(self, matrices: Sequence["Linear"]) -> list[str]:
        """Return the names on disk that change with block `layer`.

        They are its matrices, and their biases where rows go.
        """
        names = list(dict.fromkeys(matrix.tensor for matrix in matrices))
        if self.request.pattern.is_structured:
            biases = [name.removesuffix("weight") + "bias" for name in names]
            names += [name for name in biases if name in self.shapes]
        return names

    def _copy_rest(self, writer: CheckpointWriter) -> None:
        touched = {
            name for layer in range(len(self.layers)) for name in self._touched(self.layers[layer])
        }
        rest = [n for n in self.reader.tensors if n not in touched and n not in self.reader.tied]
        todo = [name for name in rest if name not in writer.done]
        for name in todo:
            require_finite(name, self.reader.array(name), self.reader.tensors[name].file)
            writer.write(name, self.reader.array(name))
        writer.mark_done(todo)

    def _prune_blocks(
        self, writer: CheckpointWriter, model: "LayeredModel | None", dense: DenseStatistics | None
    ) -> None:
        follows = model is not None and self.request.needs_inputs and self.request.mode != "dense"
        with KeptHidden(writer.out, self.fingerprint) as kept:
            first, hidden = self._start(writer, model if follows else None, kept)
            with steps(f"prune ({self.request.metric.name})", len(self.layers)) as bar:
                bar.advance(first)
                if first:
                    self.notes.append(
                        f"Resumed: an interrupted run had pruned the first {first} of "
                        f"{len(self.layers)} blocks; seconds, CPU seconds and memory are those of "
                        f"this run only."
                    )
                for layer in range(first, len(self.layers)):
                    if follows and model is not None and hidden is not None:
                        hidden = self._prune_running(writer, model, layer, hidden)
                        kept.save(hidden, layer + 1)
                    else:
                        self._prune_reading(writer, layer, dense)
                    writer.mark_done(self._touched(self.layers[layer]))
                    kept.drop(layer)
                    bar.advance()

    def _start(
        self, writer: CheckpointWriter, model: "LayeredModel | None", kept: KeptHidden
    ) -> "tuple[int, torch.Tensor | None]":
        """Return the first block to prune and its input: block 0, or where a killed run stopped."""
        done = writer.done
        first = 0
        while first < len(self.layers) and done.issuperset(self._touched(self.layers[first])):
            first += 1
        if model is None or self.windows is None:
            return first, None
        entered = model.embed(self.windows.tokens)
        model.drop_ends()
        hidden = kept.restore(first) if first else entered
        return (first, hidden) if hidden is not None else (0, entered)

    def _pruner(self, layer: int, view: View) -> BlockPruner:
        pruner = BlockPruner(
            self.choice,
            self.sparsities[layer],
            view,
            lambda matrix: self.reader.tensor(matrix.tensor).dtype,
            self._units(layer),
            self.gradients,
            self.threshold,
        )
        return pruner

    def _prune_running(
        self,
        writer: CheckpointWriter,
        model: "LayeredModel",
        layer: int,
        hidden: "torch.Tensor",
    ) -> "torch.Tensor":
        """Prune a block on its real inputs `hidden`, write it, and return its outputs."""
        with model.block(layer) as block:
            pruner = self._pruner(layer, block.view)

            def prune_group(_: Any, matrices: list["Linear"], known: "BlockStatistics") -> None:
                pruner.prune(matrices, known)

            needs_gram = "gram" in self.request.needs
            hidden = run_block(
                model, block, layer, hidden, needs_gram, prune_group, self.request.mode
            )
            self._write_matrices(writer, block.matrices, pruner)
        return hidden

    def _prune_reading(
        self, writer: CheckpointWriter, layer: int, dense: DenseStatistics | None
    ) -> None:
        """Prune a block straight from disk and write it, one tensor at a time where it can be."""
        from treadle.model.statistics import group_by_input

        known = dense.block(layer) if dense else {}
        for matrices, pruner in self._readers(layer):
            for group in group_by_input(matrices).values():
                pruner.prune(group, known)
            self._write_matrices(writer, matrices, pruner)

    def _readers(self, layer: int) -> "Iterator[tuple[list[Linear], BlockPruner]]":
        """Yield what of a block must be in memory together, read from disk, with its pruner.

        That is the block where whole neurons or heads go, and otherwise the matrices of one tensor.
        """
        parts: dict[str, list[Linear]] = {}
        for matrix in self.layers[layer]:
            key = "all" if self.request.pattern.is_structured else matrix.tensor
            parts.setdefault(key, []).append(matrix)
        for matrices in parts.values():
            self._require_finite(matrices)
            yield matrices, self._pruner(layer, _view_of(read_block(self.reader, matrices)))

    def _require_finite(self, matrices: Sequence["Linear"]) -> None:
        for name in self._touched(matrices):
            require_finite(name, self.reader.array(name), self.reader.tensors[name].file)

    def _write_matrices(
        self, writer: CheckpointWriter, matrices: Sequence["Linear"], pruner: BlockPruner
    ) -> None:
        removed = cuts(pruner.kept, self.shapes)
        by_tensor: dict[str, list[Linear]] = {}
        for matrix in matrices:
            by_tensor.setdefault(matrix.tensor, []).append(matrix)
        for name in self._touched(matrices):
            value = self.reader.tensor(name).clone()
            for matrix in by_tensor.get(name, []):
                target = value.T if matrix.transposed else value
                target[matrix.rows] = pruner.view(matrix).to(value.dtype)
            writer.write(name, cut_tensor(value, removed.get(name)))
            self.reader.release(name)

    def _outcome(
        self, writer: CheckpointWriter, planned: list[PlannedTensor]
    ) -> dict[str, Any]:  # Any: fields of Result
        found = figures_and_measurements(writer, self.layers, self.shapes, self.request.metric.name)
        if self.request.pattern.is_structured:
            self.notes.append(self._structured_note())
        return {
            **found,
            "protocol": self.windows.protocol.model_dump() if self.windows else None,
            "bytes": {
                "input": self.reader.num_bytes,
                "output": sum(tensor.num_bytes for tensor in planned),
            },
            "notes": self.notes,
        }

    def _structured_note(self) -> str:
        """Say how many groups went, which whole numbers may keep from what was asked."""
        first = self._units(0)[0]
        kept = num_kept(first, self.sparsities[0])
        kind = "neurons of an MLP" if self.request.pattern.kind == "neurons" else "key-value heads"
        return (
            f"Asked for {self.request.sparsity:g} of the {kind}: block 0 lost "
            f"{first.num_groups - kept} of {first.num_groups}. The sparsity counts all weights of "
            f"the blocks' matrices."
        )


def _view_of(weights: "dict[str, torch.Tensor]") -> View:
    return lambda matrix: weights[matrix.name]
