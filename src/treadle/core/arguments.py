"""Arguments of verbs, checked where Python users hand them in: every door refuses the same.

The command line and recipes read what is written into types first; Python callers may pass
anything, and annotations alone refuse nothing.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from treadle.core.errors import CheckpointError, DataError, SettingsError, TreadleError
from treadle.core.method import first_mistake
from treadle.core.registry import Registry
from treadle.core.settings import Settings, Without, make_settings
from treadle.core.sizes import is_bytes, parse_bytes, require_size

__all__ = ["checked"]

P = ParamSpec("P")
R = TypeVar("R")
_SETTINGS = "method_settings"
"""Of a verb that takes settings of its method as keywords: ``**method_settings``."""
_LIKE = 0.75
_OF_PLACES = (SettingsError, CheckpointError, DataError)
"""What is raised of a place that is missing, or taken; kinds below them carry more than a text."""
_SPELT = {"shard": "(write '2/16' for the second share of sixteen)"}
"""Of parameters whose texts have a form of their own, what that is."""
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a verb refuse arguments of a wrong type, before it does anything.

    Numbers and texts are taken as such only (numpy's numbers too), paths also as texts; of choices
    one must be named. Fields of an object of settings may be given as keywords of the verb, and so
    may settings of its method where the verb takes ``**method_settings``; it then finds them in
    `method`. Methods of axes are left to their tables. Two places given in the wrong order are
    recognised.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def verb(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **_gathered(signature, kwargs))
        extra: dict[str, Any] = bound.arguments.pop(_SETTINGS, {})
        if extra:
            default = signature.parameters["method"].default
            chosen = bound.arguments.get("method", default)
            bound.arguments["method"] = _with_settings(chosen, extra)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _checked(name, signature.parameters[name], value)
        try:
            return function(*bound.args, **bound.kwargs)
        except SettingsError as error:
            raise _misspelt(error, extra, signature) or _swapped(error, bound) or error from error
        except TreadleError as error:
            raise _swapped(error, bound) or error from error
        except ValidationError as error:  # of an object that the verb makes of its arguments
            found = first_mistake(error)
            raise SettingsError(
                f"{found.setting} = {found.value!r} is refused: {found.expected}; change it."
            ) from error

    return verb


def _with_settings(method: Any, settings: Mapping[str, Any]) -> Any:  # Any: a method, its settings
    """Return the method in question with further settings."""
    if isinstance(method, str | NoneType):
        return {"method": method, **settings} if method else dict(settings)
    if isinstance(method, Mapping):
        return {**method, **settings}
    raise SettingsError(
        f"The method is given with its settings already, so {', '.join(settings)} has no effect; "
        f"give the method by its name, or leave it out."
    )


def _misspelt(
    error: SettingsError, extra: Mapping[str, Any], signature: inspect.Signature
) -> SettingsError | None:
    """Return what to say of a keyword that is nearly one of the verb's own parameters."""
    own = [name for name in signature.parameters if name not in (_SETTINGS, "method")]
    for name in extra:
        close = get_close_matches(name, own, n=1, cutoff=_LIKE)
        if close and f"has no setting '{name}'" in str(error):
            return SettingsError(f"Unknown keyword '{name}'. Did you mean '{close[0]}'?")
    return None


def _swapped(error: TreadleError, bound: inspect.BoundArguments) -> TreadleError | None:
    """Return an error that asks whether two places were given in the wrong order, if it seems so.

    The output then exists, what should be read does not, and the error is about one of them.
    """
    places = {
        name: bound.arguments[name]
        for name, parameter in bound.signature.parameters.items()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        and isinstance(bound.arguments.get(name), str | os.PathLike)
        and name != "method"
    }
    out = places.pop("out", None)
    kind = type(error)
    if out is None or not Path(out).exists() or kind not in _OF_PLACES:
        return None
    for name, place in places.items():
        is_told = any(str(one) in str(error) for one in (place, out))
        if is_told and _is_missing_path(str(place)):
            return kind(
                f"'{place}' does not exist and '{out}' does: {name} and out may have changed "
                f"places. If they have not: {error}"
            )
    return None


def _settings_of(annotation: Any) -> type[Settings] | None:  # Any: a type
    members = [annotation, *get_args(annotation)]
    members += [inner for one in members for inner in get_args(one)]
    kinds = (one for one in members if isinstance(one, type) and issubclass(one, Settings))
    return next(kinds, None)


def _gathered(
    signature: inspect.Signature, given: Mapping[str, Any]
) -> dict[str, Any]:  # Any: arguments
    """Return keywords with those that are fields of settings gathered into their object."""
    found = dict(given)
    for name, parameter in signature.parameters.items():
        kind = _settings_of(parameter.annotation)
        if kind is None:
            continue
        own = [key for key in given if key in kind.model_fields and key not in signature.parameters]
        if own and given.get(name) is not None:
            raise SettingsError(f"Found {name} and {own[0]}, which is a part of it; give one.")
        if own:
            found[name] = {key: found.pop(key) for key in own}
    return found


def _is_missing_path(place: str) -> bool:
    """Say whether a text can only be a path to something that is not there.

    It is no pattern, no list of sources, nothing with a scheme, and no hub id: the folder that a
    path lies in exists.
    """
    is_path = not any(sign in place for sign in ":*?[+")
    return is_path and not Path(place).exists() and Path(place).parent.exists()


def _checked(name: str, parameter: inspect.Parameter, value: Any) -> Any:  # Any: an argument
    annotation = parameter.annotation
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    if name == "method" or any(isinstance(extra, Registry) for extra in extras):
        return value
    if (kind := _settings_of(annotation)) is not None:
        return _settings(name, kind, extras, value)
    if is_bytes(annotation) and isinstance(value, str):
        return parse_bytes(value)
    kinds = _members(annotation)
    for one in kinds:
        is_right, plain = _fits(one, value)
        if is_right:
            if is_bytes(annotation) and plain is not None:
                require_size(name, plain)
            return plain
    takes_lists = any(get_origin(one) in (list, tuple) for one in kinds)
    if takes_lists and isinstance(value, str | os.PathLike):
        raise SettingsError(
            f"{name} = {str(value)!r} is one text, but a list was expected; write [{str(value)!r}]."
        )
    expected = " or ".join(dict.fromkeys(map(_word, kinds)))
    if name in _SPELT:
        expected += f" {_SPELT[name]}"
    raise SettingsError(f"{name} = {value!r} is refused: expected {expected}; change it.")


def _settings(
    name: str,
    kind: type[Settings],
    extras: tuple[Any, ...],
    value: Any,  # Any: what stands in annotations, an argument
) -> Settings | None:
    if isinstance(value, Mapping):
        value = make_settings(kind, value)
    if value is not None and not isinstance(value, kind):
        raise SettingsError(
            f"{name} = {value!r} is refused: expected {kind.__name__}(...), or a mapping of its "
            f"fields; change it."
        )
    fixed = {field for extra in extras if isinstance(extra, Without) for field in extra.names}
    for field in sorted(fixed & (value.model_fields_set if value is not None else set())):
        raise SettingsError(
            f"{name}.{field} has no effect here, where the verb decides it; leave it out, or give "
            f"'{field}' to the verb itself where it has it."
        )
    return value


def _members(annotation: Any) -> list[Any]:  # Any: types
    """Return the kinds of values that a type takes."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for one in get_args(annotation) for member in _members(one)]
    return [annotation]


def _fits(kind: Any, value: Any) -> tuple[bool, Any]:  # Any: a type, an argument
    """Return whether a value is of a kind, and the value in Python's own types."""
    if kind is bool:
        return isinstance(value, bool), value
    if kind is int:
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        return is_whole, int(value) if is_whole else value
    if kind is float:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        is_own = isinstance(value, int | float)
        return is_number, value if is_own or not is_number else float(value)
    if kind is Path:
        is_path = isinstance(value, str | os.PathLike)
        return is_path, Path(value) if is_path else value
    if get_origin(kind) is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(kind)), value
    if get_origin(kind) in (list, tuple):
        return _fits_each(kind, value)
    return (isinstance(value, kind) if isinstance(kind, type) else True), value


def _fits_each(kind: Any, values: Any) -> tuple[bool, Any]:  # Any: a type of lists, an argument
    if not isinstance(values, list | tuple):
        return False, values
    plain = []
    for value in values:
        fits = [_fits(one, value) for one in _members(get_args(kind)[0])]
        chosen = next((found for is_right, found in fits if is_right), fits)
        if chosen is fits:
            return False, values
        plain.append(chosen)
    return True, plain if get_origin(kind) is list else tuple(plain)


def _word(kind: Any) -> str:  # Any: a type
    if get_origin(kind) is Literal:
        return ", ".join(repr(one) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        inner = " or ".join(dict.fromkeys(map(_word, _members(get_args(kind)[0]))))
        return f"a list, each {inner}"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
