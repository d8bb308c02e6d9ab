"""The process of one job: `python -m treadle.app.sweep.worker JOB.json`.

It lives no longer than the sweep that started it: the sweep holds the other end of its standard
input, which closes whatever way the sweep ends, kill -9 included.
"""

import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path

from treadle.app.sweep.jobs import CellJob, forget_error, read_job
from treadle.core.cache import locked
from treadle.core.errors import TreadleError
from treadle.recipe import RecipePlan, run_plan

__all__ = ["load", "main"]

_WITHOUT_TORCH = ("text",)
_HEAVY = ("torch", "transformers.modeling_utils", "treadle.model.load")
"""What verbs that handle models import when they first need it: seconds."""


def main(file: Path) -> int:
    """Run the steps of a job that are not done, and return the exit status; 1 if one failed."""
    job, cores, fresh = read_job(file)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    # A process whose sweep was killed may need a moment to end.
    with locked(job.folder / ".lock"):
        forget_error(job)
        try:
            load(job)
            for line in run_plan(RecipePlan(job.recipe, fresh)):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            job.fail(_said(error))
            return 1
    return 0


def load(job: CellJob) -> None:
    """Import what the verbs need, so that the first one is not timed with it."""
    for step in job.recipe.steps:
        step.verb.function()
        if (table := step.verb.methods()) is not None:
            table.resolve(step.settings["method"])
        if step.verb.wing not in _WITHOUT_TORCH:
            for name in _HEAVY:
                import_module(name)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    own = isinstance(error, TreadleError)
    return text if own else f"{type(error).__name__}: {text}"


def _end_with_the_sweep() -> None:
    """Wait for the end of standard input, then end this process and all that it started."""
    while os.read(0, 1):  # sys.stdin has a lock, which would be in the way of a normal end
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    sys.exit(main(Path(sys.argv[1])))
