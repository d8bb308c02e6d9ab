"""The verb: its parameters, checked and handed to a run."""

from pathlib import Path
from typing import Annotated, Any

from treadle.core.arguments import checked
from treadle.core.checkpoint import CheckpointReader
from treadle.core.registry import Choice
from treadle.core.result import Result
from treadle.model.text import Bos
from treadle.shrink.prune.base import Allocation, Metric, Update
from treadle.shrink.prune.patterns import parse_pattern, pattern_sparsity
from treadle.shrink.prune.request import Mode, PruneRequest, check
from treadle.shrink.prune.run import prune_model
from treadle.shrink.prune.tables import ALLOCATIONS, METRICS, UPDATES

__all__ = ["prune", "request_of"]


@checked
def prune(
    model: str | Path,
    out: Path,
    method: Metric | str,
    *,
    sparsity: float | None = None,
    pattern: str = "rows",
    update: Annotated[Update | str | Choice | None, UPDATES] = None,
    allocation: Annotated[Allocation | str | Choice, ALLOCATIONS] = "uniform",
    text: str | None = None,
    num_windows: int = 32,
    window_tokens: int = 512,
    bos: Bos = "auto",
    calibrate: Mode | None = None,
    keep_zeros: bool = False,
    seed: int = 0,
    allow_nonuniform: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Remove weights of a model and write the pruned model.

    One decoder block is in memory at a time, beside the embedding, the head and the hidden states
    of the calibration tokens (methods that need gradients load the whole model). A killed run goes
    on at the block where it stopped when it is started again with the same settings. Embeddings,
    norms, routers and the head are never pruned.

    Args:
        model: Hugging Face folder, packaged:smollm2, or a hub id.
        out: Folder to write.
        method: The metric that scores weights.
        sparsity: Fraction to remove, 0..1, rounded down: of the weights, or of the neurons or
            heads; with n:m it follows from the pattern (default 0.5).
        pattern: Among which scores the lowest go: rows, tensor, global, n:m such as 2:4, neurons or
            heads.
        update: New values for the surviving weights (default: the metric's own; obs for sparsegpt,
            otherwise none).
        allocation: How the sparsity is shared out over the blocks.
        text: Calibration text: a .txt or .jsonl file, or stdlib:calibration.
        num_windows: Calibration windows, drawn at random from the text by the seed.
        window_tokens: Tokens in each window.
        bos: Start each window with the tokenizer's BOS token, which Gemma needs: each, none, or
            auto, as the tokenizer itself starts a text.
        calibrate: When activations are measured: one-pass, two-pass or dense (default one-pass;
            dense for global).
        keep_zeros: Weights that are zero already stay so, and count among those that go, whatever
            their score; updates give them no value.
        seed: Seed of the calibration windows and of random scores.
        allow_nonuniform: Write shapes that the config cannot say, into a folder that only treadle
            loads.
        overwrite: Replace an existing output folder once the new one is complete.
        trust_remote_code: Run code that the checkpoint brings along.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or contradicts another, or `out` exists.
        CheckpointError: The model cannot be read, or holds NaN.
        DataError: The text is too short.
        UnsupportedModelError: The architecture has no facts, or its config cannot say the shapes.
        CapacityError: Memory or disk is too small.
    """
    from treadle.model.load import resolve

    request = request_of(
        method,
        sparsity=sparsity,
        pattern=pattern,
        update=update,
        allocation=allocation,
        text=text,
        num_windows=num_windows,
        window_tokens=window_tokens,
        bos=bos,
        calibrate=calibrate,
        keep_zeros=keep_zeros,
        seed=seed,
        allow_nonuniform=allow_nonuniform,
    )
    with CheckpointReader(resolve(model)) as reader:
        return prune_model(request, reader, str(model), Path(out), overwrite, trust_remote_code)


def request_of(
    method: Metric | str | Choice,
    *,
    sparsity: float | None,
    pattern: str,
    update: Update | str | Choice | None,
    allocation: Allocation | str | Choice | None,
    text: str | None,
    num_windows: int,
    window_tokens: int,
    bos: Bos,
    calibrate: Mode | None,
    keep_zeros: bool,
    seed: int,
    allow_nonuniform: bool,
) -> PruneRequest:
    """Return the settings of `prune`, checked as far as they can be without the model.

    Raises:
        SettingsError: One is wrong or contradicts another.
    """
    metric, wanted = METRICS.resolve(method), parse_pattern(pattern)
    request = PruneRequest(
        metric,
        wanted,
        pattern_sparsity(wanted, sparsity),
        UPDATES.resolve(update, metric.default_update()),
        ALLOCATIONS.resolve(allocation, "uniform"),
        text,
        num_windows,
        window_tokens,
        bos,
        calibrate,
        keep_zeros,
        seed,
        allow_nonuniform,
    )
    check(request)
    return request
