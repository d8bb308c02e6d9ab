"""Whether the models of a merge fit together: of one architecture, with the same tensors."""

from collections.abc import Sequence

from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.sources import TensorSource
from treadle.combine.merge.recipe.extras import ALLOW_ARCHITECTURES
from treadle.core.errors import CheckpointError
from treadle.model.facts import base_config, is_wrapper, own_name, whole_config

__all__ = ["form_mend", "namesakes", "require_one_architecture"]

_EXPERTS = ".experts."
"""What stands before the experts' own names, whether in a tensor each or in one for all."""


def require_one_architecture(models: Sequence[Model]) -> None:
    """Check that all configs name one architecture: equal tensors may compute different things.

    Raises:
        CheckpointError: Two of them differ.
    """
    first = models[0]
    for other in models[1:]:
        ours, theirs = _architecture(first), _architecture(other)
        if any(a != b for a, b in zip(ours, theirs, strict=True) if a and b):
            raise CheckpointError(
                f"'{first.ref}' is a {' '.join(filter(None, ours))} and '{other.ref}' a "
                f"{' '.join(filter(None, theirs))}; {_mend(first, other)}"
            )


def _mend(first: Model, other: Model) -> str:
    for outer, inner in ((first, other), (other, first)):
        text = base_config(outer.reader.config).get("model_type")
        if is_wrapper(outer.config) and text == inner.config.get("model_type"):
            return (
                f"take the text model out of '{outer.ref}' first (treadle export "
                f"{outer.ref.path} OUT --text-only), and merge that."
            )
    return (
        f"merge models of one architecture. If you know that both compute alike, write "
        f"'{ALLOW_ARCHITECTURES}: true' into a YAML recipe."
    )


def _architecture(model: Model) -> tuple[str, str]:
    """Return the model type and the class that a config names; empty where it names none."""
    config = whole_config(model.reader.config)
    classes = config.get("architectures") or [""]
    return str(config.get("model_type") or ""), str(classes[0])


def form_mend(model: Model, name: str) -> str:
    """Return what to do where a model has a tensor in another form: empty where it has none.

    Args:
        model: The one that has no tensor of the name.
        name: A tensor of another model, or the start of names.
    """
    start = own_name(name).partition(_EXPERTS)[0]
    alike = [own for own in model.names if own_name(own).startswith(start)]
    if not alike or (_EXPERTS in name and not any(_EXPERTS in own for own in alike)):
        return ""
    return (
        f"it stores the same under other names, such as '{alike[0]}': load and save both models "
        f"with transformers (from_pretrained, then save_pretrained(OUT, "
        f"save_original_format=False)), and merge those folders."
    )


def namesakes(members: Sequence[tuple[Model, str]]) -> list[TensorSource]:
    """Return one tensor of each model, under its name there.

    Raises:
        CheckpointError: A model lacks it, or has it in another shape.
    """
    found = [model.source(name) for model, name in members]
    sources = [source for source in found if source is not None]
    if len(sources) < len(found):
        (lacking, name) = members[found.index(None)]
        owner = next(m.ref for (m, _), s in zip(members, found, strict=True) if s is not None)
        mend = form_mend(lacking, name) or (
            "merge models of one architecture (treadle merge inspect shows where they differ)."
        )
        raise CheckpointError(
            f"'{lacking.ref}' has no tensor '{name}', which '{owner}' has; {mend}"
        )
    for (model, name), source in zip(members, sources, strict=True):
        if source.shape != sources[0].shape:
            raise CheckpointError(
                f"Tensor '{name}' has shape {list(source.shape)} in '{model.ref}', but "
                f"{list(sources[0].shape)} in '{members[0][0].ref}'; merge models of one size."
            )
    return sources
