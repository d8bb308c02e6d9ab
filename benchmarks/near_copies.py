"""Near copies in one large cluster: CPU seconds of `curate minhash --threshold` as it grows.

Pages of 300 words made from one, all in one cluster, hardly any similar enough to another to go, so
that each must be told from all that stay: with own words (unique), with one of ten values at twelve
places (slots), of different lengths (sizes), with a tail of own words (tail).

Usage: python benchmarks/near_copies.py [--documents 5000 10000 20000]
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from treadle import curate

NUM_WORDS = 300
KINDS = {"unique": 0.9, "slots": 0.87, "sizes": 0.9, "tail": 0.9}
"""Threshold by kind of page."""


def page(kind: str, number: int, base: list[str], draw: random.Random) -> str:
    """Return a page that is nearly `base`."""
    words = list(base)
    if kind == "slots":
        for slot in range(12):
            words[slot * 25] = f"s{slot}v{draw.randrange(10)}"
    elif kind == "tail":
        words += [f"t{number}x{place}" for place in range(30)]
    else:
        for place in range(4):
            words[draw.randrange(NUM_WORDS)] = f"u{number}x{place}"
    return " ".join(words[: NUM_WORDS - draw.randrange(30)] if kind == "sizes" else words)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, nargs="+", default=[5000, 10000, 20000])
    asked = parser.parse_args()
    for kind, threshold in KINDS.items():
        for documents in asked.documents:
            draw = random.Random(0)
            base = [f"word{draw.randrange(5000)}" for _ in range(NUM_WORDS)]
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "pages.jsonl"
                rows = ((n, page(kind, n, base, draw)) for n in range(documents))
                data.write_text(
                    "".join(json.dumps({"id": f"{n:07d}", "text": text}) + "\n" for n, text in rows)
                )
                method = {"method": "minhash", "threshold": threshold}
                started = time.process_time()
                result = curate(data, Path(folder) / "out", method)
                seconds = time.process_time() - started
            kept = int(result.measurement("kept").value)
            print(f"{kind}, threshold {threshold}: {documents} pages, {kept} kept, {seconds:.1f} s")


if __name__ == "__main__":
    main()
