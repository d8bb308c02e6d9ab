"""`treadle merge moe`: dense models become one mixture of experts that loads anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from treadle.combine.merge.account import inputs_of, manifest_of
from treadle.combine.merge.carried import write_carried
from treadle.combine.merge.inputs.kinship import strangers
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.mixture.account import account_for_gates, account_for_mixture
from treadle.combine.merge.mixture.base import MadeGate, Router
from treadle.combine.merge.mixture.document import read_document
from treadle.combine.merge.mixture.evidence import cut_windows, made_gates
from treadle.combine.merge.mixture.plan import (
    DenseExpert,
    MixturePlan,
    MixtureRequest,
    TextRequest,
    added_values,
    plan_mixture,
)
from treadle.combine.merge.mixture.prompts import read_prompts
from treadle.combine.merge.mixture.tables import ROUTERS
from treadle.combine.merge.recipe.grammar import ModelRef, of_models
from treadle.core import hardware
from treadle.core.arguments import checked
from treadle.core.checkpoint import (
    CheckpointWriter,
    model_card,
    prepare_target,
    require_elsewhere,
)
from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.core.registry import Choice
from treadle.core.result import Result
from treadle.core.run import Recording, recorded

if TYPE_CHECKING:
    from treadle.model.text import Windows

__all__ = ["merge_moe"]

_MAX_WORKERS = 4
"""As for any merge: more threads than these wait for memory or the disk."""
_WITH_PROMPTS, _WITH_TEXT, _WITHOUT = "hidden", "trained", "smile"
"""The routers that are taken where none is chosen."""


@checked
def merge_moe(
    models: list[str | Path],
    out: Path,
    *,
    base: str | Path | None = None,
    router: Annotated[Router | str | Choice | None, ROUTERS] = None,
    prompts: Path | None = None,
    text: list[str] | None = None,
    num_windows: int = 32,
    window_tokens: int = 512,
    experts_per_token: int | None = None,
    dtype: str | None = None,
    allow_different: list[str] | None = None,
    workers: int | None = None,
    verify: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Make one mixture of experts of dense models of one architecture.

    Each model's MLPs become experts; all else is the base's, or the mean of the models. The output
    is a Mixtral (of llama and mistral), a Qwen2-MoE (of qwen2) or a Qwen3-MoE (of qwen3), which
    transformers loads as it is. Tensors are read and written in runs; routers that look at inner
    states hold one block of each model at a time. A killed run goes on where it stopped.

    Args:
        models: Hugging Face folders, hub ids or packaged:smollm2, at least one; FOLDER+ADAPTER adds
            a LoRA. A single .yml or .yaml file is read as mergekit-moe's.
        out: Folder to write.
        base: The model that all but the MLPs is of, and that the experts were tuned from (default:
            the mean of the models).
        router: How the gates are made (default: hidden with prompts, trained with a text, smile
            without either).
        prompts: YAML or JSON file of what each expert is for: MODEL: [PROMPT, ...], or MODEL:
            {positive: [...], negative: [...]}.
        text: For the router that looks at losses: .txt or .jsonl files, or stdlib:calibration, of
            all the kinds that the experts are for.
        num_windows: Windows drawn from each text by the seed.
        window_tokens: Tokens in each window.
        experts_per_token: How many experts each token goes to (default: 2, or 1 of one).
        dtype: Of the output: bfloat16, float16 or float32 (default: the widest of the inputs).
        allow_different: Keys of config.json, such as rope_theta, that may differ between models
            though they compute with them; the output takes the base's, or the first model's.
        workers: Threads that share the tensors (default: the cores, at most 4).
        verify: Make every tensor of a model once more and compare it with what was written.
        seed: Of what is drawn: random gates, tokens that show what enters MLPs, noise.
        overwrite: Replace an existing output folder once the new one is complete.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or contradicts another, or `out` exists.
        CheckpointError: A model cannot be read, holds NaN, or does not fit the others.
        DataError: There is no file of prompts, or a prompt has no token.
        UnsupportedModelError: transformers has no mixture of such models.
        CapacityError: The disk is too small.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"workers = {workers}; give at least 1.")
    only = Path(models[0]) if len(models) == 1 else None
    if only is not None and only.suffix in (".yml", ".yaml"):
        given = {"base": base, "prompts": prompts, "experts_per_token": experts_per_token}
        request = _of_file(only, router, {**given, "dtype": dtype})
    else:
        listed = list(map(str, models))
        request = _of_models(listed, base, router, prompts, experts_per_token, bool(text))
        request = request._replace(dtype=dtype)
    asked = TextRequest(tuple(text), num_windows, window_tokens) if text else None
    request = request._replace(allow_different=tuple(allow_different or ()), text=asked)
    _require_sound(request)
    usable = workers or min(_MAX_WORKERS, hardware.usable_cores())
    return _run(request, Path(out), _Doing(usable, verify, seed, overwrite))


def _of_file(
    file: Path,
    router: Router | str | Choice | None,
    given: dict[str, Any],  # Any: settings of the verb
) -> MixtureRequest:
    if idle := [name for name, value in given.items() if value is not None]:
        raise SettingsError(
            f"'{file}' says what is made, so {', '.join(idle)} has no effect beside it; write it "
            f"into the file, or list the models instead."
        )
    return read_document(file, router)


def _of_models(
    models: list[str],
    base: str | Path | None,
    router: Router | str | Choice | None,
    prompts: Path | None,
    experts_per_token: int | None,
    has_text: bool,
) -> MixtureRequest:
    if not models:
        raise SettingsError("The list of models is empty; name at least one model.")
    experts = tuple(map(DenseExpert, models))
    if prompts is not None:
        experts = read_prompts(Path(prompts), models)
    usual = _WITH_TEXT if has_text else _WITHOUT
    chosen = ROUTERS.resolve(router, usual if prompts is None else _WITH_PROMPTS)
    per_token = min(2, len(models)) if experts_per_token is None else experts_per_token
    return MixtureRequest(experts, None if base is None else str(base), chosen, per_token)


def _require_sound(request: MixtureRequest) -> None:
    """Check what no model needs to be opened for."""
    if not 1 <= request.experts_per_token <= request.num_experts:
        raise SettingsError(
            f"experts_per_token = {request.experts_per_token}, of {request.num_experts} in all; "
            f"give 1 to {request.num_experts}."
        )
    reads_prompts = request.router.needs_prompts
    lacking = [one.model for one in request.experts if not one.positive]
    if reads_prompts and lacking:
        raise SettingsError(
            f"The router '{request.router.name}' needs prompts, and '{lacking[0]}' has none; give "
            f"them with --prompts (positive_prompts in mergekit-moe's file), or choose a router "
            f"without: smile or random."
        )
    reads_text = request.router.reads == "losses"
    if reads_text and request.text is None:
        raise SettingsError(
            f"The router '{request.router.name}' looks at the models' losses; give it a text of "
            f"all the kinds that the experts are for with --text."
        )
    if request.text is not None and not reads_text:
        raise SettingsError(
            f"The router '{request.router.name}' has no use for a text; leave it out, or choose "
            f"trained."
        )
    prompts = {(one.positive, one.negative) for one in request.experts}
    if reads_prompts and request.num_experts > 1 and len(prompts) == 1:
        raise SettingsError(
            "All experts have the same prompts, which tell none from another; write for each what "
            "it is for."
        )
    if not reads_prompts and len(lacking) < request.num_experts:
        raise SettingsError(
            f"The router '{request.router.name}' has no use for prompts; leave them out, or choose "
            f"hidden or cheap_embed."
        )


class _Doing(NamedTuple):
    """How a run is done."""

    workers: int
    verify: bool
    seed: int
    overwrite: bool


def _settings(request: MixtureRequest) -> dict[str, Any]:  # Any: JSON values
    """Return what determines the outcome beside the models' content; no folder is named but base's.

    Which of the models that were read is which expert is told by its place among them.
    """
    asked = {} if request.text is None else request.text.settings()
    seen = list(dict.fromkeys([request.base, *(one.model for one in request.experts)]))
    return {
        "router": request.router.settings(),
        "base": None if request.base is None else str(_reference(request.base)),
        "dtype": request.dtype,
        "experts_per_token": request.experts_per_token,
        "allow_different": list(request.allow_different),
        "experts": [
            {
                **one._asdict(),
                "model": seen.index(one.model),
                "positive": list(one.positive),
                "negative": list(one.negative),
            }
            for one in request.experts
        ],
        "bos": "each" if request.wants_bos else "auto",
        **asked,
    }


def _reference(name: str) -> ModelRef:
    return of_models("linear", [name]).sources[0].model


def _run(request: MixtureRequest, out: Path, doing: _Doing) -> Result:
    prepare_target(out, doing.overwrite)
    models = Models()
    try:
        with recorded(
            "merge",
            request.router,
            _settings(request),
            action="moe",
            seed=doing.seed,
            out=out,
            overwrite=None,
        ) as run:
            plan = plan_mixture(request, models, doing.seed)
            for model in models.all():
                require_elsewhere(out, model.reader.folder, f"'{model.ref}'s")
            base = None if request.base is None else _reference(request.base)
            run.inputs += inputs_of(models.all(), base)
            windows = cut_windows(request, plan, doing.seed)
            for number, one in enumerate(windows, 1):
                said = one.protocol
                run.read(f"text {number}", said.corpus, said.corpus_sha256, "data")
            with CheckpointWriter(
                out,
                plan.planned,
                parent=plan.merge.parent.reader,
                config=plan.merge.config,
                overwrite=doing.overwrite,
                fingerprint=run.fingerprint,
            ) as writer:
                run.notes += [*request.notes, *plan.merge.notes]
                run.notes += strangers(models.all())
                gates = _write_gates(request, plan, models, writer, doing.seed, windows)
                _write_rest(run, plan, writer, doing)
                account_for_mixture(run, plan, request, models)
                account_for_gates(run, gates, request)
                run.finish(writer.folder)
                manifest = manifest_of(run, models)
                writer.finish(manifest, model_card(out.name, manifest.provenance))
        return run.result
    finally:
        models.close()


def _write_gates(
    request: MixtureRequest,
    plan: MixturePlan,
    models: Models,
    writer: CheckpointWriter,
    seed: int,
    windows: "Sequence[Windows]",
) -> Sequence[MadeGate]:
    """Make the gates first: prompts that say nothing are found before anything large is written."""
    gates = list(made_gates(request, plan, models, seed, windows))
    for planned, gate in zip(plan.gates, gates, strict=True):
        writer.write(planned.name, gate.rows)
    deviation = float(plan.merge.config.get("initializer_range") or 0.02)
    for planned in plan.added:
        writer.write(planned.name, added_values(planned, seed, deviation))
    writer.mark_done([one.name for one in (*plan.gates, *plan.added)])
    return gates


def _write_rest(run: Recording, plan: MixturePlan, writer: CheckpointWriter, doing: _Doing) -> None:
    """Write what is a model's own or a mean, and what is taken over."""
    from treadle.combine.merge.run import merge_jobs, verify_jobs

    merge = plan.merge
    num_bytes = sum(job.planned.num_bytes for job in merge.jobs)
    with steps("merge (moe)", num_bytes * (1 + doing.verify)) as bar:
        write_carried(merge.carried, writer)
        if num_resumed := merge_jobs(merge, writer, doing.workers, bar):
            run.resumed(f"had written {num_resumed} of {len(merge.jobs)} tensors")
        if doing.verify:
            verify_jobs(merge, writer, doing.workers, bar)
            run.notes.append(
                "Verified: every tensor of a model was made twice and compared bit by bit."
            )
    if merge.vocabulary is not None:
        merge.vocabulary.write(writer.folder)
