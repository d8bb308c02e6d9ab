"""One merge: jobs shared out among threads, each tensor read, merged and written run by run."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext

import numpy as np

from treadle.combine.merge.base import Floats, Site
from treadle.combine.merge.inputs.sources import Inputs
from treadle.combine.merge.inputs.sparsity import shared_zeros
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.plan import MergePlan
from treadle.combine.merge.recipe.grammar import MergeRecipe
from treadle.core.checkpoint import CheckpointWriter
from treadle.core.codec import DTYPES, Array
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.progress import Progress, steps
from treadle.native import elements

__all__ = ["merge_jobs", "merged_runs", "survey_jobs", "verify_jobs"]

_SYNC_BYTES = 256 << 20
_SYNC_SECONDS = 5.0
"""A killed merge repeats at most this much of either, or one tensor for each worker."""


def survey_jobs(plan: MergePlan, recipe: MergeRecipe, workers: int) -> MergePlan:
    """Let the method read all tensors first, where it asks for that; a resumed run does so again.

    Raises:
        SettingsError: Tensors have settings of their own, or layers are put together.
    """
    asking = next((job.method for job in plan.jobs if job.method.looks_ahead), None)
    if asking is None:
        return plan
    is_sliced = len(recipe.slices) > 1 or recipe.slices[0].sources[0].layers is not None
    if is_sliced or any(job.method != asking for job in plan.jobs):
        raise SettingsError(
            f"'{asking.name}' looks at whole models with these settings, but the recipe has slices "
            f"or settings for single tensors; list whole models and give one value of each setting."
        )

    def visit_all(visit: Callable[[Site], None]) -> None:
        num_bytes = sum(job.planned.num_bytes for job in plan.jobs)
        with steps(f"look ahead ({asking.name})", num_bytes) as bar:
            for job in _finished(lambda job: visit(job.inputs), plan.jobs, workers):
                bar.advance(job.planned.num_bytes)

    found = asking.survey(visit_all, len(plan.jobs[0].inputs.models))
    jobs = [job._replace(inputs=job.inputs._replace(surveyed=found)) for job in plan.jobs]
    return plan._replace(jobs=jobs)


def merge_jobs(plan: MergePlan, writer: CheckpointWriter, workers: int, bar: Progress) -> int:
    """Merge what is not in the writer yet, and return how many tensors were there already.

    What is finished is kept, also when the user interrupts the run.
    """
    already = writer.done
    todo = [job for job in plan.jobs if job.inputs.name not in already]
    written: set[str] = set()

    def run(job: TensorJob) -> None:
        _merge(job, writer)
        written.add(job.inputs.name)

    pending_bytes, synced_at = 0, time.monotonic()
    try:
        for job in _finished(run, todo, workers):
            pending_bytes += job.planned.num_bytes
            bar.advance(job.planned.num_bytes)
            if pending_bytes > _SYNC_BYTES or time.monotonic() - synced_at > _SYNC_SECONDS:
                _keep(written, writer)
                pending_bytes, synced_at = 0, time.monotonic()
    except KeyboardInterrupt:
        _keep(written, writer)
        raise
    _keep(written, writer)
    return len(plan.jobs) - len(todo)


def _keep(written: set[str], writer: CheckpointWriter) -> None:
    """Make durable what is written by now; threads may add to it meanwhile."""
    names = written.copy()
    writer.mark_done(names)
    written -= names


def verify_jobs(plan: MergePlan, writer: CheckpointWriter, workers: int, bar: Progress) -> None:
    """Merge everything once more and compare it with what was written.

    Raises:
        CheckpointError: A tensor differs: the disk, the memory or the processor is faulty.
    """
    for job in _finished(lambda job: _compare(job, writer), plan.jobs, workers):
        bar.advance(job.planned.num_bytes)


def _finished(
    run: Callable[[TensorJob], None], jobs: list[TensorJob], workers: int
) -> Iterator[TensorJob]:
    """Run jobs in threads, in order, and yield each when it is done.

    A few more than there are threads are under way: a mistake ends the run without reading all.
    """
    waiting = iter(jobs)
    pool = ThreadPoolExecutor(workers)
    try:
        running: dict[Future[None], TensorJob] = {}
        for job in itertools.islice(waiting, 2 * workers):
            running[pool.submit(run, job)] = job
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                future.result()
                yield job
                for following in itertools.islice(waiting, 1):
                    running[pool.submit(run, following)] = following
    finally:
        pool.shutdown(cancel_futures=True)


def merged_runs(job: TensorJob) -> Iterator[tuple[int, Array]]:
    """Yield the merged tensor run by run, in the dtype of the output."""
    with job.inputs.holding() if job.method.measures_only else nullcontext(job.inputs) as site:
        yield from _merged(job, site)


def _merged(job: TensorJob, site: Inputs) -> Iterator[tuple[int, Array]]:
    method = job.method
    known = method.measure(site)
    for chunk in site.chunks(method.unit):
        # Before the method, which may overwrite the run.
        zeros = shared_zeros(chunk, job.zero_shares) if job.keeps_zeros else None
        merged = method.merge(chunk, site, known)
        if job.scale != 1.0:
            merged = merged * np.float32(job.scale)
        if zeros is not None:
            merged = np.where(zeros, np.float32(0), merged)
        if not elements.are_finite(merged):
            raise CheckpointError(
                f"Tensor '{site.name}' overflows float32 when it is merged by '{method.name}'; "
                f"check the weights and scales of the recipe."
            )
        yield chunk.first, _encoded(merged, job.dtype)


def _encoded(merged: Floats, dtype: str) -> Array:
    """Round to bfloat16 here, which is faster; the writer casts to the other dtypes."""
    if dtype != "BF16":
        return merged
    bits = np.empty(merged.size, np.uint16)
    elements.encode_bf16(np.ascontiguousarray(merged), bits)
    return bits.view(DTYPES["BF16"])


def _merge(job: TensorJob, writer: CheckpointWriter) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # `_runs` refuses what overflows
        for first, values in merged_runs(job):
            writer.write_range(job.inputs.name, first, values)


def _compare(job: TensorJob, writer: CheckpointWriter) -> None:
    written = writer.read(job.inputs.name).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for first, values in merged_runs(job):
            expected = values.astype(written.dtype, copy=False).view(np.uint8)
            if not np.array_equal(written[first : first + values.size].view(np.uint8), expected):
                raise CheckpointError(
                    f"Tensor '{job.inputs.name}' of {writer.out} is not what merging it again "
                    f"gives (from element {first} on); check the machine's memory and disk, then "
                    f"merge again."
                )
    writer.release(job.inputs.name)
