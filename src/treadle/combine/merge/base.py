"""The protocol of merging: one abstract function, chunks of float32 in, a chunk out."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict

from treadle.combine.merge.site import Chunk, Floats, Site, Unit
from treadle.core.method import Method

__all__ = ["Chunk", "Floats", "MergeMethod", "PerModel", "Site", "Unit", "as_tuple"]


def as_tuple(value: Any) -> Any:  # Any: whatever a recipe holds, checked next
    """Return one value for all models as the tuple that it stands for."""
    return value if isinstance(value, list | tuple) else (value,)


PerModel = Annotated[tuple[float, ...], BeforeValidator(as_tuple)]
"""One value for all models, or one for each in their order (without the base)."""


class MergeMethod(Method, ABC):
    """How namesake tensors become one; an instance holds the settings for one tensor."""

    model_config = ConfigDict(allow_inf_nan=False)

    base: ClassVar[Literal["required", "first", "optional", "unused"]] = "unused"
    """Whether a base is needed; "first" takes the first model where none is named. A base that is
    also listed as a model is not among the `models` of a chunk, unless it is "unused"."""
    num_models: ClassVar[tuple[int, int | None]] = (1, None)
    """How many models, without the base, the method can merge: at least, at most."""
    unit: ClassVar[Unit] = "elements"
    needs: ClassVar[Literal["", "importance", "gram"]] = ""
    """What must be known of each model's own data, see `Knowledge`."""
    reads_matrices: ClassVar[bool] = False
    """Whether it must be known how matrices lie, see `Site.is_transposed`."""

    def measure(self, site: Site) -> Any:  # Any: private to the method
        """Read the tensor once or more and return what `merge` needs to know of all of it."""
        return None

    @abstractmethod
    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:  # Any: from `measure`
        """Return the merged run [elements]; runs come in order, `known` is from `measure`."""
