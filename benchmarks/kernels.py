"""Mask selection and the OBS inner loop, paired with the loops and sorts that published code uses.

Random weights in the shapes of SmolLM2-135M; one thread; process CPU time. The baselines are our
own torch forms of the published formulas, no copies of code.
"""

import argparse
from collections.abc import Callable

import numpy as np
import store
import torch

from treadle import native
from treadle.core.timing import paired

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
NUM_LAYERS = 30


def sort_rows(scores: list[torch.Tensor]) -> None:
    for score in scores:
        order = torch.sort(score, dim=1, stable=True).indices[:, : score.shape[1] // 2]
        torch.ones_like(score, dtype=torch.bool).scatter_(1, order, False)


def loop_two_of_four(scores: list[torch.Tensor]) -> None:
    for score in scores:
        keep = torch.ones_like(score, dtype=torch.bool)
        for column in range(0, score.shape[1], 4):
            lowest = torch.topk(score[:, column : column + 4], 2, dim=1, largest=False).indices
            keep.scatter_(1, lowest + column, False)


def loop_obs(weights: list[torch.Tensor], uppers: dict[int, torch.Tensor]) -> None:
    """Run the column loop of SparseGPT in torch: a rank-one update for every column."""
    for weight in weights:
        upper = uppers[weight.shape[1]]
        for first in range(0, weight.shape[1], 128):
            block = weight[:, first : first + 128].clone()
            inner = upper[first : first + 128, first : first + 128]
            keep = block.square() / inner.diagonal().square() > 1.0
            for j in range(block.shape[1]):
                q = block[:, j] * keep[:, j]
                error = (block[:, j] - q) / inner[j, j]
                block[:, j:] -= error[:, None] @ inner[j : j + 1, j:]


def kernel_obs(weights: list[torch.Tensor], uppers: dict[int, torch.Tensor]) -> None:
    for weight in weights:
        upper = uppers[weight.shape[1]]
        for first in range(0, weight.shape[1], 128):
            block = weight[:, first : first + 128].clone()
            inner = upper[first : first + 128, first : first + 128].contiguous()
            keep = block.square() / inner.diagonal().square() > 1.0
            error = np.empty(tuple(block.shape), np.float32)
            native.obs_block(block.numpy(), inner.numpy(), keep.numpy(), error)


def compare(
    name: str, baseline: Callable[[], None], candidate: Callable[[], None], rounds: int
) -> dict:
    timing = paired(baseline, candidate, rounds=rounds)
    row = {
        "baseline_cpu_seconds_model": float(np.median(timing.baseline_cpu_seconds)) * NUM_LAYERS,
        "candidate_cpu_seconds_model": float(np.median(timing.candidate_cpu_seconds)) * NUM_LAYERS,
        "cpu_ratio": timing.cpu_ratio._asdict(),
    }
    print(
        f"{name:28} {row['baseline_cpu_seconds_model']:7.2f} s -> "
        f"{row['candidate_cpu_seconds_model']:6.3f} s a model, {timing.cpu_ratio.median:.1f} x "
        f"[{timing.cpu_ratio.lower:.1f}, {timing.cpu_ratio.upper:.1f}]"
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
    scores = [weight.abs() for weight in weights]
    uppers = {}
    for size in {shape[1] for shape in SHAPES}:
        values = torch.randn(2 * size, size, generator=generator)
        inverse = torch.linalg.inv(values.T @ values / size + 0.01 * torch.eye(size))
        uppers[size] = torch.linalg.cholesky(inverse, upper=True)
    rows = {
        "rows 50 % (A2)": compare(
            "rows 50 % against a sort",
            lambda: sort_rows(scores),
            lambda: [native.keep_rows(s.numpy(), s.shape[1] // 2) for s in scores] and None,
            rounds,
        ),
        "2:4 (A1)": compare(
            "2:4 against a loop",
            lambda: loop_two_of_four(scores),
            lambda: [native.keep_n_of_m(s.numpy(), 2, 4) for s in scores] and None,
            rounds,
        ),
        "obs (A4)": compare(
            "OBS loop against torch",
            lambda: loop_obs(weights, uppers),
            lambda: kernel_obs(weights, uppers),
            rounds,
        ),
    }
    note = "One block of SmolLM2's shapes timed, times 30 blocks; one thread; masks are identical."
    print(store.write("kernels", {"note": note, "native": native.status().active, "rows": rows}))


if __name__ == "__main__":
    main()
