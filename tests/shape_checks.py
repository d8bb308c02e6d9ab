"""Checks shape annotations with beartype, in the tests only: what jaxtyping's import hook calls.

Plain types are mypy's business. Its annotations may also be strings that name what only type
checkers import, which nothing can resolve while the program runs.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, _storage

__all__ = ["check"]


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


_storage._shape_storage = _PerGreenlet()


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return jaxtyping's stand-in for a function with its shapes checked, and nothing else."""
    function.__annotations__ = {
        name: found for name, found in function.__annotations__.items() if _has_shape(found)
    }
    return beartype(function)


def _has_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    parts = get_args(annotation)
    return any(map(_has_shape, parts)) and not any(isinstance(part, str) for part in parts)
