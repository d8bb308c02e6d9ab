"""What a recipe says and what has no effect, or more than its writer may think."""

from collections import Counter
from collections.abc import Iterable, Iterator

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.recipe.grammar import MergeRecipe, conditions
from treadle.combine.merge.recipe.settings import scopes_of

__all__ = ["idle_filters", "missing_weights", "repeated_models", "zeros"]


def repeated_models(recipe: MergeRecipe) -> Iterator[str]:
    """Yield a note for each model that a slice lists more than once."""
    for output_slice in recipe.slices:
        counts = Counter((source.model, source.layers) for source in output_slice.sources)
        for (model, _), count in counts.items():
            if count > 1:
                yield f"'{model}' is listed {count} times, so it counts {count} times."


def missing_weights(method: type[MergeMethod], recipe: MergeRecipe) -> Iterator[str]:
    """Yield a note if the method weighs models, and the recipe gives no weight at all."""
    if "weight" in method.model_fields and not any("weight" in s for _, s in scopes_of(recipe)):
        yield "weight was not given: 1.0 for all models."


def idle_filters(recipe: MergeRecipe, tensors: Iterable[str]) -> Iterator[str]:
    """Yield a note for each filter that none of the tensors' names contains."""
    names = set(tensors)
    for place, scope in scopes_of(recipe):
        for parameter, setting in scope.items():
            parts = [condition.get("filter") for condition in conditions(setting)]
            for part in filter(None, parts):
                if part != "*" and not any(part in name for name in names):
                    yield f"The filter '{part}' of '{parameter}' ({place}) matches no tensor."


def zeros(methods: Iterable[MergeMethod]) -> Iterator[str]:
    """Yield a note if nothing of any model takes part in any tensor."""
    chosen = list(methods)
    for setting in ("weight", "density"):
        values = [getattr(method, setting, None) for method in chosen]
        if values and all(isinstance(found, tuple) and not any(found) for found in values):
            yield f"{setting} is 0 for all models, so nothing of them is in the output."
