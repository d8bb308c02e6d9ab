"""Shape annotations that work without torch.

``Float[Tensor, "out in"]`` is the real jaxtyping annotation for type checkers and wherever torch is
already loaded (so that the tests can check it with beartype); otherwise it is an inert placeholder,
so that help texts and recipe schemas derive from signatures without importing torch.
"""

import sys
from typing import TYPE_CHECKING, Any

__all__ = ["Bool", "Float", "Int", "Tensor"]

if TYPE_CHECKING or "torch" in sys.modules:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
else:

    class _Shape:
        """Accepts any subscript and stands for "no claim"."""

        def __class_getitem__(cls, item: Any) -> Any:  # Any: a placeholder carries no type
            return Any

    Bool = Float = Int = _Shape

    class Tensor:
        """Stands for torch.Tensor while torch is not loaded."""
