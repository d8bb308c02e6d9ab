"""The account of a merge: what its result and its manifest say."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.combine.merge.models import Model, Models
from treadle.combine.merge.references import ModelRef
from treadle.core.checkpoint import Manifest, Parent, Provenance, SideFile
from treadle.core.result import RESULT_FILE, Input, Measurement, Result

if TYPE_CHECKING:
    from treadle.combine.merge.plan import Plan

__all__ = ["RECIPE_FILE", "inputs_of", "manifest_of", "outcome_of"]

RECIPE_FILE = "mergekit_config.yml"
"""What mergekit calls the recipe in the folder of its output."""


def inputs_of(models: Sequence[Model], base: ModelRef | None) -> list[Input]:
    """Return the models as inputs of a result: the base under that name, the others numbered."""
    found: list[Input] = []
    number = 0
    for model in models:
        number += model.ref != base
        name = "base" if model.ref == base else f"model {number}"
        found.append(Input(name=name, path=str(model.ref), content_hash=model.content_hash))
    return found


def outcome_of(plan: "Plan", models: Models, notes: list[str]) -> dict[str, Any]:  # of a Result
    """Return what the result says of the merge beside its cost."""
    num_parameters = sum(job.inputs.num_elements for job in plan.jobs)
    return {
        "measurements": [
            Measurement(name="parameters", value=num_parameters, unit="numbers in the output"),
            Measurement(name="models", value=len(models.all()), unit="models read"),
        ],
        "bytes": {
            "input": sum(model.reader.num_bytes for model in models.all()),
            "output": sum(job.planned.num_bytes for job in plan.jobs),
        },
        "notes": notes,
    }


def manifest_of(result: Result, models: Models) -> Manifest:
    """Return the output's manifest; it is published, so folders go by their names."""
    opened = models.all()
    parents = (Parent(name=_label(m.ref), content_hash=m.content_hash) for m in opened)
    labels = {str(model.ref): _label(model.ref) for model in opened}
    settings = dict(result.settings)
    files = {RESULT_FILE: "result"}
    if settings.get("base") is not None:
        settings["base"] = labels[settings["base"]]
    if "recipe" in settings:
        settings["recipe"] = RECIPE_FILE
        files[RECIPE_FILE] = "recipe"
    provenance = Provenance(
        verb="merge",
        method=result.method,
        settings=settings,
        seed=result.seed,
        parents=tuple(parents),
    )
    side_files = (
        SideFile(path=path, kind=kind, version=1, base_hash="", required=False)
        for path, kind in files.items()
    )
    return Manifest(side_files=tuple(side_files), provenance=provenance)


def _label(ref: ModelRef) -> str:
    """Return a reference with folders by their names; hub ids and packaged models stay."""
    parts = [ref.path, *([ref.adapter] if ref.adapter else [])]
    return "+".join(Path(p).resolve().name if Path(p).is_dir() else p for p in parts)
