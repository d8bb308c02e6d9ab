"""Models with drawn retaining heads beside them; not a test itself."""

import json
import shutil
from pathlib import Path

import numpy as np

from treadle.core.checkpoint import CheckpointReader
from treadle.core.checkpoint.hashing import content_hash
from treadle.core.checkpoint.manifest import Manifest, Provenance
from treadle.core.checkpoint.sidefiles import side_file
from treadle.model.retaining import (
    GATE_WIDTH,
    KIND,
    LayerHeads,
    RetainingHeads,
    file_name,
    write_heads,
)

KINDS = {
    "locret": ("mlp", "projections"),
    "kvzap": ("linear", "hidden"),
    "gated": ("gate", "hidden"),
}
"""Policy -> what its heads are."""


def drawn(
    policy: str, sizes: list[tuple[int, int, int]], hidden: int, seed: int = 5
) -> RetainingHeads:
    """Heads by chance: `sizes` are query heads, KV heads and width of each layer's."""
    draw, (kind, reads) = np.random.default_rng(seed), KINDS[policy]

    def numbers(*shape: int) -> np.ndarray:
        return draw.normal(0, 0.5, shape).astype(np.float32)

    layers = []
    for heads, kv_heads, dim in sizes:
        inputs = hidden if reads == "hidden" else (heads + 2 * kv_heads) * dim
        if kind == "linear":
            layers.append(LayerHeads(numbers(kv_heads, inputs), numbers(kv_heads)))
        elif kind == "mlp":
            layers.append(LayerHeads(numbers(24, inputs), None, numbers(kv_heads, 24)))
        else:
            first = numbers((heads + kv_heads) * GATE_WIDTH, inputs)
            own = (numbers(2, GATE_WIDTH) + 1, numbers(kv_heads, 3, GATE_WIDTH), numbers(heads))
            layers.append(LayerHeads(first, None, None, None, *own))
    return RetainingHeads(kind, reads, "silu", tuple(layers))


def with_heads(folder: Path, target: Path, *policies: str, seed: int = 5) -> Path:
    """A copy of a model's folder that carries drawn heads."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    sizes = [(heads, kv_heads, dim)] * config["num_hidden_layers"]
    files = []
    for policy in policies or KINDS:
        heads = drawn(policy, sizes, config["hidden_size"], seed)
        write_heads(target / file_name(policy), heads, policy)
        files.append(side_file(KIND, file_name(policy)))
    with CheckpointReader(target) as reader:
        name = content_hash(reader)
    manifest = Manifest(side_files=tuple(files), provenance=Provenance(verb="sparsify"))
    (target / "treadle.json").write_text(manifest.completed(name).model_dump_json())
    return target
