"""Prune a model with two metrics and compare what it costs: the whole loop in Python.

Usage: python examples/prune_and_compare.py [MODEL] [--quick]
"""

import sys
import tempfile
from pathlib import Path

from treadle import evaluate, prune
from treadle.judge.evaluate import TASKS
from treadle.shrink.prune import METRICS

model = next((word for word in sys.argv[1:] if not word.startswith("-")), "packaged:smollm2")
size = {"num_windows": 2, "window_tokens": 64} if "--quick" in sys.argv else {"num_windows": 8}
task = TASKS.resolve({"method": "perplexity", **size})

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    dense = evaluate(model, root / "dense", task, data="stdlib:heldout")
    print(f"{'dense':>10}: perplexity {dense.measurement('perplexity').value:.2f}")
    for name in ("random", "wanda"):
        metric = METRICS.resolve(name)
        text = {"text": "stdlib:calibration", **size} if metric.needs else {}
        prune(model, root / name, metric, sparsity=0.5, **text)
        scored = evaluate(
            root / name, root / f"{name}.ppl", task, data="stdlib:heldout", baseline=root / "dense"
        )
        ratio = scored.measurement("perplexity_ratio")
        print(f"{name:>10}: {ratio.value:.3g} x dense [{ratio.low:.3g}, {ratio.high:.3g}]")
