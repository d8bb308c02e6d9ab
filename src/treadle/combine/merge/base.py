"""The protocol of merging: one abstract function, chunks of float32 in, a chunk out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict

from treadle.combine.merge.site import Chunk, Floats, Site, Unit
from treadle.core.method import Method

__all__ = ["Chunk", "Floats", "MergeMethod", "PerModel", "Site", "Unit", "VisitAll", "as_tuple"]


def as_tuple(value: Any) -> Any:  # Any: whatever a recipe holds, checked next
    """Return one value for all models as the tuple that it stands for."""
    return value if isinstance(value, list | tuple) else (value,)


PerModel = Annotated[tuple[float, ...], BeforeValidator(as_tuple)]
"""One value for all models, or one for each in their order (without the base)."""

VisitAll = Callable[[Callable[[Site], None]], None]
"""Shows a function every tensor of the merge once, from several threads and in any order."""


class MergeMethod(Method, ABC):
    """How namesake tensors become one; an instance holds the settings for one tensor."""

    model_config = ConfigDict(allow_inf_nan=False)

    base: ClassVar[Literal["required", "first", "optional", "unused"]] = "unused"
    """Whether a base is needed; "first" takes the first model where none is named. A base that is
    also listed as a model is not among the `models` of a chunk, unless it is "unused"."""
    num_models: ClassVar[tuple[int, int | None]] = (1, None)
    """How many models, without the base, the method can merge: at least, at most."""
    unit: ClassVar[Unit] = "elements"
    needs: ClassVar[Literal["", "importance", "gram", "merged_gram", "coefficients"]] = ""
    """What must be known of each model's own data, see `Knowledge`; a merged Gram matrix is of what
    reaches the model's block behind the merged blocks."""
    draws: ClassVar[bool] = False
    """Whether the seed has a say; then a base is required."""
    measures_only: ClassVar[bool] = False
    """Whether `measure` leaves runs as they are, so that they can stay in memory for `merge`."""
    reads_matrices: ClassVar[bool] = False
    """Whether it must be known how matrices lie, see `Site.is_transposed`."""

    @property
    def looks_ahead(self) -> bool:
        """Whether `survey` must read the whole model before the first tensor is merged."""
        return False

    def survey(self, visit_all: VisitAll, num_models: int) -> Any:  # Any: private to the method
        """Read all tensors as often as it takes; what is returned is `surveyed` of each site."""
        return None

    def measure(self, site: Site) -> Any:  # Any: private to the method
        """Read the tensor once or more and return what `merge` needs to know of all of it."""
        return None

    @abstractmethod
    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:  # Any: from `measure`
        """Return the merged run [elements]; runs come in order, `known` is from `measure`."""
