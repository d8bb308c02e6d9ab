"""One pruning run: what is known of the model, what follows from it, and the walk that writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    content_hash,
    model_card,
    prepare_target,
    require_elsewhere,
)
from treadle.core.result import Result, digest
from treadle.core.run import Recording, recorded
from treadle.model import facts
from treadle.model.blockwise import Calibration, Rewriter, View, rewrite
from treadle.model.resize.widths import Coupling
from treadle.shrink.prune.account import deed, measure_sparsity, side_files
from treadle.shrink.prune.blocks import BlockPruner, axes_of
from treadle.shrink.prune.decisions import Decisions, decide
from treadle.shrink.prune.evidence import Evidence, gather
from treadle.shrink.prune.request import PruneRequest
from treadle.shrink.prune.shrinking import num_kept, touched
from treadle.shrink.prune.subject import PrunedModel, read_subject

if TYPE_CHECKING:
    from treadle.model.facts import Linear
    from treadle.model.text import Windows

__all__ = ["prune_model"]


class _Pruning(Rewriter):
    """What the walk over the blocks is to do."""

    def __init__(
        self, request: PruneRequest, subject: PrunedModel, evidence: Evidence, decisions: Decisions
    ) -> None:
        self._request, self._subject = request, subject
        self._evidence, self._decisions = evidence, decisions
        self._choice = axes_of(request)
        self.title = f"prune ({request.metric.name})"
        self.has_whole_blocks = request.pattern.is_structured

    def replaced(self, matrices: Sequence["Linear"]) -> list[str]:
        return touched(matrices, self._request.pattern, self._subject.shapes)

    def names(self, matrices: Sequence["Linear"]) -> list[str]:
        return self.replaced(matrices)

    def open(self, layer: int, view: View) -> BlockPruner:
        return BlockPruner(
            self._choice,
            self._decisions.sparsities[layer],
            view,
            self._subject.reader,
            self._subject.couplings(self._request.pattern, layer),
            self._evidence.gradients,
            self._decisions.threshold,
        )


def prune_model(
    request: PruneRequest,
    reader: CheckpointReader,
    name: str,
    out: Path,
    overwrite: bool,
    trust_remote_code: bool,
) -> Result:
    """Prune the model in `reader`, which the user calls `name`, and publish the folder `out`."""
    subject = read_subject(reader, request.pattern, trust_remote_code)
    prepare_target(out, overwrite)
    require_elsewhere(out, reader.folder, "the model's")
    with recorded(
        "prune",
        request.metric,
        request.settings(),
        seed=request.seed,
        out=out,
        overwrite=None,
    ) as run:
        run.deed = deed(request.pattern, request.sparsity)
        windows = _windows(request, reader)
        run.read("model", name, content_hash(reader), "model")
        run.read("config", "config.json", digest(reader.config), "config")
        if windows is not None:
            protocol = windows.protocol
            run.protocol = protocol.model_dump()
            run.read("text", protocol.corpus, protocol.corpus_sha256, "data")
            run.notes += facts.position_notes(subject.config, request.window_tokens)
        evidence = gather(request, subject, windows)
        decisions = decide(request, subject, evidence)
        with CheckpointWriter(
            out,
            decisions.planned,
            parent=reader,
            config=decisions.config,
            overwrite=overwrite,
            fingerprint=run.fingerprint,
        ) as writer:
            _walk(run, request, subject, evidence, decisions, writer)
            _account_for(run, request, subject, decisions, writer)
            run.finish(writer.folder)
            manifest = run.manifest(side_files("treadle_base" in decisions.config))
            writer.finish(manifest, model_card(out.name, manifest.provenance))
    return run.result


def _windows(request: PruneRequest, reader: CheckpointReader) -> "Windows | None":
    from treadle.core import hardware
    from treadle.model.load import load_tokenizer
    from treadle.model.text import sampled_windows

    if not request.needs_data or request.text is None:
        return None
    tokenizer = load_tokenizer(reader.folder)
    found = sampled_windows(
        *(request.text, tokenizer, request.num_windows, request.window_tokens),
        *(request.seed, request.bos),
    )
    hardware.return_freed_memory()
    return found


def _walk(
    run: Recording,
    request: PruneRequest,
    subject: PrunedModel,
    evidence: Evidence,
    decisions: Decisions,
    writer: CheckpointWriter,
) -> None:
    """Prune and write block by block."""
    calibration = None
    if request.follows and evidence.windows is not None:
        has_two_passes = request.mode == "two-pass"
        needs_gram = "gram" in request.needs
        calibration = Calibration(evidence.windows.tokens, needs_gram, has_two_passes)
    done = rewrite(
        subject.reader,
        writer,
        _Pruning(request, subject, evidence, decisions),
        fingerprint=run.fingerprint,
        model=evidence.model if request.follows else None,
        calibration=calibration,
        known=evidence.known,
    )
    if done.unseen:
        run.notes.append(_unseen_note(done.unseen, done.num_inputs))
    elif not done.num_inputs and evidence.gradients:
        still = [name for name, found in evidence.gradients.items() if not bool(found.any())]
        if still:
            run.notes.append(_unseen_note(still, len(evidence.gradients)))
    if done.first_layer:
        run.resumed(f"had pruned the first {done.first_layer} of {len(subject.layers)} blocks")


def _unseen_note(unseen: Sequence[str], num_all: int) -> str:
    """Say what no calibration token reached: inputs, or matrices whose gradient is zero."""
    last = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
    return (
        f"No calibration token reached {len(unseen)} of {num_all} inputs or matrices "
        f"({', '.join(unseen[:3])}{last}): what reads them was judged by its weights alone. More "
        f"or other text (--num-windows) reaches more experts."
    )


def _account_for(
    run: Recording,
    request: PruneRequest,
    subject: PrunedModel,
    decisions: Decisions,
    writer: CheckpointWriter,
) -> None:
    measure_sparsity(run, subject.reader, writer, subject.layers)
    run.bytes["input"] = subject.reader.num_bytes
    run.bytes["output"] = sum(tensor.num_bytes for tensor in decisions.planned)
    if request.pattern.is_structured:
        coupling = subject.couplings(request.pattern, 0)[0]
        run.notes.append(_structured_note(request, coupling, decisions.sparsities[0]))


def _structured_note(request: PruneRequest, first: Coupling, sparsity: float) -> str:
    """Say how many groups went, which whole numbers may keep from what was asked."""
    kind = "neurons of an MLP" if request.pattern.kind == "neurons" else "key-value heads"
    return (
        f"Asked for {request.sparsity:g} of the {kind}: block 0 lost "
        f"{first.num_groups - num_kept(first, sparsity)} of {first.num_groups}. The sparsity "
        f"counts all weights of the blocks' matrices."
    )
