"""The driver of evaluation: read examples, run the model block by block, score and compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.errors import CheckpointError, DataError, SettingsError
from treadle.core.result import Figure, Measurement, Result, Series, digest, read_result
from treadle.core.run import recorded
from treadle.judge.evaluate import TASKS
from treadle.judge.evaluate.base import Batch, Prepared, Task

if TYPE_CHECKING:
    import torch

__all__ = ["evaluate"]


def evaluate(
    model: str | Path,
    out: Path,
    method: Task | str,
    *,
    data: str,
    baseline: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Measure a model's quality on a text or task and write the result.

    One decoder block is in memory at a time, beside the embedding, the head and the hidden states
    of all examples.

    Args:
        model: Hugging Face folder, packaged:smollm2, or a hub id.
        out: Folder for result.json.
        method: The task.
        data: Text (.txt, .jsonl, stdlib:heldout) or questions (.jsonl) to evaluate on.
        baseline: Result of the same task on another model, to compare with pair by pair.
        seed: Seed of the bootstrap of the comparison.
        overwrite: Replace the result in `out`.
        trust_remote_code: Run code that the checkpoint brings along.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: `out` holds a result already, or the baseline's protocol is another one.
        CheckpointError: The model cannot be read.
        DataError: The data is missing, damaged or too short.
    """
    from treadle.model.load import load_tokenizer, resolve

    task, out = TASKS.resolve(method), Path(out)
    with recorded("evaluate", task, seed=seed, out=out, overwrite=overwrite) as run:
        folder = resolve(model)
        with CheckpointReader(folder) as reader:
            prepared = task.prepare(data, load_tokenizer(folder))
            reference = _reference(baseline, prepared)
            run.protocol = prepared.protocol
            run.bytes["input"] = reader.num_bytes
            run.read("model", str(model), content_hash(reader), "model")
            run.read("config", "config.json", digest(reader.config), "config")
            run.read("data", data, _data_hash(prepared.protocol), "data")
            if reference:
                run.read("baseline", str(baseline), reference.fingerprint, "baseline")
            losses = _losses(reader, prepared.batches, trust_remote_code)
        _require_numbers(losses, str(model))
        measurements, run.samples = task.score(prepared, losses)
        if reference:
            compared = task.compare(run.samples, reference.samples, seed)
            measurements += [_of(entry, reference.fingerprint) for entry in compared]
        protocol = {"protocol": prepared.protocol["hash"]}
        run.measurements += [entry.model_copy(update=protocol) for entry in measurements]
        run.figures.append(_figure(measurements))
    return run.result


def _of(entry: Measurement, baseline: str) -> Measurement:
    """Return a comparison that says with which result it compares."""
    assert entry.comparison is not None
    named = entry.comparison.model_copy(update={"baseline": baseline})
    return entry.model_copy(update={"comparison": named})


def _reference(baseline: Path | None, prepared: Prepared) -> Result | None:
    """Read the baseline's result and check that it was measured under the same protocol."""
    if baseline is None:
        return None
    found = read_result(Path(baseline))
    theirs = (found.protocol or {}).get("hash")
    if found.command != "evaluate":
        raise DataError(
            f"'{baseline}' is a result of '{found.command}', not of evaluate; give an evaluation "
            f"of the other model."
        )
    if theirs != prepared.protocol["hash"]:
        differing = sorted(
            key
            for key, value in prepared.protocol.items()
            if key != "hash" and (found.protocol or {}).get(key) != value
        )
        raise SettingsError(
            f"The baseline '{baseline}' was measured under another protocol (they differ in "
            f"{', '.join(differing)}); evaluate both models on the same data with the same "
            f"settings."
        )
    return found


def _losses(
    reader: CheckpointReader, batches: list[Batch], trust_remote_code: bool
) -> "list[torch.Tensor]":
    from treadle.model.layers import LayeredModel
    from treadle.model.loss import token_losses

    model = LayeredModel(reader, trust_remote_code)
    return token_losses(model, [batch.tokens for batch in batches])


def _data_hash(protocol: dict[str, Any]) -> str:  # Any: JSON values
    return str(protocol.get("corpus_sha256") or protocol["data_sha256"])


def _require_numbers(losses: "list[torch.Tensor]", model: str) -> None:
    """Refuse losses that are no numbers, although every weight is finite."""
    if any(bool(batch.isnan().any()) for batch in losses):
        raise CheckpointError(
            f"'{model}' gives losses that are not numbers: its activations overflow float32. Check "
            f"how it was made; no score can be given."
        )


def _figure(measurements: list[Measurement]) -> Figure:
    with_interval = [m for m in measurements if m.low is not None and m.high is not None]
    series: list[dict[str, Any]] = [  # Any: fields of Series
        {"name": m.name, "x": [m.name], "y": [m.value], "low": [m.low], "high": [m.high]}
        for m in with_interval
    ]
    return Figure(
        kind="interval",
        title="Scores with 95 % intervals",
        x_label="measure",
        y_label="value",
        series=[Series(**entry) for entry in series],
    )
