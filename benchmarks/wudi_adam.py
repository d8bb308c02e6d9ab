"""WUDI solved beside WUDI trained: the loss that each reaches, and what it costs.

The paper minimises its convex quadratic by 300 steps of Adam (1e-5) from the sum of the task
matrices, in float32; ours solves it in float64. Both get the same task matrices, one after the
other, with one thread; compared are the loss of every matrix (in float64) and CPU seconds.

Usage: python benchmarks/wudi_adam.py --base FOLDER --models A B C
"""

import argparse
import time
from pathlib import Path

import numpy as np
import store
import torch

from treadle.combine.merge.methods.wudi import least_disturbing
from treadle.core.checkpoint import CheckpointReader

STEPS, RATE = 300, 1e-5


def loss(merged: np.ndarray, tasks: np.ndarray) -> float:
    """Return the sum over tasks of |(t - t_i) t_i'|^2 / |t_i|^2, in float64."""
    wide = [one.astype(np.float64) for one in tasks]
    errors = [np.square((merged - one) @ one.T).sum() / np.square(one).sum() for one in wide]
    return float(sum(errors))


def trained(tasks: np.ndarray) -> np.ndarray:
    """Return what Adam reaches, as the paper's code does it."""
    wanted = torch.from_numpy(tasks)
    merged = torch.nn.Parameter(wanted.sum(dim=0))
    optimizer = torch.optim.Adam([merged], lr=RATE)
    sizes = wanted.flatten(1).norm(dim=1).square()[:, None, None]
    for _ in range(STEPS):
        optimizer.zero_grad()
        errors = (merged - wanted) @ wanted.transpose(1, 2)
        (errors.square() / sizes).sum().backward()
        optimizer.step()
    return merged.detach().double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    readers = [CheckpointReader(folder) for folder in (arguments.base, *arguments.models)]
    base, *tuned = readers
    names = [n for n, info in base.tensors.items() if len(info.shape) == 2 and "_proj" in n]
    rows = []
    for name in names:
        start = base.array(name).astype(np.float32)
        tasks = np.stack([one.array(name).astype(np.float32) - start for one in tuned])
        begun = time.process_time()
        ours = least_disturbing(tasks)
        between = time.process_time()
        theirs = trained(tasks)
        ended = time.process_time()
        total = loss(tasks.astype(np.float64).sum(axis=0), tasks)
        rows.append(
            (total, loss(ours, tasks), loss(theirs, tasks), between - begun, ended - between)
        )
    table = np.array(rows)
    found = {
        "matrices": len(names),
        "loss": {
            "sum of task matrices": float(table[:, 0].sum()),
            "solved": float(table[:, 1].sum()),
            "adam": float(table[:, 2].sum()),
        },
        "solved_is_lower_in": int((table[:, 1] <= table[:, 2]).sum()),
        "cpu_seconds": {"solved": float(table[:, 3].sum()), "adam": float(table[:, 4].sum())},
        "cpu_ratio_quartiles": [
            float(one) for one in np.percentile(table[:, 3] / table[:, 4], [25, 50, 75])
        ],
    }
    for key, value in found.items():
        print(key, value)
    settings = {key: str(value) for key, value in vars(arguments).items()}
    store.write("wudi_adam", {"settings": settings, **found})


if __name__ == "__main__":
    main()
