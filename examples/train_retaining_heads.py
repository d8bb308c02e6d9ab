"""Train heads that say which entries of the cache stay, and see what of the best they find.

Usage: python examples/train_retaining_heads.py [MODEL] [--quick]
"""

import sys
import tempfile
from pathlib import Path

from treadle import sparsify

model = next((word for word in sys.argv[1:] if not word.startswith("-")), "packaged:smollm2")
quick = {"num_samples": 4, "sample_tokens": 96, "local_tokens": 8, "heldout_fraction": 0.5}
size = quick if "--quick" in sys.argv else {"num_samples": 40}

with tempfile.TemporaryDirectory() as folder:
    result = sparsify(model, Path(folder) / "out", "locret", text="stdlib:calibration", **size)
    share = result.measurement("head_share").value
    print(f"heads: {result.bytes['heads']} bytes, {share:.1%} of the model's parameters")
    for name in ("trained", "recency", "key_norm", "random"):
        found = result.measurement(f"overlap_0.125_{name}")
        print(
            f"{name:>10}: {found.value:.3f} of the best eighth [{found.low:.3f}, {found.high:.3f}]"
        )
