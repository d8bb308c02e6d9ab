"""One tuning run: rows become documents, a model learns them, and what it became is written."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core import hardware
from treadle.core.checkpoint import CheckpointReader, prepare_target, require_elsewhere
from treadle.core.checkpoint.publish import remove, require_replaceable, write_text
from treadle.core.errors import CheckpointError, DataError, SettingsError, TreadleError
from treadle.core.result import Result, digest
from treadle.core.run import Recording, recorded
from treadle.learn.tune.account import account_for
from treadle.learn.tune.asking import Beside, LossError, named_rows, objective_of, reference_of
from treadle.learn.tune.heldout import HeldOut, compared, divergences
from treadle.learn.tune.lessons import Lessons, collate, parts_of
from treadle.learn.tune.material import Material, material_of
from treadle.learn.tune.pupil import Pupil, Rounding, pupil_of
from treadle.learn.tune.request import TuneRequest, is_pruned
from treadle.learn.tune.teachers import KeptTeacher, LiveTeacher, keep, require_same_tokens
from treadle.learn.tune.writing import write_adapter, write_model

if TYPE_CHECKING:
    from treadle.model.fit import Fit, FitSettings
    from treadle.model.packed import PackedModel

__all__ = ["tune_model"]

_SAVE_SECONDS = 120.0
"""Between two saves of the state."""
_RUN = "run.json"
_MUCH = 0.1
"""Of what was learned: from here on a loss is told."""


def tune_model(
    request: TuneRequest, folder: Path, name: str, out: Path, overwrite: bool, trusted: bool
) -> Result:
    """Tune the model in `folder`, which the user calls `name`, and publish the folder `out`."""
    from treadle.model.source import source_hash

    _require_place(out, overwrite, request.learner.is_adapter)
    require_elsewhere(out, folder, "the model's")
    _require_apart(out, request)
    shall_keep = bool(request.keep_zeros)
    if request.keep_zeros is None:
        keeps = is_pruned(folder) and not request.learner.is_adapter
        request = request._replace(keep_zeros=keeps)
    with recorded(
        "tune", request.method, request.told(), seed=request.seed, out=out, overwrite=None
    ) as run:
        run.is_control = request.shuffle_answers
        run.deed = _deed(request)
        run.read("model", name, source_hash(folder), "model")
        with CheckpointReader(folder) as reader:
            run.read("config", "config.json", digest(reader.config), "config")
            material = material_of(request, folder, run)
            teacher = _teacher_folder(request, folder, run)
            state = out.absolute().with_name(f".{out.name}.tuning")
            _claim(state, run, overwrite)
            with _kept_if_saved(state):
                pupil = pupil_of(request, folder, reader, name, trusted)
                _require_zeros(shall_keep, pupil)
                _teach(request, run, material, pupil, reader, teacher, state, trusted)
                _require_kept(pupil)
                if pupil.adapter is None:
                    write_model(run, reader, pupil.on_disk(), request.dtype, out, overwrite)
                else:
                    write_adapter(run, pupil.model, pupil.adapter, out)
        remove(state)
    return run.result


def _require_apart(out: Path, request: TuneRequest) -> None:
    """Check that no input lies in the output, which would replace it.

    Raises:
        SettingsError: One does.
    """
    for place in (request.data, request.text, request.heldout, request.teacher):
        if place is not None and out.resolve() in (
            Path(place).resolve(),
            *Path(place).resolve().parents,
        ):
            raise SettingsError(
                f"'{place}' lies in the output '{out}', which is replaced as a whole; choose "
                f"another one."
            )


def _deed(request: TuneRequest) -> str:
    """Return what is done to a model, in plain words."""
    name = Path(str(request.text or request.data)).name
    by = f" by {Path(request.teacher).name}" if request.teacher else ""
    return f"taught {name}{by}{' with shuffled answers' if request.shuffle_answers else ''}"


def _require_place(out: Path, overwrite: bool, is_adapter: bool) -> None:
    if not is_adapter:
        prepare_target(out, overwrite)
        return
    is_ours = (out / "adapter_config.json").is_file() or (out.is_dir() and not any(out.iterdir()))
    require_replaceable(out, overwrite, is_ours, "adapter (a folder with adapter_config.json)")


def _teacher_folder(request: TuneRequest, folder: Path, run: Recording) -> Path | None:
    """Return the teacher's folder, once it is known to have the model's tokens."""
    if request.teacher is None:
        return None
    from treadle.model.load import load_tokenizer, resolve
    from treadle.model.source import source_hash

    found = resolve(request.teacher)
    require_same_tokens(load_tokenizer(folder), load_tokenizer(found), request.teacher)
    content_hash = source_hash(found)
    run.read("teacher", request.teacher, content_hash, "teacher")
    if content_hash == source_hash(folder):
        run.notes.append(
            "The teacher is the model itself: there is nothing to learn, and every step leads away."
        )
    return found


def _claim(state: Path, run: Recording, overwrite: bool) -> None:
    """Take the folder of the state, unless it is another run's.

    Raises:
        SettingsError: It is.
        CheckpointError: It says no longer whose it is.
    """
    own = {"fingerprint": run.fingerprint, "settings": run.settings, "seed": run.seed}
    own = json.loads(json.dumps(own))
    if state.exists() and overwrite:
        theirs = _claimed_by(state, is_required=False)
        if theirs.get("fingerprint") != own["fingerprint"]:
            remove(state)
    if state.exists():
        theirs = _claimed_by(state, is_required=True)
        if theirs["fingerprint"] != own["fingerprint"]:
            differing = _differing(own, theirs)
            raise SettingsError(
                f"'{state}' holds the state of another run, which was interrupted (they differ in "
                f"{differing}); finish that one with its own settings, or remove the folder or "
                f"pass --overwrite to begin anew."
            )
        return
    beside = state.with_name(f"{state.name}.new")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        write_text(beside / _RUN, own)
        beside.rename(state)
    except BaseException:
        remove(beside)
        raise


@contextmanager
def _kept_if_saved(state: Path) -> Iterator[None]:
    """Remove the folder of the state after an error before anything was saved there."""
    try:
        yield
    except (TreadleError, OSError):
        if not any(file.name != _RUN for file in state.glob("*")):
            remove(state)
        raise


def _claimed_by(state: Path, is_required: bool) -> dict[str, Any]:  # Any: JSON values
    try:
        found: dict[str, Any] = json.loads((state / _RUN).read_text(encoding="utf-8"))
        if is_required:
            found["fingerprint"], found["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not is_required:
            return {}
        raise CheckpointError(
            f"'{state}' is the state of an interrupted run, and no longer says of which ({error}); "
            f"remove it to begin again."
        ) from error
    return found


def _differing(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:  # Any: JSON values
    mine, other = own["settings"], theirs["settings"]
    keys = [key for key in {**mine, **other} if mine.get(key) != other.get(key)]
    keys += ["seed"] if own["seed"] != theirs.get("seed") else []
    return ", ".join(keys) or "the model or the data"


class _Lesson(NamedTuple):
    """What a run learns, and how long."""

    lessons: Lessons
    steps: int


def _teach(
    request: TuneRequest,
    run: Recording,
    material: Material,
    pupil: Pupil,
    reader: CheckpointReader,
    teacher: Path | None,
    state: Path,
    trusted: bool,
) -> None:
    from treadle.model.packed import PackedModel

    lesson = _lesson(request, material)
    asked = PackedModel(pupil.model, request.settings.compute)
    if request.settings.steps and request.settings.rows > material.num_learned:
        run.notes.append(
            f"There are {material.num_learned} rows to learn, so that some come several times in a "
            f"step of {request.settings.rows}."
        )
    if not asked.is_packed:
        run.notes.append(
            "Documents lie in rows of their own, as this architecture lets those in one row see "
            "each other."
        )
    groups, settings = material.groups, request.settings
    beside = _beside(request, asked, material, lesson, teacher, state, trusted, run)
    held = HeldOut(groups, material.heldout, request.method, settings.part_tokens)
    before = held.measure(asked, beside) if material.heldout else None
    with asked.active():
        done = _fit(request, run, material, pupil, asked, beside, lesson, held, state)
    if pupil.adapter is None:
        _note_rounding(run, pupil.round_as_written(reader, request.dtype))
    account_for(run, request, done, lesson.steps, pupil.num_learning, pupil.num_parameters)
    if before is not None:
        after = held.measure(asked, beside)
        run.measurements += held.measurements(before, after, request.seed)
        if request.method.takes == "pairs":
            run.measurements.append(_moved(request, asked, material, pupil, trusted))


def _note_rounding(run: Recording, found: Rounding) -> None:
    """Say what the dtype of the output takes back of what was learned."""
    lost = 1 - found.num_kept / max(1, found.num_changed)
    if lost > _MUCH:
        run.notes.append(
            f"{lost:.0%} of the {found.num_changed} weights that learned are what they were "
            f"before, once they are rounded to the numbers of the output; --dtype float32, a "
            f"higher --learning-rate or --learn lora keeps what they learned."
        )


def _lesson(request: TuneRequest, material: Material) -> _Lesson:
    settings, number = request.settings, material.num_learned
    limit = None
    if settings.steps is None:
        limit = max(1, round((settings.epochs or 1.0) * number))
    steps = settings.steps or -(-(limit or 1) // settings.rows)
    learned = material.groups[:number]
    return _Lesson(Lessons(learned, settings.rows, request.seed, limit), steps)


def _beside(
    request: TuneRequest,
    asked: "PackedModel",
    material: Material,
    lesson: _Lesson,
    teacher: Path | None,
    state: Path,
    trusted: bool,
    run: Recording,
) -> Beside:
    """Return what stands beside the model: its reference, or a teacher."""
    from treadle.model.load import full
    from treadle.model.packed import PackedModel

    part_tokens, groups = request.settings.part_tokens, material.groups
    numbers = lesson.lessons.seen(lesson.steps)
    if request.method.takes == "pairs":
        with asked.active():
            learned = reference_of(asked, groups, numbers, part_tokens)
            with asked.exactly():  # as what is held out is measured
                return Beside(learned + reference_of(asked, groups, material.heldout, part_tokens))
    if teacher is None:
        return Beside()
    model = PackedModel(full(teacher, trust_remote_code=trusted), request.settings.compute)
    top = getattr(request.method, "top", None)
    if top is None:
        return Beside(teacher=LiveTeacher(model))
    temperature = float(getattr(request.method, "temperature", 1.0))
    run.bytes["teacher_kept"] = keep(model, groups, numbers, top, temperature, part_tokens, state)
    del model
    hardware.return_freed_memory()
    return Beside(teacher=KeptTeacher(state, groups))


def _fit(
    request: TuneRequest,
    run: Recording,
    material: Material,
    pupil: Pupil,
    asked: "PackedModel",
    beside: Beside,
    lesson: _Lesson,
    held: HeldOut,
    state: Path,
) -> "Fit":
    from treadle.model.fit import fit

    settings, groups = request.settings, material.groups
    last: list[int] = []  # the rows of the running step

    def batch(step: int, _: Sequence[float]) -> list[dict[str, Any]]:  # Any: tensors
        last[:] = lesson.lessons.chosen(step)
        parts = parts_of(groups, last, settings.part_tokens)
        return [collate(groups, numbers) for numbers in parts]

    try:
        done = fit(
            pupil.model,
            batch,
            _fit_settings(request, pupil, lesson.steps),
            state,
            objective=objective_of(request.method, asked, groups, beside),
            optimizer=request.optimizer,
            learn=f"^(?:{'|'.join(map(re.escape, pupil.names))})$",
            evaluate=(lambda _: held.values(held.measure(asked, beside))) if held.numbers else None,
            identity=run.fingerprint,
            keeps_state=True,
        )
    except DataError as error:
        if isinstance(error.__cause__, LossError):
            raise
        raise DataError(f"{error} The step's rows: {named_rows(groups, last)}.") from error
    if done.first_step:
        run.resumed(f"had taken the first {done.first_step} of {lesson.steps} steps")
    return done


def _fit_settings(request: TuneRequest, pupil: Pupil, steps: int) -> "FitSettings":
    from treadle.model.fit import FitSettings

    settings = request.settings
    return FitSettings(
        steps=steps,
        learning_rate=request.learning_rate,
        schedule=settings.schedule,
        warmup_fraction=settings.warmup_fraction,
        final_fraction=settings.final_fraction,
        clip_norm=settings.clip_norm,
        save_every=settings.save_every,
        save_every_seconds=_SAVE_SECONDS,
        evaluate_every=settings.evaluate_every,
        keep_zeros=bool(pupil.zeros),
    )


def _require_zeros(shall_keep: bool, pupil: Pupil) -> None:
    if shall_keep and not pupil.zeros:
        raise SettingsError(
            "keep_zeros has nothing to keep: no matrix that learns holds a zero; leave it out, or "
            "give a pruned model."
        )


def _require_kept(pupil: Pupil) -> None:
    """Check that no zero which should stay has a value."""
    for name, mask in pupil.zeros.items():
        found = pupil.model.get_parameter(name).detach()
        assert not bool(found[mask].any()), f"a zero of '{name}' was lost"


def _moved(
    request: TuneRequest,
    asked: "PackedModel",
    material: Material,
    pupil: Pupil,
    trusted: bool,
) -> Any:  # Any: a measurement
    """Measure how far a model is from what it was, which is read from disk again."""
    from treadle.model.load import full
    from treadle.model.packed import PackedModel

    reference = PackedModel(full(pupil.folder, trust_remote_code=trusted))
    values = divergences(
        asked, reference, material.groups, material.heldout, request.settings.part_tokens
    )
    return compared(values, request.seed)
