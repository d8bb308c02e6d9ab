"""The zoo, opened and read: whoever cannot be read is left out, and named."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from treadle.combine.merge.glue.clusters import form_of, read_whole
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.recipe.grammar import ModelRef, of_models
from treadle.core.checkpoint import publish
from treadle.core.errors import SettingsError, TreadleError
from treadle.core.run import Recording

__all__ = ["Zoo", "opened_zoo", "require_apart"]


class Zoo(NamedTuple):
    """Models that can be read."""

    models: list[Model]
    forms: dict[ModelRef, str]
    """What one dense merge must have in common, hashed."""
    base: Model | None
    """What they, or some of them, were tuned from."""


def require_apart(out: Path, paths: Sequence[str | Path]) -> None:
    """Check that nothing that is read lies in `out`, or is it, or holds it.

    Raises:
        SettingsError: Something does: it would be gone, or grow, while it is read.
    """
    publish.require_apart(out, [part for path in paths for part in str(path).split("+")])


def opened_zoo(
    opened: Models, models: Sequence[str | Path], base: str | None, run: Recording
) -> Zoo:
    """Open and read every model.

    Raises:
        SettingsError: A model is named twice.
        TreadleError: None can be read, or the base cannot; what is wrong with it is said.
    """
    root = None
    if base is not None:
        root = opened[of_models("linear", [base]).sources[0].model]
        run.read("base", base, root.content_hash, "base")
    refs = [source.model for source in of_models("linear", list(models)).sources]
    _require_once(refs)
    zoo = Zoo([], {}, root)
    if root is not None:
        zoo.forms[root.ref] = form_of(root)
    hashes: dict[str, str] = {}
    faults: list[TreadleError] = []
    for ref in refs:
        try:
            model = opened[ref]
            read_whole(model)
            form, content = form_of(model), model.content_hash
        except TreadleError as error:
            if root is None or ref != root.ref:
                opened.forget(ref)
            faults.append(error)
            run.notes.append(f"Left out: '{ref}' cannot be read. {error}")
            continue
        if content in hashes:
            run.notes.append(
                f"Left out: '{ref}' has the very weights of '{hashes[content]}', which would count "
                f"twice."
            )
            continue
        hashes[content] = str(ref)
        if root is not None and content == root.content_hash:
            run.notes.append(f"'{ref}' is the base, so it is no part of a merge.")
            continue
        run.read(f"model {len(zoo.models) + 1}", str(ref), content, "model")
        zoo.forms[ref] = form
        zoo.models.append(model)
    if not zoo.models:
        if faults:
            raise faults[0]
        raise SettingsError("Beside the base no model was given; name those that were tuned.")
    return zoo


def _require_once(refs: Sequence[ModelRef]) -> None:
    places = [_place(ref) for ref in refs]
    for ref, place in zip(refs, places, strict=True):
        if places.count(place) > 1:
            raise SettingsError(f"'{ref}' is named twice; name each model once.")


def _place(ref: ModelRef) -> str:
    path = Path(ref.path).expanduser()
    return f"{path.resolve() if path.exists() else ref.path}+{ref.adapter}"
