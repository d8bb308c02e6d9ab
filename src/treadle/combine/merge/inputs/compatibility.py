"""Whether the models of a merge fit together: of one architecture, with the same tensors."""

from collections.abc import Sequence

from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.sources import TensorSource
from treadle.combine.merge.recipe.extras import ALLOW_ARCHITECTURES
from treadle.core.errors import CheckpointError

__all__ = ["namesakes", "require_one_architecture"]


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
                f"{' '.join(filter(None, theirs))}; merge models of one architecture. If you know "
                f"that both compute alike, write '{ALLOW_ARCHITECTURES}: true' into a YAML recipe."
            )


def _architecture(model: Model) -> tuple[str, str]:
    """Return the model type and the class that a config names; empty where it names none."""
    from treadle.model.facts import whole_config

    config = whole_config(model.reader.config)
    classes = config.get("architectures") or [""]
    return str(config.get("model_type") or ""), str(classes[0])


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
        raise CheckpointError(
            f"'{lacking.ref}' has no tensor '{name}', which '{owner}' has; merge models of one "
            f"architecture (treadle merge inspect shows where they differ)."
        )
    for (model, name), source in zip(members, sources, strict=True):
        if source.shape != sources[0].shape:
            raise CheckpointError(
                f"Tensor '{name}' has shape {list(source.shape)} in '{model.ref}', but "
                f"{list(sources[0].shape)} in '{members[0][0].ref}'; merge models of one size."
            )
    return sources
