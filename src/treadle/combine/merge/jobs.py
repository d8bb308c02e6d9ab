"""One tensor of a merge: what it is made of, and by which method."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.inputs.sources import Inputs
from treadle.combine.merge.inputs.sparsity import SPARSE, zero_shares
from treadle.core.checkpoint import PlannedTensor
from treadle.core.seed import stream_seed

__all__ = ["TensorJob", "counted", "stream_keys"]


class TensorJob(NamedTuple):
    """One tensor of the output."""

    inputs: Inputs
    dtype: str
    method: MergeMethod
    scale: float = 1.0
    """Factor of the merged tensor."""
    zero_shares: tuple[float, ...] = ()
    """Which share of each model and of the base is zero, about; nothing where all are dense."""
    keeps_zeros: bool = False
    """Whether zeros stay that all sparse inputs share."""
    other_keys: tuple[int, ...] = ()
    """For methods that draw: the keys of the inputs' random streams with the next seed."""

    @property
    def planned(self) -> PlannedTensor:
        """The tensor as the writer knows it."""
        return PlannedTensor(self.inputs.name, self.dtype, self.inputs.shape)


def counted(job: TensorJob, keeps_zeros: bool) -> TensorJob:
    """Return a job that knows its inputs' zeros, where one of them is sparse."""
    shares = zero_shares(job.inputs)
    is_sparse = max(shares) >= SPARSE
    return job._replace(zero_shares=shares, keeps_zeros=keeps_zeros) if is_sparse else job


def stream_keys(contents: Sequence[str], seed: int, tensor: str) -> tuple[int, ...]:
    """Return the key of each model's random streams: by its content, whatever the order."""
    seen: Counter[str] = Counter()
    keys = []
    for content in contents:
        keys.append(stream_seed(seed, f"{content}:{seen[content]}:{tensor}"))
        seen[content] += 1
    return tuple(keys)
