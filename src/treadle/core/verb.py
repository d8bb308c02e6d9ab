"""What a verb is: a typed function, found by name.

Its signature is the one definition behind all three doors.
"""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from treadle.core.registry import Registry

__all__ = ["Verb", "VerbParameter", "argument_help"]


class VerbParameter(NamedTuple):
    """One parameter of a verb, as the command line, the recipe and the docs see it."""

    name: str
    annotation: Any  # Any: a type, a union or an Annotated form
    default: Any  # Any: inspect.Parameter.empty where a value is required
    help: str
    axis: Registry[Any] | None  # Any: whatever protocol the axis has
    is_positional: bool

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
        """Return the action called `name`, if there is one."""
        return next((action for action in self.actions if action.name == name), None)

    def function(self) -> Callable[..., Any]:  # Any: each verb has its own signature
        """Import and return the verb's function."""
        loaded: Callable[..., Any] = _load(self.target)
        return loaded

    def methods(self) -> Registry[Any] | None:  # Any: each family has its own protocol
        """Import and return the table of the verb's methods, if it has any."""
        return None if self.table is None else _load(self.table)

    def parameters(self) -> dict[str, VerbParameter]:
        """Return the verb's parameters without `method`, in the order of its signature."""
        function = self.function()
        helps = argument_help(function)
        found: dict[str, VerbParameter] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if name == "method":
                continue
            annotation, axis = parameter.annotation, None
            if get_origin(annotation) is Annotated:
                annotation, *extras = get_args(annotation)
                axis = next((extra for extra in extras if isinstance(extra, Registry)), None)
            found[name] = VerbParameter(
                name,
                annotation,
                parameter.default,
                helps.get(name, ""),
                axis,
                parameter.kind is not inspect.Parameter.KEYWORD_ONLY,
            )
        return found
