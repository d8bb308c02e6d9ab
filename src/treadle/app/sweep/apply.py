"""`treadle sweep`: cells that are missing run, each in a process of its own; then the table."""

import fcntl
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from treadle.app.sweep.board import Board
from treadle.app.sweep.checks import ScoreWatch, require_inputs
from treadle.app.sweep.contents import Contents
from treadle.app.sweep.document import Document, load_document
from treadle.app.sweep.jobs import Cell, CellJob, Jobs, make_jobs, take_over
from treadle.app.sweep.pool import CellPool, Ended, stopped_by_signals
from treadle.app.sweep.rows import MeasuredCell
from treadle.app.sweep.scores import Chain
from treadle.app.sweep.table import summarise
from treadle.app.sweep.writing import forget_tables, tables_in, tell, write_tables
from treadle.core.disk import FULL, told
from treadle.core.errors import DataError, SettingsError, TreadleError
from treadle.core.progress import steps
from treadle.core.result import RESULT_FILE, read_result
from treadle.core.run import Recording, recorded

__all__ = ["sweep"]

_LOCK = ".lock"
_MOST_NAMED = 5
_PATIENCE_SECONDS = 1.0


class _Sweep(NamedTuple):
    """A sweep with this call's share of it."""

    document: Document
    contents: Contents
    jobs: Jobs
    cells: list[Cell]
    """Those of this shard."""

    @property
    def prepared(self) -> list[CellJob]:
        """What prepares the cells of this shard."""
        used = {cell.prepared.folder for cell in self.cells if cell.prepared is not None}
        return [job for job in self.jobs.prepared if job.folder in used]

    def title(self, job: CellJob) -> str:
        """Return a job's number, if it is a cell, and its label."""
        cells = self.jobs.cells
        number = next((cell.number for cell in cells if cell.job.folder == job.folder), 0)
        return f"{number}/{len(cells)} {job.label}" if number else job.label

    @property
    def is_whole(self) -> bool:
        """Whether every cell, and all that prepares them, is done or has failed."""
        everything = [*self.jobs.prepared, *(cell.job for cell in self.jobs.cells)]
        return all(job.is_done or job.error for job in everything)


def sweep(
    sweep_file: Path,
    out: Path | None = None,
    *,
    jobs: int = 1,
    threads: int = 1,
    shard: str | None = None,
    join: list[Path] | None = None,
    dry_run: bool = False,
    fresh: bool = False,
) -> Iterator[str]:
    """Run a recipe's steps over methods, settings, models and seeds, and pair them in one table.

    Every cell runs in a process of its own. A cell whose results are there (same settings, same
    content of its inputs) is skipped, so the same command goes on where an interrupted one stopped,
    and tries again what failed. At the end OUT holds table.csv, table.md, table.json, costs.csv,
    result.json and report.html; meanwhile progress.html shows what runs. See docs/sweep.md.

    Args:
        sweep_file: YAML file.
        out: Folder for everything (default: the sweep's own `out`).
        jobs: Cells that run at a time.
        threads: Threads of each cell. Some methods sum in another order with other numbers of them,
            so tables are the same for any `jobs` and on any machine, but not for any `threads`.
        shard: Run only the cells i, i + n, ... of n shards, written i/n, for machines that share
            the work.
        join: Take the results over from these folders of other shards, run nothing, and draw the
            table.
        dry_run: Check everything, print the cells and do nothing.
        fresh: Run every cell, whatever results exist.

    Returns:
        What was done, a line for each cell.

    Raises:
        SettingsError: Something in the file does not exist or is refused, or another process works
            in OUT.
        DataError: Cells to be joined are missing.
        CapacityError: The disk is full; what was made stays.
        TreadleError: Cells failed; all others have been run.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value < 1:
            raise SettingsError(f"{name} = {value}, but at least 1 was expected; change it.")
    document, contents = load_document(Path(sweep_file), out), Contents()
    require_inputs(document)
    found = make_jobs(document, contents)
    this = _Sweep(document, contents, found, _share(found.cells, shard))
    if join and (shard or fresh or jobs > 1):
        raise SettingsError("join runs nothing: jobs, shard and fresh have no effect; leave out.")
    if dry_run:
        yield from _plan(this, fresh)
        return
    with (
        told(document.out),
        _alone(document.out),
        stopped_by_signals(),
        _recorded(this) as run,
    ):
        if join:
            yield from _joined(this, run, join)
        else:
            yield from _run(this, run, CellPool(jobs, fresh, threads), fresh)
        yield from _end(this, run)


def _share(cells: Sequence[Cell], shard: str | None) -> list[Cell]:
    if shard is None:
        return list(cells)
    first, slash, count = shard.partition("/")
    if not slash or not first.isdecimal() or not count.isdecimal():
        raise SettingsError(f"shard = '{shard}', but i/n was expected; write it as in 1/4.")
    if not 1 <= int(first) <= int(count):
        raise SettingsError(f"shard = '{shard}', but i from 1 to n was expected; change it.")
    return list(cells[int(first) - 1 :: int(count)])


def _plan(this: _Sweep, fresh: bool) -> Iterator[str]:
    axes = " x ".join(f"{len(axis.values)} {axis.key}" for axis in this.document.axes) or "1"
    extra = len(this.jobs.cells) - this.document.num_product
    more = f" + {extra} more" if extra else ""
    yield f"{axes}{more} = {_count(len(this.jobs.cells), 'cell')}, here {len(this.cells)}"
    for job in this.prepared:
        yield f"{job.label}: {_state(job, fresh)}"
    for cell in this.cells:
        yield f"{this.title(cell.job)}: {_state(cell.job, fresh)}"


def _state(job: CellJob, fresh: bool) -> str:
    if not fresh and job.is_done:
        return "there already"
    return f"would run again, it failed: {job.error}" if job.error else "would run"


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder; the lock goes with the process, however that ends."""
    if not (out / _LOCK).exists() and (foreign := tables_in(out)):
        raise SettingsError(
            f"'{foreign[0]}' was made by no sweep and would be replaced; give another folder."
        )
    with _opened(out) as stream:
        if not _locked(stream):
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise SettingsError(
                f"'{out}' is in use by {holder}; wait for it, or give another folder (shards that "
                f"run at the same time have a folder each, and --join puts them together)."
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}")
        stream.flush()
        yield


def _opened(out: Path) -> IO[str]:
    """Make a folder, and open the file in it that is locked."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        return (out / _LOCK).open("a+")
    except OSError as error:
        if error.errno in FULL:
            raise
        raise SettingsError(
            f"'{out}' cannot be made a folder of results ({error.strerror}); give another one."
        ) from error


def _locked(stream: IO[str]) -> bool:
    """Lock a file, and return whether that could be done.

    A sweep that was killed just as it started a process leaves the lock to that one until it runs
    its own program, which takes a moment.
    """
    limit = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > limit:
                return False
        time.sleep(_PATIENCE_SECONDS / 20)


def _recorded(this: _Sweep) -> AbstractContextManager[Recording]:
    document = this.document
    settings = {
        "axes": {axis.key: axis.labels for axis in document.axes},
        "cells": len(this.jobs.cells),
        "baseline": document.baseline,
        "repeat": document.repeat,
    }
    return recorded("sweep", "", settings, out=document.out, overwrite=True)


def _run(this: _Sweep, run: Recording, cells: CellPool, fresh: bool) -> Iterator[str]:
    everything = [*this.prepared, *(cell.job for cell in this.cells)]
    missing = {job.folder for job in everything if fresh or not job.is_done}
    if missing:
        forget_tables(this.document.out)
    if len(missing) < len(everything):
        run.resumed(f"had made {len(everything) - len(missing)} of {len(everything)} jobs")
    watch = ScoreWatch(this.document)
    _watch_scores(this, watch, (job.folder for job in everything if job.folder not in missing))
    board = Board(this.document.name, this.document.out, cells.num_jobs, everything)
    for job in (job for job in everything if job.folder not in missing):
        board.there(job)
        yield f"{this.title(job)}: there already"
    try:
        with steps("cells", len(everything)) as bar, cells as pool:
            bar.advance(len(everything) - len(missing))
            for event in _events(this, pool, missing):
                bar.show("; ".join(job.label for job in pool.running))
                if event is None:
                    board.write()
                    continue
                if not isinstance(event, Ended):
                    board.began(event)
                    continue
                board.ended(*event)
                bar.advance()
                said = f"failed: {event.error}" if event.error else _said(event)
                yield f"{this.title(event.job)}: {said}"
                _watch_scores(this, watch, [event.job.folder])
    except BaseException:
        board.write("Stopped before its end; the same command goes on.")
        raise
    board.write("Ended.", ["report.html"] if this.is_whole else [])


def _events(this: _Sweep, pool: CellPool, missing: set[Path]) -> Iterator[CellJob | Ended | None]:
    """Run what prepares cells, then the cells; those whose preparation failed fail at once."""
    yield from pool.run([job for job in this.prepared if job.folder in missing])
    ready = []
    for cell in (cell for cell in this.cells if cell.job.folder in missing):
        if cell.prepared is None or cell.prepared.is_done:
            ready.append(cell.job)
            continue
        error = f"What prepares it failed: {cell.prepared.error}"
        cell.job.fail(error)
        yield Ended(cell.job, error, 0.0)
    yield from pool.run(ready)


def _watch_scores(this: _Sweep, watch: ScoreWatch, done: Iterable[Path]) -> None:
    """Refuse a score that nothing measures, as soon as every way to measure it was seen."""
    cells = {cell.job.folder: cell for cell in this.cells}
    for folder in done:
        if watch.is_settled:
            return
        if (cell := cells.get(folder)) is not None and cell.job.is_done:
            watch.saw(cell.point, _results(cell.job))


def _said(event: Ended) -> str:
    last = event.job.recipe.steps[-1].out
    found = read_result(event.job.folder / last).measurements[:2]
    scores = ", ".join(f"{entry.name} {entry.value:.4g}" for entry in found)
    return ", ".join(filter(None, [f"{event.seconds:.1f} s", scores]))


def _joined(this: _Sweep, run: Recording, others: Sequence[Path]) -> Iterator[str]:
    root = this.document.out
    for folder in others:
        if not folder.is_dir():
            raise DataError(f"There is no folder '{folder}' to join; give the OUT of a shard.")
    everything = [*this.jobs.prepared, *(cell.job for cell in this.jobs.cells)]
    missing = [job for job in everything if not job.is_done]
    if missing:
        forget_tables(root)
    lacking = [job for job in missing if not take_over(job, root, others)]
    run.resumed(f"or shards had made {len(everything) - len(lacking)} of {len(everything)} jobs")
    yield f"joined: {_count(len(missing) - len(lacking), 'job')} from {', '.join(map(str, others))}"
    if lacking:
        names = "; ".join(job.label for job in lacking[:_MOST_NAMED])
        more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
        raise DataError(
            f"{_count(len(lacking), 'job')} of the sweep lie in none of these folders with these "
            f"settings and inputs: {names}{more}. Name the folders that have them, or leave --join "
            f"out to run them here."
        )


def _end(this: _Sweep, run: Recording) -> Iterator[str]:
    """Draw the table if every cell is there, and say so if not, or if cells failed."""
    out, cells = this.document.out, [_measured(cell) for cell in this.jobs.cells]
    if not this.is_whole:
        run.finish(None)
        forget_tables(out)
        done = sum(bool(cell.chain) for cell in cells)
        yield (
            f"{done} of {_count(len(cells), 'cell')} are in '{out}'; the table comes when all are: "
            f"run the others here, or join the folders of all shards with --join."
        )
    else:
        summary = summarise(this.document, cells)
        for file in write_tables(summary, out):
            yield f"table: {file}"
        for name, place in sorted(this.document.artefacts.items()):
            run.read(name, place, this.contents.digest(place), "data")
        tell(run, this.document, cells, summary)
        run.finish(out)
        from treadle.page import write_page

        page = write_page([out / RESULT_FILE], out / "report.html", this.document.name)
        yield f"report: {page}"
    failed = [cell for cell in this.cells if cell.job.error]
    if failed:
        raise TreadleError(
            f"{len(failed)} of {_count(len(this.cells), 'cell')} failed, the first "
            f"'{failed[0].job.label}': {failed[0].job.error} Mend that; the same command runs them "
            f"again."
        )


def _measured(cell: Cell) -> MeasuredCell:
    base = _results(cell.prepared) if cell.prepared is not None else {}
    return MeasuredCell(cell.point, _results(cell.job), base, cell.job.error)


def _results(job: CellJob) -> Chain:
    if not job.is_done:
        return {}
    return {step.out: read_result(job.folder / step.out) for step in job.recipe.steps}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
