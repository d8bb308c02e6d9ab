"""The driver of evaluation: read examples, ask the model, score and compare."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from treadle.core.arguments import checked
from treadle.core.codec import DTYPES, FLOATS, count_zeros
from treadle.core.errors import CheckpointError, DataError, SettingsError
from treadle.core.result import Figure, Measurement, Result, Series, digest, read_result
from treadle.core.run import Recording, is_control, recorded
from treadle.core.settings import Without
from treadle.judge.evaluate.base import (
    AnswerTask,
    LossTask,
    Rows,
    Samples,
    Scores,
    Task,
    TaskPrompts,
)
from treadle.judge.evaluate.budgets import Asks, BudgetTask, Cache
from treadle.judge.evaluate.subject import Subject, Through, chosen_way
from treadle.judge.evaluate.tables import TASKS
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.settings import EngineSettings

if TYPE_CHECKING:
    import torch

    from treadle.core.checkpoint import CheckpointReader

__all__ = ["evaluate"]

_OTHERS = Without.fields(
    *("seed", "trust_remote_code", "policy", "preemption", "watermark_fraction"),
    *("ageing_seconds", "rows_beside_urgent", "rows_beside_less_served"),
)
"""Settings of the engine that are parameters of the verb, or of who comes first: all come."""
_PLACES = ("corpus", "data")
"""What a protocol says of where its data lay; the hash does not cover it."""


@checked
def evaluate(
    model: str | Path,
    out: Path,
    method: Task | str,
    *,
    data: str | None = None,
    baseline: Path | None = None,
    through: Through | None = None,
    engine: Annotated[EngineSettings | None, _OTHERS] = None,
    adapter: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Measure a model's quality on a text or task and write the result.

    A task by losses asks the model in float32: by the native step where that computes the model and
    its weights fit into memory, else block by block. By blocks one decoder block is in memory at a
    time, beside the embedding, the head and the hidden states of all examples; both give the same
    losses to 1e-6, and a note of the result says which it was. Through the runtime it asks the
    model as it would be served, with weights and cache in the forms that are given; so does every
    task by answers. The protocol does not depend on the way, so that results of all stand in one
    table and compare.

    Args:
        model: Hugging Face folder, GGUF file, packaged:smollm2, or a hub id; through the runtime
            also a folder quantised by GPTQ, AWQ or compressed-tensors.
        out: Folder for result.json.
        method: The task.
        data: Text (.txt, .jsonl, stdlib:heldout) or questions (.jsonl, skills:NAME) to evaluate
            on.
        baseline: Result of the same task on another model, to compare with pair by pair.
        through: exact (in float32, by what computes that fastest; the default), blocks (the same,
            always block by block, which takes little memory) or runtime (as served; tasks by
            answers have no other way).
        engine: How the runtime holds weights and cache.
        adapter: LoRA adapter in peft's format on the model, through the runtime.
        seed: Seed of the bootstrap of the comparison.
        overwrite: Replace the result in `out`.
        trust_remote_code: Run code that the checkpoint brings along.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: `out` holds a result already, the baseline's protocol is another one, or a
            setting has no effect.
        CheckpointError: The model cannot be read.
        DataError: The data is missing, damaged or too short.
    """
    from treadle.model.adapters import Adapter
    from treadle.model.load import resolve
    from treadle.model.source import source_hash

    task, out = TASKS.resolve(method), Path(out)
    way = chosen_way(task, through, engine, adapter)
    _require_data(task, data)
    settings = _settings(task, way, engine, adapter)
    with recorded("evaluate", task, settings, seed=seed, out=out, overwrite=overwrite) as run:
        run.is_control |= _keeps_by_chance(engine)
        folder = resolve(model, takes_files=way == "runtime" or Path(model).is_file())
        subject = Subject(folder, way, engine, adapter, trust_remote_code)
        with subject.open() as reader:
            prepared = _prepared(task, data or "", subject)
            caches = _caches(task, engine, baseline)
            reference = _reference(baseline, prepared)
            run.protocol = prepared.protocol
            run.bytes |= _sizes(reader)
            run.read("model", str(model), source_hash(folder), "model")
            run.read("config", "config.json", digest(reader.config), "config")
            if data is not None:
                run.read("data", data, _data_hash(prepared.protocol), "data")
            if adapter is not None:
                run.read("adapter", adapter, Adapter(adapter).content_hash, "adapter")
            if reference:
                run.read("baseline", str(baseline), reference.fingerprint, "baseline")
            if way != "runtime" and isinstance(prepared, Rows):
                run.notes += _position_notes(prepared, reader)
            if isinstance(task, BudgetTask):
                measurements, computed_by = _recalled(run, task, prepared, subject, caches)
            else:
                asked = _asked(task, prepared, subject, reader)
                (measurements, run.samples), computed_by, held_bytes = asked
                run.bytes |= {"held": held_bytes} if held_bytes else {}
        if baseline and reference:
            _require_pairs(baseline, reference.samples, run.samples)
            compared = task.compare(run.samples, reference.samples, seed)
            measurements += [_of(entry, reference.fingerprint) for entry in compared]
        protocol = {"protocol": prepared.protocol["hash"]}
        run.measurements += [entry.model_copy(update=protocol) for entry in measurements]
        run.figures.append(_figure(measurements))
        run.notes.append(f"Computed by the {computed_by}.")
    return run.result


def _of(entry: Measurement, baseline: str) -> Measurement:
    """Return a comparison that says with which result it compares."""
    assert entry.comparison is not None
    named = entry.comparison.model_copy(update={"baseline": baseline})
    return entry.model_copy(update={"comparison": named})


def _require_data(task: Task, data: str | None) -> None:
    if isinstance(task, BudgetTask):
        return  # it has a text of its own, and takes another one
    needs_data = "data" in task.required_parameters
    if needs_data and data is None:
        raise SettingsError(
            f"Task '{task.name}' asks about data, and none was given; add --data FILE."
        )
    if data is not None and not needs_data:
        raise SettingsError(
            f"Task '{task.name}' has examples of its own, so that '{data}' has no effect; leave "
            f"--data out."
        )


def _settings(
    task: Task, way: Through, engine: EngineSettings | None, adapter: Path | None
) -> dict[str, Any]:  # Any: JSON values
    """Return what determines the outcome: the task's settings, and what it was asked through."""
    own = {} if engine is None else engine.changes()
    own |= {} if adapter is None else {"adapter": str(adapter)}
    return {**task.settings(), **own, "through": way}


def _keeps_by_chance(engine: EngineSettings | None) -> bool:
    """Whether the entries of the cache that stay are chosen by a control."""
    return (
        engine is not None
        and engine.keep is not None
        and is_control(EVICTIONS.resolve(engine.keep))
    )


def _position_notes(prepared: Rows, reader: "CheckpointReader") -> list[str]:
    from treadle.model import facts

    longest = max(map(len, prepared.rows), default=0)
    return facts.position_notes(facts.base_config(reader.config), longest)


def _prepared(task: Task, data: str, subject: Subject) -> Rows | TaskPrompts | Asks:
    if isinstance(task, AnswerTask):
        return task.prepare(data)
    return task.prepare(data, subject.tokenizer())


def _caches(task: Task, engine: EngineSettings | None, baseline: Path | None) -> list[Cache]:
    """Return the caches beside the full one that a task asks through: the engine's own first."""
    if not isinstance(task, BudgetTask):
        return []
    found = task.caches()
    if engine is not None and engine.keep is not None:
        policy = EVICTIONS.resolve(engine.keep)
        found.insert(0, Cache(policy.name, policy, engine.keep_budget))
    if baseline is not None and len(found) > 1:
        raise SettingsError(
            f"A baseline is compared with one cache, and {len(found)} are asked through; leave "
            f"--baseline out, or give one policy by --keep and --keep-budget."
        )
    return found


def _recalled(
    run: Recording,
    task: BudgetTask,
    prepared: Rows | TaskPrompts | Asks,
    subject: Subject,
    caches: list[Cache],
) -> tuple[list[Measurement], str]:
    """Note what came of a task by caches; return its scores, and what they were computed by."""
    from treadle.judge.evaluate.recalling import recalled

    assert isinstance(prepared, Asks)
    asked = recalled(subject, caches, prepared)
    judged = task.score(prepared, asked.found)
    run.samples, run.figures, run.tables = judged.samples, judged.figures, judged.tables
    run.bytes |= {"held": asked.held_bytes} if asked.held_bytes else {}
    return judged.measurements, asked.computed_by


def _sizes(reader: "CheckpointReader") -> dict[str, int]:
    """Return the bytes of a model, and those of its zeros where its numbers lie there as they are.

    What is decoded when it is read keeps its zeros in codes.
    """
    from treadle.core.checkpoint import CheckpointReader

    if type(reader) is not CheckpointReader:
        return {"input": reader.num_bytes}
    zeros = 0
    for name, info in reader.tensors.items():
        if info.dtype in FLOATS:
            zeros += count_zeros(reader.array(name)) * DTYPES[info.dtype].itemsize
            reader.release(name)
    return {"input": reader.num_bytes, "zeros": zeros}


def _asked(
    task: LossTask | AnswerTask,
    prepared: Rows | TaskPrompts | Asks,
    subject: Subject,
    reader: "CheckpointReader",
) -> tuple[Scores, str, int]:
    """Return the scores of a task, by what they were computed, and the bytes of its weights."""
    if isinstance(task, AnswerTask):
        assert isinstance(prepared, TaskPrompts)
        generator = subject.generator()
        answers = generator.answer(prepared.prompts, prepared.asked)
        return task.score(prepared, answers), generator.computed_by, generator.bytes_per_token
    assert isinstance(prepared, Rows)
    longest = max(map(len, prepared.rows), default=0)
    subject.require_effect(longest)
    scorer = subject.scorer(reader, longest)
    losses = scorer.token_losses(prepared.rows, prepared.firsts)
    _require_numbers(losses, str(subject.folder))
    held_bytes = scorer.bytes_per_token if subject.way == "runtime" else 0  # else no form to run in
    return task.score(prepared, losses), scorer.computed_by, held_bytes


def _reference(baseline: Path | None, prepared: Rows | TaskPrompts | Asks) -> Result | None:
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
    # As JSON, in which the baseline's was written.
    own = json.loads(json.dumps(prepared.protocol))
    said = found.protocol or {}
    differing = sorted(
        key
        for key in {*own, *said} - {"hash"}
        if (key in own, own.get(key)) != (key in said, said.get(key))
    )
    if theirs != own["hash"]:
        raise SettingsError(
            f"The baseline '{baseline}' was measured under another protocol (they differ in "
            f"{', '.join(differing) or 'its hash'}); evaluate both models on the same data with "
            f"the same settings."
        )
    if changed := [key for key in differing if key not in _PLACES]:
        raise DataError(
            f"The baseline '{baseline}' says another protocol ({', '.join(changed)}) than the one "
            f"that its hash stands for, so it was changed; evaluate that model again."
        )
    return found


def _require_pairs(baseline: Path, reference: Samples, samples: Samples) -> None:
    """Require that a baseline holds a number for each of this run's."""
    for name, values in samples.items():
        theirs = reference.get(name, [])
        if len(theirs) != len(values) or any(map(math.isnan, theirs)):
            raise DataError(
                f"The baseline '{baseline}' has {len(theirs)} samples of {name} "
                f"({sum(map(math.isnan, theirs))} of them not a number), but {len(values)} are "
                f"compared with them; evaluate that model again."
            )


def _data_hash(protocol: dict[str, Any]) -> str:  # Any: JSON values
    return str(protocol.get("corpus_sha256") or protocol["data_sha256"])


def _require_numbers(losses: "list[torch.Tensor]", model: str) -> None:
    """Refuse losses that are no numbers, although every weight is finite."""
    if any(bool(row.isnan().any()) for row in losses):
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
