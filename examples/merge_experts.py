"""Merge two variants of a model three ways, and look at them first: the whole loop in Python.

Usage: python examples/merge_experts.py [MODEL] [--quick]
"""

import sys
import tempfile
from pathlib import Path

from treadle import evaluate, merge, prune
from treadle.combine.merge import METHODS, merge_inspect
from treadle.judge.evaluate import TASKS

model = next((word for word in sys.argv[1:] if not word.startswith("-")), "packaged:smollm2")
size = {"num_windows": 2, "window_tokens": 64} if "--quick" in sys.argv else {"num_windows": 8}
task = TASKS.resolve({"method": "perplexity", **size})

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    variants = [root / "random", root / "magnitude"]
    for out in variants:
        prune(model, out, out.name, sparsity=0.3)
    for note in merge_inspect(variants, base=model).notes:
        print(note)
    settings = {"linear": {}, "slerp": {"t": 0.5}, "ties": {"density": 0.5}}
    for name, fields in settings.items():
        method = METHODS.resolve({"method": name, **fields})
        merge(variants, root / name, method, base=model if name == "ties" else None)
    for out in (*variants, *(root / name for name in settings)):
        scored = evaluate(out, out.with_suffix(".ppl"), task, data="stdlib:heldout")
        print(f"{out.name:>10}: perplexity {scored.measurement('perplexity').value:.4g}")
