"""Checks shape annotations with beartype, in the tests only: what jaxtyping's import hook calls.

Plain types are mypy's business. Its annotations may also be strings that name what only type
checkers import, which nothing can resolve while the program runs. A function that names no shape is
left as it is: jaxtyping would bind the arguments of each of its calls, and write and compile two
functions for every closure, which took a quarter of the tests' processor time.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import is_dataclass
from typing import Any, ForwardRef, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, _decorator, _storage

__all__ = ["check"]

_jaxtyped = jaxtyping.jaxtyped


class _PerGreenlet:
    """What jaxtyping remembers of running calls, kept by greenlet instead of by thread.

    Calls in different greenlets of one thread (`treadle.model.in_step`) interleave.
    """

    _stack: ContextVar[list[Any]] = ContextVar("memo_stack")

    @property
    def memo_stack(self) -> list[Any]:
        try:
            return self._stack.get()
        except LookupError as error:
            raise AttributeError from error

    @memo_stack.setter
    def memo_stack(self, value: list[Any]) -> None:
        self._stack.set(value)


def _jaxtyped_where_shaped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Stand in for `jaxtyping.jaxtyped`, which the hook puts above every function and class."""

    def decorate(found: Any) -> Any:
        if isinstance(found, type) and not is_dataclass(found):
            return found
        function = found.__init__ if isinstance(found, type) else found
        annotations = getattr(function, "__annotations__", {}).values()
        if not any(_has_shape(_resolved(one, function)) for one in annotations):
            return found
        return _jaxtyped(found, typechecker=typechecker)

    return decorate


_storage._shape_storage = _PerGreenlet()
jaxtyping.jaxtyped = _jaxtyped_where_shaped


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return jaxtyping's stand-in for a function with its shapes checked, and nothing else."""
    function.__annotations__ = {
        name: found for name, found in function.__annotations__.items() if _has_shape(found)
    }
    return beartype(function)


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return what jaxtyping makes of an annotation: of a string, what it names."""
    if not _is_written(annotation):
        return annotation
    return _decorator._destring_annotation(annotation, function.__globals__)


def _is_written(annotation: Any) -> bool:
    is_text = isinstance(annotation, str | ForwardRef)
    return is_text or any(map(_is_written, get_args(annotation)))


def _has_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    parts = get_args(annotation)
    return any(map(_has_shape, parts)) and not any(isinstance(part, str) for part in parts)
