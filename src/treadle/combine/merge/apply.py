"""The verb: its parameters, turned into a recipe and handed to a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.combine.merge.account import (
    RECIPE_FILE,
    account_for,
    account_for_seed,
    account_for_zeros,
    inputs_of,
    manifest_of,
)
from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.carried import write_carried
from treadle.combine.merge.inputs.data import DataRequest, requested
from treadle.combine.merge.inputs.kinship import strangers
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.recipe.extras import ALLOW_DIFFERENT, KEEP_ZEROS
from treadle.combine.merge.recipe.grammar import MergeRecipe, load, of_models
from treadle.combine.merge.tables import METHODS
from treadle.core import hardware
from treadle.core.arguments import checked
from treadle.core.checkpoint import (
    CheckpointWriter,
    model_card,
    prepare_target,
)
from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.core.result import Result
from treadle.core.run import Recording, recorded
from treadle.model.text import Bos

if TYPE_CHECKING:
    from treadle.combine.merge.plan import MergePlan

__all__ = ["merge", "merge_yaml"]

_MAX_WORKERS = 4
"""More threads than these wait for memory or the disk."""


@checked
def merge(
    models: list[str | Path],
    out: Path,
    method: MergeMethod | str | Mapping[str, Any],  # Any: settings, validated by the table
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    tokenizer: str | None = None,
    text: list[str] | None = None,
    num_windows: int = 32,
    window_tokens: int = 512,
    bos: Bos = "auto",
    allow_different: list[str] | None = None,
    keep_zeros: bool = False,
    workers: int | None = None,
    verify: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Merge models of one architecture and write the merged model.

    Tensors are read, merged in float32 and written in runs that fit a processor's cache, each in
    one thread: memory stays under 256 MB whatever the size of the models, and the bytes do not
    depend on the number of threads. A killed merge goes on where it stopped when it is started
    again with the same settings.

    Args:
        models: Hugging Face folders, hub ids or packaged:smollm2; FOLDER+ADAPTER adds a LoRA.
        out: Folder to write.
        method: How namesake tensors become one: a name, a mapping of it and its settings such as
            {"method": "ties", "density": 0.3}, or METHODS.resolve of one.
        base: The model that the others were tuned from, where the method needs it.
        dtype: Of the output: bfloat16, float16 or float32 (default: the widest of the inputs).
        tokenizer: Whose vocabulary the output has: union, base or one of the models; needed where
            they differ.
        text: For methods that look at the models' data: a .txt or .jsonl file or
            stdlib:calibration for all models, or one for each in their order.
        num_windows: Windows drawn from each text by the seed.
        window_tokens: Tokens in each window.
        bos: Start each window with the tokenizer's BOS token, which Gemma needs: each, none, or
            auto, as the tokenizer itself starts a text.
        allow_different: Keys of config.json, such as rope_theta, that may differ between models
            though they compute with them; the output takes the base's, or the first model's.
        keep_zeros: Keep a weight at zero where it is zero in every sparse input (the base is one,
            too): those with 5 % of zeros or more in its matrix; dense inputs have no say.
        workers: Threads that share the tensors (default: the cores, at most 4).
        verify: Merge everything once more and compare it with what was written.
        seed: Seed of the methods that drop weights at random, and of the windows.
        overwrite: Replace an existing output folder once the new one is complete.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or contradicts another, or `out` exists.
        CheckpointError: A model cannot be read, holds NaN, or does not fit the others.
        CapacityError: The disk is too small.
    """
    chosen = METHODS.resolve(method)
    recipe = of_models(chosen.name, models, base, dtype, None, tokenizer)
    if allow_different:
        recipe.extras[ALLOW_DIFFERENT] = list(allow_different)
    named_base = None if recipe.base is None else str(recipe.base)
    settings = {**chosen.settings(), "base": named_base, "dtype": dtype, "tokenizer": tokenizer}
    if allow_different:
        settings["allow_different"] = list(allow_different)
    if keep_zeros:
        recipe.extras[KEEP_ZEROS] = settings["keep_zeros"] = True
    data = requested(text, num_windows, window_tokens, bos)
    if data is not None:
        settings |= data.settings()
    request = _Request(recipe, chosen, settings, data, _workers(workers), verify, seed)
    return _run(request, Path(out), overwrite)


@checked
def merge_yaml(
    recipe: Path,
    out: Path,
    *,
    workers: int | None = None,
    verify: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Merge as a mergekit configuration says.

    Args:
        recipe: YAML file in mergekit's grammar.
        out: Folder to write.
        workers: Threads that share the tensors (default: the cores, at most 4).
        verify: Merge everything once more and compare it with what was written.
        seed: Seed of the methods that drop weights at random.
        overwrite: Replace an existing output folder once the new one is complete.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: The file asks for something that does not exist; the near one is named.
        CheckpointError: A model cannot be read, holds NaN, or does not fit the others.
        CapacityError: The disk is too small.
    """
    read = load(Path(recipe))
    settings = {"method": read.method, "recipe": Path(recipe).read_text()}
    request = _Request(read, None, settings, None, _workers(workers), verify, seed, "yaml")
    return _run(request, Path(out), overwrite)


def _workers(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise SettingsError(f"workers = {asked}; give at least 1.")
    return asked or min(_MAX_WORKERS, hardware.usable_cores())


class _Request(NamedTuple):
    """What one merge was asked to do."""

    recipe: MergeRecipe
    method: MergeMethod | None
    """The one for all tensors; None where the recipe gives the settings of each."""
    settings: dict[str, Any]  # Any: JSON values
    data: DataRequest | None
    workers: int
    verify: bool
    seed: int
    action: str = ""


def _run(request: _Request, out: Path, overwrite: bool) -> Result:
    from treadle.combine.merge.plan import make_plan

    prepare_target(out, overwrite)
    models = Models()
    try:
        with recorded(
            "merge",
            request.method or request.recipe.method,
            request.settings,
            action=request.action,
            seed=request.seed,
            out=out,
            overwrite=None,
        ) as run:
            plan = make_plan(request.recipe, models, request.seed, request.method, request.data)
            _require_elsewhere(models, out)
            run.inputs += inputs_of(models.all(), request.recipe.base)
            if plan.data is not None:
                run.inputs += plan.data.inputs()
                plan.data.collect(out)
            with CheckpointWriter(
                out,
                plan.planned,
                parent=plan.parent.reader,
                config=plan.config,
                overwrite=overwrite,
                fingerprint=run.fingerprint,
            ) as writer:
                run.notes += plan.notes
                run.notes += strangers(_mixed(request.recipe, models))
                _merge_all(run, plan, writer, request)
                if plan.vocabulary is not None:
                    plan.vocabulary.write(writer.folder)
                account_for(run, plan, models)
                account_for_seed(run, plan)
                account_for_zeros(run, plan, writer)
                run.finish(writer.folder)
                if "recipe" in request.settings:
                    write_text(writer.folder / RECIPE_FILE, request.settings["recipe"])
                manifest = manifest_of(run, models)
                writer.finish(manifest, model_card(out.name, manifest.provenance))
            if plan.data is not None:
                plan.data.remove()
        return run.result
    finally:
        models.close()


def _mixed(recipe: MergeRecipe, models: Models) -> list[Model]:
    """Return the models whose numbers are mixed; slices that follow each other mix nothing."""
    if len(recipe.slices) > 1:
        return []
    listed = {source.model for source in recipe.sources}
    has_base = METHODS[recipe.method].base != "unused"
    return [one for one in models.all() if one.ref in listed or has_base]


def _merge_all(
    run: Recording, plan: "MergePlan", writer: CheckpointWriter, request: _Request
) -> None:
    """Merge all tensors, and note what a reader of the result should know of it."""
    from treadle.combine.merge.run import merge_jobs, survey_jobs, verify_jobs

    plan = survey_jobs(plan, request.recipe, request.workers)
    num_bytes = sum(job.planned.num_bytes for job in plan.jobs)
    with steps(f"merge ({request.recipe.method})", num_bytes * (1 + request.verify)) as bar:
        write_carried(plan.carried, writer)
        if num_resumed := merge_jobs(plan, writer, request.workers, bar):
            run.resumed(f"had written {num_resumed} of {len(plan.jobs)} tensors")
        if request.verify:
            verify_jobs(plan, writer, request.workers, bar)
            run.notes.append("Verified: every tensor was merged twice and compared bit by bit.")


def _require_elsewhere(models: Models, out: Path) -> None:
    for model in models.all():
        source = model.reader.folder.resolve()
        if source in (out.resolve(), *out.resolve().parents):
            raise SettingsError(
                f"The output '{out}' is the folder of the model '{model.ref}', or lies in it; "
                f"choose another one."
            )
