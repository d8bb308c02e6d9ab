"""A merge that is asked without being written: its tensors are made when a model reads them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from treadle.combine.merge.carried import Carried
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.plan import MergePlan
from treadle.combine.merge.run import merged_runs
from treadle.core.checkpoint import TensorInfo
from treadle.core.codec import DTYPES, Array
from treadle.model.coded import Coded, DecodedReader, Obstacle

__all__ = ["candidate"]


def candidate(plan: MergePlan) -> DecodedReader:
    """Return a planned merge as a model: what it computes is what the written one would.

    A tensor is merged whenever it is read, and only the last one is kept. The folder is that of
    the model whose tokenizer the merge takes.
    """
    stored: dict[str, _Merged | _Taken] = {job.inputs.name: _Merged(job) for job in plan.jobs}
    stored |= {one.name: _Taken(one) for one in plan.carried}
    return DecodedReader(plan.parent.reader.folder, plan.config, stored, lambda: None)


class _Merged(NamedTuple):
    """A tensor in the making."""

    job: TensorJob

    @property
    def info(self) -> TensorInfo:
        """Its shape and dtype; it lies nowhere."""
        name, dtype, shape = self.job.planned
        num_bytes = self.job.inputs.num_elements * DTYPES[dtype].itemsize
        return TensorInfo(name, dtype, shape, Path(), 0, num_bytes)

    def floats(self) -> Array:
        """Merge it, and round as the writer would."""
        target = np.empty(self.job.inputs.num_elements, DTYPES[self.job.dtype])
        with np.errstate(over="ignore", invalid="ignore"):
            for first, values in merged_runs(self.job):
                target[first : first + values.size] = values
        return target.reshape(self.job.inputs.shape)

    def coded(self) -> Coded | Obstacle | None:
        """There are no codes."""
        return None

    def release(self) -> None:
        """There is nothing to let go of."""


class _Taken(NamedTuple):
    """A tensor that is one model's."""

    one: Carried

    @property
    def info(self) -> TensorInfo:
        """Where it lies."""
        return self.one.info._replace(name=self.one.name)

    def floats(self) -> Array:
        """Return it as it is."""
        return self.one.model.reader.array(self.one.info.name)

    def coded(self) -> Coded | Obstacle | None:
        """There are no codes."""
        return None

    def release(self) -> None:
        """Let its bytes leave memory."""
        self.one.model.reader.release(self.one.info.name)
