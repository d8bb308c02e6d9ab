"""When parameters can be updated: at once, or only after all gradients."""

from treadle.learn.plan.bounds import Reach
from treadle.learn.plan.problem import Problem

__all__ = ["what_blocks_updates"]

_SHARE = 0.99
"""Of the backward pass's work that precedes even the earliest update of a step that waits."""


def what_blocks_updates(problem: Problem, reach: Reach) -> list[str]:
    """Return a note if no update can run before nearly the whole backward pass is done.

    Clipping by the global norm does that: each update needs the norm of all gradients. The
    operator that holds all of them back is named.
    """
    updates = [t for t, task in enumerate(problem.tasks) if task.phase == "update"]
    backward = [t for t, task in enumerate(problem.tasks) if task.phase == "backward"]
    work = {task: problem.tasks[task].flops for task in backward}
    total = sum(work.values())
    if len(updates) < 2 or not total:
        return []
    shared = [t for t in backward if all(reach.is_before(t, update) for update in updates)]
    if sum(work[task] for task in shared) < _SHARE * total:
        return []
    name = problem.tasks[shared[-1]].name
    return [
        f"'{name}' needs all gradients, and all {len(updates)} updates need it (clipping by the "
        f"global norm does that): clip blocks early update. Clip each block's gradients by "
        f"themselves, or leave clipping out, to free gradients during the backward pass."
    ]
