"""What a verb is: a typed function, found by name.

Its signature is the one definition behind all three doors.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from treadle.core.method import Method
from treadle.core.registry import Registry
from treadle.core.settings import Settings, Without, make_settings

__all__ = ["Verb", "VerbParameter", "annotated", "argument_help"]


class VerbParameter(NamedTuple):
    """One parameter of a verb, as the command line, the recipe and the docs see it."""

    name: str
    annotation: Any  # Any: a type, a union or an Annotated form
    default: Any  # Any: inspect.Parameter.empty where a value is required
    help: str
    axis: Registry[Any] | None  # Any: whatever protocol the axis has
    is_positional: bool
    owner: str = ""
    """The parameter of the function that this one is a field of, where it takes `Settings`."""

    @property
    def is_required(self) -> bool:
        """Whether the caller must give a value."""
        return self.default is inspect.Parameter.empty


def argument_help(function: Callable[..., Any]) -> dict[str, str]:  # Any: any signature
    """Return the `Args:` section of a Google docstring, name by name."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    entries: dict[str, str] = {}
    name = ""
    for line in section.group(1).splitlines() if section else ():
        if start := re.match(r" {4}(\w+): (.*)", line):
            name = start.group(1)
            entries[name] = start.group(2)
        elif line.strip():
            entries[name] += " " + line.strip()
    return entries


def annotated(field: FieldInfo) -> Any:  # Any: a type
    """Return a field's type together with its bounds and validators."""
    kind: Any = field.annotation  # Any: a type
    for entry in field.metadata:
        kind = Annotated[kind, entry]
    return kind


def _settings_in(annotation: Any) -> type[Settings] | None:  # Any: a type
    """Return the settings that a parameter takes, if it takes any."""
    members = get_args(annotation) or (annotation,)
    kinds = (one for one in members if isinstance(one, type) and issubclass(one, Settings))
    return next(kinds, None)


def _load(target: str) -> Any:  # Any: whatever stands at the target
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


class Verb(NamedTuple):
    """One line of the verb table."""

    name: str
    wing: str
    summary: str
    target: str
    """``module:function``"""
    table: str | None = None
    """``module:REGISTRY`` of the parameter `method`, where the verb has methods."""
    actions: tuple["Verb", ...] = ()
    """What the verb does beside its methods; their names are no method's."""

    def action(self, name: object) -> "Verb | None":
        """Return the action called `name`, if there is one; Python writes _ where words have -."""
        spelt = str(name).replace("_", "-")
        return next((one for one in self.actions if one.name.replace("_", "-") == spelt), None)

    def function(self) -> Callable[..., Any]:  # Any: each verb has its own signature
        """Import and return the verb's function."""
        loaded: Callable[..., Any] = _load(self.target)
        return loaded

    def methods(self) -> Registry[Any] | None:  # Any: each family has its own protocol
        """Import and return the table of the verb's methods, if it has any."""
        return None if self.table is None else _load(self.table)

    def parameters(self) -> dict[str, VerbParameter]:
        """Return the verb's parameters without `method`, in the order of its signature.

        Where the function takes `Settings`, their fields stand in its place.
        """
        return dict(_parameters(self.function()))

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:  # Any: values of any parameter
        """Return the arguments of the function from values by the names that users write.

        "update.damp_fraction" is a setting of the method that the axis `update` has; fields of
        `Settings` are gathered into one object, which is left out where none is given.

        Raises:
            SettingsError: The settings of an object are refused.
        """
        parameters = self.parameters()
        plain = {name: value for name, value in given.items() if "." not in name}
        for name, value in given.items():
            axis, dot, field = name.partition(".")
            if dot and axis in parameters:
                chosen = plain.get(axis, parameters[axis].default)
                plain[axis] = _with_settings(chosen, {field: value})
        bound: dict[str, Any] = {}  # Any: arguments
        owned: dict[str, dict[str, Any]] = {}  # Any: values of fields
        for name, value in plain.items():
            owner = parameters[name].owner if name in parameters else ""
            target = owned.setdefault(owner, {}) if owner else bound
            target[name] = value
        return bound | {owner: self._settings(owner, values) for owner, values in owned.items()}

    def _settings(self, owner: str, values: Mapping[str, Any]) -> Settings:  # Any: of fields
        parameter = inspect.signature(self.function()).parameters[owner]
        kind = _settings_in(_split(parameter.annotation)[0])
        assert kind is not None
        return make_settings(kind, values)


def _split(annotation: Any) -> tuple[Any, list[Any]]:  # Any: types and what stands beside them
    """Return a type, with what validates it, and what is said of it to a verb alone."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    kind, *extras = get_args(annotation)
    ours = [extra for extra in extras if isinstance(extra, Registry | Without | str)]
    for extra in extras:
        if extra not in ours:
            kind = Annotated[kind, extra]
    return kind, ours


@cache  # a sweep asks thousands of times
def _parameters(function: Callable[..., Any]) -> dict[str, VerbParameter]:  # Any: any signature
    helps = argument_help(function)
    found: dict[str, VerbParameter] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "method" or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        for entry in _entries(parameter, helps.get(name, "")):
            assert entry.name not in found, f"{function.__name__}: two parameters '{entry.name}'"
            found[entry.name] = entry
    return found


def _entries(parameter: inspect.Parameter, text: str) -> Iterator[VerbParameter]:
    annotation, extras = _split(parameter.annotation)
    kind = _settings_in(annotation)
    if kind is None:
        axis = next((extra for extra in extras if isinstance(extra, Registry)), None)
        is_positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        yield VerbParameter(
            parameter.name, annotation, parameter.default, text, axis, is_positional
        )
        return
    left_out = {name for extra in extras if isinstance(extra, Without) for name in extra.names}
    for name, field in kind.model_fields.items():
        if name not in left_out:
            has_own = isinstance(parameter.default, Settings)
            default = getattr(parameter.default, name) if has_own else field.default
            axis = next((one for one in field.metadata if isinstance(one, Registry)), None)
            text = field.description or ""
            kind_of = annotated(field)
            yield VerbParameter(name, kind_of, default, text, axis, False, parameter.name)


def _with_settings(
    chosen: Any, values: Mapping[str, Any]
) -> dict[str, Any]:  # Any: a method in any of its forms, and values of its settings
    """Return the method `chosen` with further settings, as a mapping.

    Where nobody chose one, the mapping names none: the verb knows which one it takes then.
    """
    if isinstance(chosen, Method):
        return {**chosen.settings(), **values}
    if isinstance(chosen, Mapping):
        return {**chosen, **values}
    return {"method": chosen, **values} if isinstance(chosen, str) else dict(values)
