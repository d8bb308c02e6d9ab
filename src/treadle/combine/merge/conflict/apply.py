"""The action conflict: merge layers that agree, keep experts where they do not, route prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from treadle.combine.merge.apply import merge
from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.conflict.account import account_for_layers, account_for_router
from treadle.combine.merge.conflict.choosing import Among, Order, chosen_layers, packed_bytes
from treadle.combine.merge.conflict.expert_files import Keep, OwnShare, written_expert
from treadle.combine.merge.conflict.measures import EMBEDDING, HEAD, LayerConflict, conflicts
from treadle.combine.merge.conflict.router import Fitted, fitted, require_enough
from treadle.combine.merge.expert_names import expert_names
from treadle.combine.merge.glue.clusters import Cluster
from treadle.combine.merge.glue.items import Items, read_items
from treadle.combine.merge.glue.journal import TrialJournal
from treadle.combine.merge.glue.opening import require_apart
from treadle.combine.merge.glue.trials import Settled, Trials, require_askable
from treadle.combine.merge.inputs.kinship import strangers
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.plan import MergePlan, make_plan
from treadle.combine.merge.recipe.grammar import MergeRecipe, of_models
from treadle.combine.merge.tables import METHODS
from treadle.core.arguments import checked
from treadle.core.checkpoint import CheckpointReader, model_card, side_file
from treadle.core.checkpoint.hashing import file_hash
from treadle.core.checkpoint.layered import DENSE, LayerRouting, expert_file
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import prepare_target, publish, remove, write_text
from treadle.core.checkpoint.routed import (
    EXPERTS,
    ROUTER_FILE,
    ROUTING_FILE,
    bundle_config,
    bundle_hash,
)
from treadle.core.codec import DTYPES
from treadle.core.errors import CapacityError, CheckpointError, SettingsError
from treadle.core.progress import track
from treadle.core.registry import Choice
from treadle.core.result import RESULT_FILE, Result, read_result
from treadle.core.run import Recording, recorded
from treadle.core.sizes import Bytes

__all__ = ["merge_conflict"]

_KEY, _JOURNAL = "key.txt", "journal.jsonl"
_ANCESTOR = "share no ancestor"
"""What the merge of a part of the models would say once more."""


@checked
def merge_conflict(
    models: list[str | Path],
    out: Path,
    *,
    base: str | Path,
    route_fraction: float | None = None,
    route_bytes: Bytes | None = None,
    order: Order = "conflict",
    among: Among = "all",
    how: Annotated[MergeMethod | str | Choice, METHODS] = "linear",
    density: float = 0.1,
    keep: Keep = "magnitude",
    denoise: float = 0.2,
    data: list[str] | None = None,
    test: list[str] | None = None,
    num_items: int = 64,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Merge the layers in which models agree, and keep the others for each, as sparse changes.

    OUT is a bundle: OUT/dense is the merged model, a plain folder, and beside it lies what each
    model has of its own in the layers of highest conflict. `LLM(OUT)` answers each prompt with the
    expert, or the mixture of experts, that a router decides on; with no `data` there is no router,
    and requests name an expert or get the merged model. A killed run goes on where it stopped.

    Args:
        models: Hugging Face folders, hub ids or packaged:smollm2, two or more of one architecture
            and vocabulary; FOLDER+ADAPTER adds a LoRA.
        out: Folder to write.
        base: The model that the others were tuned from.
        route_fraction: Share of the layers that experts keep, 0..1; embedding and head count as
            layers. Without it and `route_bytes`, those whose conflict is above the mean.
        route_bytes: As many layers of all experts as fit into so many bytes.
        order: Which layers come first: those of highest conflict; lowest and random are controls.
        among: Of all layers, or of the decoder blocks only: embedding, last norm and head stay
            merged then; or of their MLPs only. With route_fraction 1 and density 1 that is a
            mixture of whole blocks, or of whole MLPs, whose router looks at the prompt.
        how: How the models are merged.
        density: Share of the numbers of a matrix that an expert keeps; 1 keeps all, so that with
            all layers each expert is its model bit by bit.
        keep: Those that differ most from the merged model (magnitude), in each row (rows), or drawn
            and enlarged (random).
        denoise: Share of each tensor's changes, the largest ones, whose signs count as conflict.
        data: For the router: .jsonl files as treadle evaluate exact or choice reads them, or skills
            such as skills:json, each of one kind; the expert that answers it best owns a kind.
        test: Files or skills to say how the router does on, in place of held-out halves and splits.
        num_items: Most items of each kind, drawn by the seed.
        dtype: Of the output: bfloat16, float16 or float32 (default: the widest of the inputs).
        seed: Of what is drawn: layers, changes, items.
        overwrite: Replace an existing output folder once the new one is complete.

    Returns:
        The account of the run, as in the folder's result.json: conflict layer by layer, bytes, and
        how the router does.

    Raises:
        SettingsError: A setting is wrong or contradicts another, or `out` exists.
        CheckpointError: A model cannot be read, holds NaN, or does not fit the others.
        DataError: Items are missing, damaged, or on both sides.
        CapacityError: The disk is too small.
    """
    out, method = Path(out), METHODS.resolve(how)
    _require_sound(models, method, route_fraction, route_bytes, density, denoise)
    require_apart(out, [*models, base, *(data or ()), *(test or ())])
    if data is None and test is not None:
        raise SettingsError("test is what a router is tried on, which data makes; give data, too.")
    items = None if data is None else read_items(data, test, seed, num_items)
    if items is not None:
        require_enough(items.dev)
    prepare_target(out, overwrite)
    asked = _Asked(order, among, route_fraction, route_bytes, OwnShare(density, keep, seed))
    settings: dict[str, Any] = {  # Any: JSON values
        **{"base": str(base), "how": method.settings(), "density": density},
        **{"order": order, "among": among},
        **{"route_fraction": route_fraction, "route_bytes": route_bytes, "keep": keep},
        **{"denoise": denoise, "data": data, "test": test, "num_items": num_items, "dtype": dtype},
    }
    opened = Models()
    try:
        with recorded(
            "merge", settings=settings, action="conflict", seed=seed, out=out, overwrite=None
        ) as run:
            run.is_control |= order != "conflict"
            plan = make_plan(_recipe(models, base, dtype), opened, seed)
            tuned = _tuned(plan, opened, models, base, run)
            for one in [] if items is None else [*items.dev, *items.test]:
                run.read(one.name, one.name, one.content_hash, "data")
            folder = _begun(out, run.fingerprint)
            made = folder / "bundle"
            run.notes += strangers(opened.all())
            said = _merged(models, base, made / DENSE, method, dtype, seed, out)
            run.notes += [note for note in said if _ANCESTOR not in note]
            with CheckpointReader(made / DENSE) as dense:
                _require_namesakes(plan, dense)
                measured = conflicts(plan.jobs, denoise)
                routed = asked.routed(measured, plan.jobs, dense, len(tuned))
                names = expert_names([str(model.ref) for model in tuned])
                _write_experts(run, made, names, plan.jobs, routed, dense, asked.keeping)
                router = None
                if items is not None:
                    dev, held = _losses(items, tuned, opened, folder, dtype, seed)
                    router = fitted(items.dev, dev, seed)
                    account_for_router(run, router, items, names, held)
                _write_routing(made, names, [one.layer for one in routed], density, router)
                account_for_layers(run, measured, routed, names, dense, made)
            _complete(run, made, router is not None, names)
            publish(made, out)
            remove(folder)
        return run.result
    finally:
        opened.close()


class _Asked(NamedTuple):
    """What is kept, and how."""

    order: Order
    among: Among
    fraction: float | None
    num_bytes: int | None
    keeping: OwnShare

    def routed(
        self,
        measured: Sequence[LayerConflict],
        jobs: Sequence[TensorJob],
        dense: CheckpointReader,
        num_experts: int,
    ) -> list[LayerConflict]:
        """Return the layers that experts keep."""
        shapes = {job.inputs.name: job.inputs.shape for job in jobs}
        if self.among != "all":
            measured = [one for one in measured if one.layer not in (EMBEDDING, HEAD)]
        if self.among == "mlps":
            measured = [one.only(".mlp.") for one in measured]
        sizes = {
            one.layer: num_experts
            * sum(
                packed_bytes(
                    shapes[name],
                    DTYPES[dense.tensors[name].dtype].itemsize,
                    self.keeping.density,
                    self.keeping.keep == "rows",
                )
                for name in one.tensors
            )
            for one in measured
        }
        chosen = chosen_layers(
            measured, sizes, self.order, self.fraction, self.num_bytes, self.keeping.seed
        )
        return [one for one in measured if one.layer in chosen]


def _require_sound(
    models: Sequence[str | Path],
    method: MergeMethod,
    fraction: float | None,
    num_bytes: int | None,
    density: float,
    denoise: float,
) -> None:
    if len(models) < 2:
        raise SettingsError(f"Models conflict with each other, and {len(models)} was given.")
    if fraction is not None and num_bytes is not None:
        raise SettingsError("route_fraction and route_bytes are two budgets; give one of them.")
    for name, value in (("route_fraction", fraction), ("density", density), ("denoise", denoise)):
        if value is not None and not 0 <= value <= 1:
            raise SettingsError(f"{name} = {value} is outside 0..1; give a share, such as 0.3.")
    if denoise == 0:
        raise SettingsError("denoise = 0 leaves no change whose sign could count; give 0.2.")
    if method.needs:
        raise SettingsError(
            f"'{method.name}' looks at texts while it merges, which this action gives it none of; "
            f"choose another, such as linear or ties."
        )


def _recipe(models: Sequence[str | Path], base: str | Path, dtype: str | None) -> MergeRecipe:
    """Return the recipe whose plan shows every tensor of the models beside the base's."""
    return of_models("task_arithmetic", list(models), base, dtype)


def _tuned(
    plan: MergePlan,
    opened: Models,
    models: Sequence[str | Path],
    base: str | Path,
    run: Recording,
) -> list[Model]:
    """Return the models in their order, without the base, and note all as inputs."""
    if plan.vocabulary is not None:
        raise CheckpointError(
            "The models have different vocabularies, and experts beside one model share its own; "
            "merge models of one vocabulary."
        )
    root = opened[of_models("linear", [base]).sources[0].model]
    listed = [source.model for source in of_models("linear", list(models)).sources]
    found = [opened[ref] for ref in listed if ref != root.ref]
    if len(found) < len(listed) or len({id(one) for one in found}) < len(listed):
        raise SettingsError(
            "A model is named twice, or is the base; name each tuned model once, and the base with "
            "--base only."
        )
    run.read("base", str(base), root.content_hash, "base")
    for number, one in enumerate(found, 1):
        run.read(f"model {number}", str(one.ref), one.content_hash, "model")
    return found


def _begun(out: Path, fingerprint: str) -> Path:
    """Return the folder that grows beside `out`, empty unless the same run began it."""
    folder = out.with_name(f".{out.name}.conflict")
    if not (folder / _KEY).is_file() or (folder / _KEY).read_text() != fingerprint:
        remove(folder)
        (folder / "bundle" / EXPERTS).mkdir(parents=True)
        (folder / _KEY).write_text(fingerprint)
    return folder


def _merged(
    models: Sequence[str | Path],
    base: str | Path,
    dense: Path,
    method: MergeMethod,
    dtype: str | None,
    seed: int,
    out: Path,
) -> list[str]:
    """Write the merged model, unless an interrupted run has, and return what is to say of it."""
    if (dense / RESULT_FILE).is_file():
        return read_result(dense / RESULT_FILE).notes
    root = None if method.base == "unused" else base
    try:
        made = merge(list(models), dense, method, base=root, dtype=dtype, seed=seed, overwrite=True)
    except CapacityError as error:  # users know their own output, not where it grows
        raise CapacityError(str(error).replace(str(dense), str(out))) from error
    return made.notes


def _require_namesakes(plan: MergePlan, dense: CheckpointReader) -> None:
    names = {job.inputs.name for job in plan.jobs}
    others = names ^ set(dense.tensors) - {one.planned.name for one in plan.carried}
    if others:
        raise CheckpointError(
            f"The base and the models store '{min(others)}' differently, so that no layer of one "
            f"can stand beside the other's; write both from one library (treadle export --dense)."
        )


def _write_experts(
    run: Recording,
    made: Path,
    names: Sequence[str],
    jobs: Sequence[TensorJob],
    routed: Sequence[LayerConflict],
    dense: CheckpointReader,
    keeping: OwnShare,
) -> None:
    kept = {name for one in routed for name in one.tensors}
    own = [job for job in jobs if job.inputs.name in kept]
    num_there = 0
    for place, name in enumerate(track(names, "write experts", len(names))):
        file = expert_file(made, name)
        if file.is_file():
            num_there += 1
        else:
            written_expert(file, place, own, dense, keeping)
    if num_there:
        run.resumed(f"had written {num_there} of {len(names)} experts")


def _losses(
    items: Items, tuned: Sequence[Model], opened: Models, folder: Path, dtype: str | None, seed: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return what each model loses on each set, for the router and to try it on."""
    cluster = Cluster(list(tuned), np.eye(len(tuned)))
    require_askable(cluster, [*items.dev, *items.test])
    settled = Settled(METHODS.resolve("linear"), None, dtype, "nats", seed)
    journal = TrialJournal(folder / _JOURNAL, "conflict")
    try:
        trials = Trials(cluster, opened.only(tuned), settled, items.dev, journal)
        both = [*items.dev, *items.test]
        alone = [
            trials.losses(trials.only(place), both)
            for place in track(range(len(tuned)), "ask each model", len(tuned))
        ]
    finally:
        journal.close()
    means = [[float(one[number].mean()) for one in alone] for number in range(len(both))]
    return means[: len(items.dev)], means[len(items.dev) :]


def _write_routing(
    made: Path, names: Sequence[str], layers: list[str], density: float, found: Fitted | None
) -> None:
    from safetensors.numpy import save

    config = bundle_config(list(names)) | {"treadle_level": "layers"}
    write_text(made / "config.json", config)
    hashes = {name: file_hash(expert_file(made, name)) for name in names}
    routing = LayerRouting(
        experts=tuple(names), layers=tuple(layers), density=density, files=hashes
    )
    if found is not None:
        router = found.router
        routing = routing.model_copy(
            update={"features": router.features, "decision": router.decision}
        )
        parts = {
            "means": router.means,
            "directions": router.directions,
            "noise": np.array([router.noise], np.float32),
            "owners": router.owners,
        }
        tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in parts.items()}
        (made / ROUTER_FILE).write_bytes(save(tensors, metadata={"format": "np"}))
    write_text(made / ROUTING_FILE, routing.model_dump_json(indent=2) + "\n")


def _complete(run: Recording, made: Path, has_router: bool, names: Sequence[str]) -> None:
    """Write the account, the manifest and the card."""
    run.finish(made)
    kinds = [("result", RESULT_FILE), ("layer-routing", ROUTING_FILE)]
    kinds += [("router", ROUTER_FILE)] if has_router else []
    kinds += [("expert", f"{EXPERTS}/{name}.safetensors") for name in names]
    manifest = run.manifest([side_file(kind, path) for kind, path in kinds])
    found = manifest.completed(bundle_hash(made))
    (made / MANIFEST_FILE).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    card = model_card(run.out.name if run.out else made.name, manifest.provenance)
    (made / "README.md").write_text(card, encoding="utf-8")
