"""Ridge: a linear score for each model, in closed form."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from treadle.combine.route.base import Learned, RouteData, RouteMethod
from treadle.combine.route.maths.regression import ridge
from treadle.core.method import Standard
from treadle.runtime.routed.queries.scorers import LinearScores

__all__ = ["Ridge"]


class Ridge(RouteMethod):
    """Regress what each model is worth on the query's vector.

    Minimises |W v + b - y|^2 + strength |W|^2 for each model over the questions that it was asked.
    """

    name: ClassVar[str] = "ridge"
    paper = Standard("Hoerl and Kennard, Ridge Regression, Technometrics 1970.")

    strength: Annotated[float, Field(gt=0)] | None = None
    """Of the ridge (default: the least error on questions that are left out one by one)."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router."""
        weight, bias, strength = ridge(data.vectors, data.worth, self.strength)
        yield Learned(LinearScores(weight, bias), note=f"The ridge's strength is {strength:.3g}.")
