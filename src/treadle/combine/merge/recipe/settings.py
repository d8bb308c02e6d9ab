"""Settings of one tensor: scopes, filters and gradients of a recipe become a method's arguments."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.recipe.grammar import (
    INERT,
    MergeRecipe,
    ModelRef,
    OutputSlice,
    Settings,
    SourceSlice,
    conditions,
)
from treadle.combine.merge.tables import METHODS
from treadle.core.errors import SettingsError
from treadle.core.method import first_mistake
from treadle.core.registry import near

__all__ = ["base_of", "made", "models_of", "require_known", "resolve", "scopes_of"]

_OF_MERGEKIT = frozenset({"embed_slerp", "window_size"})
"""Parameters of methods of mergekit that no method here has; see also `INERT`."""
_ABSENT = object()
"""No scope has a value; None is a value that a method may know."""


def base_of(
    method: type[MergeMethod], recipe: MergeRecipe, output_slice: OutputSlice
) -> ModelRef | None:
    """Return the base that a method sees: the slice's, the recipe's, or else the first model."""
    if method.base == "unused":
        return None
    base = output_slice.base or recipe.base
    if base is None and method.base == "first":
        return output_slice.sources[0].model
    return base


def models_of(
    method: type[MergeMethod], recipe: MergeRecipe, output_slice: OutputSlice
) -> tuple[SourceSlice, ...]:
    """Return the sources of a slice that are a method's models: all but its base."""
    base = base_of(method, recipe, output_slice)
    return tuple(source for source in output_slice.sources if source.model != base)


def require_known(method: type[MergeMethod], recipe: MergeRecipe) -> list[str]:
    """Check the names of all parameters and return notes on those that stand where none reads them.

    Raises:
        SettingsError: The method has no parameter of a name; the message suggests the near one.
    """
    fields = _fields(method)
    strange: dict[str, str] = {}
    for place, scope in scopes_of(recipe):
        for name in scope:
            if name not in fields and name not in INERT:
                strange.setdefault(name, place)
    elsewhere = _known_elsewhere() if strange else frozenset()
    for name, place in strange.items():
        if name not in elsewhere:
            choice = near(name, list(fields)) if fields else "It has none; remove it."
            raise SettingsError(
                f"The parameters of {place} name '{name}', which the merge method "
                f"'{method.name}' does not have. {choice}"
            )
    return [
        *(f"'{name}' has no effect in '{method.name}'." for name in strange),
        *_unread(method, recipe),
    ]


@cache
def _known_elsewhere() -> frozenset[str]:
    """Return the parameters of all methods; cards copy them from one method to the next."""
    return _OF_MERGEKIT.union(*(METHODS[name].fields() for name in METHODS.table))


def resolve(
    method: type[MergeMethod],
    recipe: MergeRecipe,
    output_slice: OutputSlice,
    tensor: str,
    inputs: Sequence[str],
    t: float,
) -> dict[str, Any]:  # Any: values of the method's fields
    """Return a method's keyword arguments for one tensor; absent ones keep their defaults.

    Args:
        method: The method's class.
        recipe: Where the settings are, checked by `require_known`.
        output_slice: The slice that the tensor belongs to.
        tensor: The tensor's name in the output; filters of shared parameters look at it.
        inputs: Its name in each of the models (see `models_of`); filters of their own
            parameters look at those.
        t: Where gradients are read, 0..1 from the slice's first layer to its last.

    Raises:
        SettingsError: A value is missing or of the wrong type.
    """
    scopes = [("", output_slice.parameters), ("", recipe.parameters)]
    sources = models_of(method, recipe, output_slice)
    arguments: dict[str, Any] = {}  # Any: as returned
    for name, (key, field) in _fields(method).items():
        if not _is_per_model(field):
            value = _find(method, name, scopes, tensor, t)
            if value is not _ABSENT:
                arguments[key] = value
            elif field.is_required():
                raise _missing(method, name, tensor)
            continue
        found = [
            _find(method, name, [(_of(source), source.parameters), *scopes], input_name, t)
            for source, input_name in zip(sources, inputs, strict=True)
        ]
        values = _with_default(field, found)
        if values is not None:
            for source, value in zip(sources, values, strict=True):
                if value is _ABSENT:
                    raise _missing(method, name, tensor, source.model)
            arguments[key] = tuple(values)
    return arguments


def made(
    method: type[MergeMethod],
    arguments: Mapping[str, Any],  # Any: from `resolve`
    models: Sequence[ModelRef],
    tensor: str,
) -> MergeMethod:
    """Return a method with the settings of one tensor.

    Raises:
        SettingsError: A value is out of bounds, or contradicts another.
    """
    try:
        return method(**arguments)
    except ValidationError as error:
        found = first_mistake(error)
        is_own = found.place is not None and found.place < len(models)
        owner = f" of model '{models[found.place or 0]}'" if is_own else ""
        given = f"{found.setting}{owner} = {found.value!r} is refused: " if found.setting else ""
        raise SettingsError(
            f"Merge method '{method.name}', tensor '{tensor}': {given}{found.expected}. Change it "
            f"in the recipe."
        ) from error


def _of(source: SourceSlice) -> str:
    return f" of model '{source.model}'"


def _with_default(field: FieldInfo, found: list[Any]) -> list[Any] | None:  # Any: field values
    """Fill what no scope gave; None leaves the whole field to its default."""
    if _ABSENT not in found or field.is_required():
        return found
    default = field.get_default(call_default_factory=True)
    if not isinstance(default, tuple) or len(default) not in (1, len(found)):
        return None if all(value is _ABSENT for value in found) else found
    filling = default * len(found) if len(default) == 1 else default
    return [own if value is _ABSENT else value for value, own in zip(found, filling, strict=True)]


def _find(
    method: type[MergeMethod],
    name: str,
    scopes: Sequence[tuple[str, Settings]],
    tensor: str,
    t: float,
) -> Any:  # Any: a field's value, or _ABSENT
    """Return the first scope's value that a condition grants to `tensor`."""
    for owner, scope in scopes:
        for condition in conditions(scope[name]) if name in scope else ():
            part = condition.get("filter")
            if part is None or part == "*" or part in tensor:
                try:
                    return _evaluate(method, name, condition["value"], t)
                except ValidationError as error:
                    raise SettingsError(
                        f"Merge method '{method.name}', tensor '{tensor}': {name}{owner} = "
                        f"{condition['value']!r} is refused: {_said(error)}. Change it in the "
                        f"recipe."
                    ) from error
    return _ABSENT


def _evaluate(
    method: type[MergeMethod],
    name: str,
    setting: Any,  # Any: a scalar or a gradient
    t: float,
) -> Any:  # Any: a field's value
    """Return a scalar, or a gradient's value at `t`: between numbers, or the nearest lower word."""
    validate = _scalar(method, name).validate_python
    if not isinstance(setting, list):
        return validate(setting)
    values = [validate(value) for value in setting]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return values[int(t * (len(values) - 1))]
    position = t * (len(values) - 1)
    lower = int(position)
    upper = min(len(values) - 1, lower + 1)
    share = position - lower
    return validate((1 - share) * values[lower] + share * values[upper])


def _said(error: ValidationError) -> str:
    found = first_mistake(error)
    return f"{found.expected}, found {found.value!r}"


def _missing(
    method: type[MergeMethod], name: str, tensor: str, model: ModelRef | None = None
) -> SettingsError:
    owner = "" if model is None else f" of model '{model}'"
    return SettingsError(
        f"Merge method '{method.name}' needs the parameter '{name}'{owner} for tensor '{tensor}', "
        f"but no scope of the recipe grants one; set it under 'parameters', or add a condition "
        f"without a filter."
    )


def _fields(method: type[MergeMethod]) -> Mapping[str, tuple[str, FieldInfo]]:
    """Return a recipe's name of each parameter -> the field's name, and the field."""
    return {field.alias or key: (key, field) for key, field in method.model_fields.items()}


def _is_per_model(field: FieldInfo) -> bool:
    return _tuple(field.annotation) is not None


def _tuple(annotation: Any) -> Any:  # Any: a type, bare or with arguments
    """Return the tuple type in an annotation, also one that may be None."""
    if get_origin(annotation) is tuple:
        return annotation
    if get_origin(annotation) is Annotated:
        return _tuple(get_args(annotation)[0])
    arms = get_args(annotation) if type(None) in get_args(annotation) else ()
    return next((found for arm in arms if (found := _tuple(arm)) is not None), None)


@cache
def _scalar(method: type[MergeMethod], name: str) -> TypeAdapter[Any]:  # Any: of one value
    """Return the check of one value: a model's share of a field, or all of it."""
    _, field = _fields(method)[name]
    annotation: Any = field.annotation  # Any: a type
    per_model = _tuple(annotation)
    one = get_args(per_model)[0] if per_model is not None else annotation
    if per_model is None and field.metadata:
        one = Annotated[annotation, *field.metadata]
    return TypeAdapter(one, config=ConfigDict(allow_inf_nan=False))


def scopes_of(recipe: MergeRecipe) -> Iterator[tuple[str, Settings]]:
    """Yield all settings with what they belong to."""
    yield "the recipe", recipe.parameters
    for index, output_slice in enumerate(recipe.slices):
        yield f"slice {index}", output_slice.parameters
        for source in output_slice.sources:
            yield f"model '{source.model}'", source.parameters


def _unread(method: type[MergeMethod], recipe: MergeRecipe) -> Iterator[str]:
    fields = _fields(method)
    for output_slice in recipe.slices:
        models = models_of(method, recipe, output_slice)
        for source in output_slice.sources:
            is_base = source not in models
            for name in sorted(source.parameters.keys() & fields.keys()):
                if is_base:
                    yield f"'{name}' of the base '{source.model}' has no effect: it is no model."
                elif not _is_per_model(fields[name][1]):
                    yield (
                        f"'{name}' of model '{source.model}' has no effect: all models share it. "
                        f"Set it for the slice or the recipe."
                    )
