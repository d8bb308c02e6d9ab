"""A search of merge weights, ours beside mergekit: the same candidates, scored on the same answers.

Ours merges a candidate's tensors as the scorer reads them. The peer is what users stitch together:
a loop that writes a YAML file, runs `mergekit-yaml` (0.1.5) and loads the folder with transformers
to score it. Both run the same points of CMA-ES; compared are CPU seconds a candidate, peak memory,
bytes written, and whether the scores agree.

Usage: python benchmarks/glue_peer.py --mergekit VENV/bin/mergekit-yaml --work FOLDER
       --models A B C --data skills:json skills:lookup
"""

import argparse
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import store
import yaml

from treadle.combine.merge.glue.clusters import clustered
from treadle.combine.merge.glue.items import Items, encoded, read_items
from treadle.combine.merge.glue.journal import TrialJournal
from treadle.combine.merge.glue.trials import Settled, Trials, recipe_of
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.recipe.grammar import of_models
from treadle.combine.merge.tables import METHODS
from treadle.core.seed import numpy_stream


def spent() -> float:
    """CPU seconds of this process and of its ended children."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def scored(folder: Path, items: Items) -> float:
    """Return the mean of nats of the answers, by transformers as it loads the folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    means = []
    for one in items.dev:
        rows = sorted(encoded(tokenizer, one.items, None), key=lambda row: len(row.tokens))
        nats = []
        for start in range(0, len(rows), 32):
            some = rows[start : start + 32]
            tokens = torch.zeros(len(some), max(len(r.tokens) for r in some), dtype=torch.long)
            for place, row in enumerate(some):
                tokens[place, : len(row.tokens)] = torch.tensor(row.tokens)
            with torch.no_grad():
                said = model(tokens[:, :-1]).logits.float().log_softmax(-1)
            for place, row in enumerate(some):
                wanted = torch.tensor(row.tokens[row.first :])
                found = said[place, row.first - 1 : len(row.tokens) - 1]
                nats.append(-float(found.gather(1, wanted[:, None]).double().sum()))
        means.append(np.mean(nats))
    return float(np.mean(means))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mergekit", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--items", type=int, default=64)
    arguments = parser.parse_args()
    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    items = read_items(arguments.data, None, 0, arguments.items)
    opened = Models()
    zoo = [opened[source.model] for source in of_models("linear", arguments.models).sources]
    (cluster,) = clustered(zoo, None, -1.0, [])
    settled = Settled(METHODS.resolve("linear"), None, None, "nats", 0)
    trials = Trials(
        cluster, opened, settled, items.dev, TrialJournal(work / "journal.jsonl", "peer")
    )
    points = numpy_stream(0, "peer").dirichlet(np.ones(len(zoo)), arguments.candidates)
    trials.score(trials.mean())  # both sides warm: imports, pages, tokenizers
    merged = work / "merged"

    def peer(weights: np.ndarray) -> tuple[float, int]:
        file = work / "candidate.yml"
        file.write_text(yaml.safe_dump(recipe_of(cluster, weights, settled)))
        shutil.rmtree(merged, ignore_errors=True)
        subprocess.run(
            [arguments.mergekit, str(file), str(merged), "--allow-crimes"],
            check=True,
            capture_output=True,
        )
        size = sum(one.stat().st_size for one in merged.glob("*.safetensors"))
        return scored(merged, items), size

    peer(trials.mean())
    rows = []
    for point in points:
        weights = trials.rounded(point[None])
        before, begun = spent(), time.perf_counter()
        ours = trials.score(weights)
        middle, between = spent(), time.perf_counter()
        theirs, size = peer(weights)
        after, ended = spent(), time.perf_counter()
        rows.append(
            (middle - before, after - middle, between - begun, ended - between, ours, theirs, size)
        )
    table = np.array(rows)
    ratios = table[:, 0] / table[:, 1]
    found = {
        "cpu_seconds": {
            "ours": float(np.median(table[:, 0])),
            "peer": float(np.median(table[:, 1])),
        },
        "cpu_ratio_quartiles": [float(one) for one in np.percentile(ratios, [25, 50, 75])],
        "wall_seconds": {
            "ours": float(np.median(table[:, 2])),
            "peer": float(np.median(table[:, 3])),
        },
        "largest_difference_of_scores": float(np.abs(table[:, 4] - table[:, 5]).max()),
        "same_order": bool((table[:, 4].argsort() == table[:, 5].argsort()).all()),
        "bytes_written_a_candidate": {"ours": 0, "peer": int(table[0, 6])},
        "peer_peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "own_process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for name, value in found.items():
        print(name, value)
    settings = {key: str(value) for key, value in vars(arguments).items()}
    store.write("glue_peer", {"settings": settings, **found})


if __name__ == "__main__":
    main()
