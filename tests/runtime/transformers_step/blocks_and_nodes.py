"""Attention of trees by the kernel for GPUs against that by nodes; not a test itself.

Usage: TRITON_INTERPRET=1 python blocks_and_nodes.py
"""

import numpy as np
import torch

from runtime.sharing.grown import filled, grown, step_of
from treadle.runtime.executor import ModelShape
from treadle.runtime.sharing.trees import runs_of
from treadle.runtime.store import make_store
from treadle.runtime.transformers_step import shared
from treadle.runtime.transformers_step.shared import SharedTree

CASES = (
    ("fp32", 16, 3, 20, None, None, 12),
    ("fp16", 32, 2, 64, 40, 30.0, 40),
    ("fp32", 4, 1, 16, None, None, 5),
    ("int8", 16, 2, 16, None, None, 6),
)


def compare(kv, size, group, dim, window, softcap, count, device: str) -> int:
    """Compare the trees of a random step, and return how many there are."""
    rng, place = np.random.default_rng(count), torch.device(device)
    shape = ModelShape((2,), dim, 100, 8, 8192, (None,))
    branches = grown(rng, size, -(-200 // size), count, 2)
    rows = step_of(branches, size, rng, 100)
    pool = filled(shape, branches, size, kv, rng)
    if device != "cpu":
        content = pool.read(range(pool.num_pages))
        pool = make_store(shape, pool.num_bytes, size, kv, count, device)
        pool.write(range(len(content[0])), content)
    runs = runs_of(rows, 64)
    for run in runs:
        shared.takes_kernel = lambda _: False
        by_node = SharedTree(rows, run, size, "node", place)
        query = rng.normal(size=(2 * group, len(by_node.rows), dim))
        query = torch.from_numpy(query).float().to(place)
        settings = (query, pool.layers[0], dim**-0.5, window, softcap)
        expected = by_node.attend(*settings)
        shared.takes_kernel = lambda _: True
        found = SharedTree(rows, run, size, "flatten", place).attend(*settings)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    return len(runs)


if __name__ == "__main__":
    print(sum(compare(*case, "cpu") for case in CASES))
