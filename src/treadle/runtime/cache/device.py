"""The pool's arrays on a CUDA device (experimental)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treadle.runtime.cache.pages import KeyValues, KvDtype

__all__ = ["DeviceKeyValues"]


class DeviceKeyValues(KeyValues):
    """Keys and values in tensors of a device; what is read comes to main memory."""

    def __init__(
        self,
        kv_heads: Sequence[int],
        head_dim: int,
        num_pages: int,
        page_size: int,
        dtype: KvDtype,
        device: str,
    ) -> None:
        self._device = device
        super().__init__(kv_heads, head_dim, num_pages, page_size, dtype)

    def _zeros(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:  # Any: a tensor
        import torch

        return torch.from_numpy(np.zeros(shape, dtype)).to(self._device)

    def _index(self, numbers: npt.ArrayLike) -> Any:  # Any: a tensor
        import torch

        return torch.as_tensor(np.asarray(numbers, np.int64), device=self._device)

    def _fetched(self, part: Any) -> Any:  # Any: a tensor, and an array
        return part.cpu().numpy()

    def _sent(self, part: Any) -> Any:  # Any: an array, and a tensor
        import torch

        return torch.from_numpy(part).to(self._device)
