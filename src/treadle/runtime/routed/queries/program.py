"""What a scorer of queries is: a few arrays and numbers, and what they make of a text.

A scorer is a frozen dataclass. Its arrays name their axes, so that whatever is read is checked in
one place: ``models`` and ``dim`` (of the vectors) are known before, other names have to agree.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, NamedTuple, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CheckpointError

__all__ = ["Above", "Axes", "Floats", "RouteScorer", "made", "parts"]

Floats = npt.NDArray[np.float32]


class Axes(NamedTuple):
    """Stands beside the type of an array: ``Annotated[Floats, Axes("models", "dim")]``."""

    first: str
    second: str = ""
    """Empty where there is but one."""
    may_lack: bool = False
    """Whether numbers that are not known stand there as NaN."""

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return (self.first, self.second) if self.second else (self.first,)


class Above(NamedTuple):
    """Stands beside the type of a number: ``Annotated[int, Above(0)]``."""

    number: float
    """It has to be larger than this."""
    may_equal: bool = False
    """Whether this itself is large enough."""

    def refuses(self, value: float) -> bool:
        """Whether a number is too small, or none that is finite."""
        is_enough = value >= self.number if self.may_equal else value > self.number
        return not (is_enough and value < math.inf)

    def __str__(self) -> str:
        return f"from {self.number:g} on" if self.may_equal else f"above {self.number:g}"


class RouteScorer(ABC):
    """Scores every model for every text; the largest score answers."""

    kind: ClassVar[str]
    reads_vectors: ClassVar[bool] = True
    """Whether it needs vectors of the texts; otherwise nobody makes any."""

    @abstractmethod
    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the scores [texts, models], in float32.

        Args:
            texts: The queries.
            vectors: Theirs [texts, dim], of length 1 (or 0); [texts, 0] where it reads none.
        """

    def decide(
        self, texts: Sequence[str], vectors: Floats, confidence: npt.NDArray[np.float64] | None
    ) -> Floats:
        """Return scores whose largest is of the model that answers, where answers are known.

        Args:
            texts: The queries.
            vectors: Theirs, as for `scores`.
            confidence: How sure each model was of its answer [texts, models]; None where nobody
                knows.

        Raises:
            DataError: It cannot be said without confidences.
        """
        return self.scores(texts, vectors)


def parts(scorer: RouteScorer) -> tuple[dict[str, Any], dict[str, Floats]]:  # Any: JSON values
    """Return a scorer's plain settings, with its kind, and its arrays by name."""
    plain: dict[str, Any] = {"kind": scorer.kind}  # Any: JSON values
    arrays = {}
    for name, (_, axes) in _fields(type(scorer)).items():
        value = getattr(scorer, name)
        if not isinstance(axes, Axes):
            plain[name] = value
        else:
            arrays[name] = np.ascontiguousarray(value, np.float32)
    return plain, arrays


def made(
    cls: type[RouteScorer],
    plain: Mapping[str, Any],  # Any: JSON values
    arrays: Mapping[str, Floats],
    sizes: Mapping[str, int],
    where: str,
) -> RouteScorer:
    """Return the scorer that `parts` took apart.

    Args:
        cls: Its class.
        plain: Its settings.
        arrays: Its arrays.
        sizes: Of the axes that are known.
        where: The file, for messages.

    Raises:
        CheckpointError: A part is missing, of a wrong shape or type, or not finite.
    """
    known, values = dict(sizes), dict[str, Any]()  # Any: arguments
    settings = {key: value for key, value in plain.items() if key != "kind"}
    for name, (kind, form) in _fields(cls).items():
        if isinstance(form, Axes):
            values[name] = _checked(name, form, arrays.get(name), known, where)
        elif name in settings and _is_of(kind, settings[name]):
            values[name] = settings.pop(name)
            if form is not None and form.refuses(values[name]):
                raise CheckpointError(
                    f"{where} says {values[name]!r} of '{name}' of its scorer '{cls.kind}', and a "
                    f"number {form} was expected; copy the router again."
                )
        else:
            raise CheckpointError(
                f"{where} says {settings.get(name)!r} of '{name}' of its scorer '{cls.kind}', and "
                f"a value of type {kind.__name__} was expected; copy the router again."
            )
    if settings:
        raise CheckpointError(
            f"{where} says of its scorer '{cls.kind}' what nobody knows ({', '.join(settings)}); "
            f"use the treadle that made it, or copy the router again."
        )
    return cls(**values)


def _checked(
    name: str, axes: Axes, found: Floats | None, known: dict[str, int], where: str
) -> Floats:
    """Return an array of the file whose axes agree with all that came before it."""
    if found is None or found.dtype != np.float32 or found.ndim != len(axes.names):
        form = "none" if found is None else f"{found.dtype} {list(found.shape)}"
        raise CheckpointError(
            f"{where} was expected to hold '{name}' in float32 [{', '.join(axes.names)}], and "
            f"holds {form}; copy the router again."
        )
    for axis, size in zip(axes.names, found.shape, strict=True):
        if known.setdefault(axis, size) != size:
            raise CheckpointError(
                f"{where}: '{name}' has {size} {axis}, and {known[axis]} were expected; the router "
                f"is of other models or features, so copy it again."
            )
    if not axes.may_lack and not np.isfinite(found).all():
        raise CheckpointError(
            f"{where}: '{name}' holds numbers that are not finite; copy the router again."
        )
    return found


@cache
def _fields(cls: type[RouteScorer]) -> dict[str, tuple[type, Axes | Above | None]]:
    """Return the fields of a scorer's dataclass: types, axes of arrays, and bounds of numbers."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for one in fields(cls):  # type: ignore[arg-type]  # every scorer is a dataclass
        kind = hints[one.name]
        told = getattr(kind, "__metadata__", ())
        form = next((entry for entry in told if isinstance(entry, Axes | Above)), None)
        found[one.name] = (get_args(kind)[0] if isinstance(form, Above) else kind, form)
    return found


def _is_of(kind: type, value: Any) -> bool:  # Any: a JSON value
    """Whether a JSON value is of a field's type: int, float or str."""
    wanted = (int, float) if kind is float else kind
    return isinstance(value, wanted) and not isinstance(value, bool)
