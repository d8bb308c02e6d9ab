"""Near-duplicate removal against datatrove and text-dedup: same documents and settings, paired.

The corpus has documents of 2 kB of random English-like words; a known part of them are pairs of
controlled Jaccard similarity. Both sides read one JSONL file and write what is kept, with word
5-grams and 14 bands of 8: datatrove as its four stages (signatures, buckets, clusters, filter) with
one task, treadle as one command with one worker. Seconds are processor seconds of whole processes
with their imports, and also without them. Quality stands beside: the part of the pairs of each
similarity that was found, next to what theory expects. "exact" and "rules" are treadle's own rates;
datatrove's chain of Gopher filters stands beside the rules.

With --tree the documents are the files of real folders instead, and quality is how many each side
keeps and how many of these are the same. With --scale treadle alone removes the copies of so many
documents, and its peak memory beyond its imports is what is measured.

Usage: python benchmarks/curate_peer.py --peer /opt/peers/datatrove/bin/python [--documents 100000]
           [--text-dedup /opt/peers/textdedup/bin/python] [--tree FOLDER...] [--scale 1000000]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import store

NUM_WORDS, BANDS, ROWS = 300, 14, 8
SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PAIRED_FRACTION = 0.2
"""Of all documents are members of pairs."""

PEER_MINHASH = """
import time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature, MinhashDedupBuckets
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig
began = time.process_time()
config = MinhashConfig(
    hash_config=HashConfig(precision=64), n_grams=5, num_buckets=BANDS, hashes_per_bucket=ROWS
)
reader = JsonlReader("SOURCE")
stages = [
    [reader, MinhashDedupSignature("OUT/signatures", config=config)],
    [MinhashDedupBuckets("OUT/signatures", "OUT/buckets", config=config)],
    [MinhashDedupCluster("OUT/buckets", "OUT/remove", config=config)],
    [reader, MinhashDedupFilter("OUT/remove"), JsonlWriter("OUT/kept", compression=None)],
]
for number, stage in enumerate(stages):
    tasks = BANDS if number == 1 else 1
    LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=f"OUT/log{number}").run()
print("SECONDS", time.process_time() - began)
"""
TEXT_DEDUP = """
import sys, time
began = time.process_time()
import click
from text_dedup import minhash
options = {
    "path": "json", "data_files": "SOURCE/docs.jsonl", "split": "train", "cache_dir": "OUT/cache",
    "output": "OUT/kept", "column": "text", "ngram": 5, "num_perm": BANDS * ROWS, "b": BANDS,
    "r": ROWS, "hash_func": "xxh3", "hash_bits": 64, "min_length": 5, "num_proc": 1,
}
words = [word for key, value in options.items() for word in ("--" + key, str(value))]
try:
    minhash.main(words)
except SystemExit as stop:
    assert not stop.code
spent = time.process_time() - began
from datasets import load_from_disk
with open("OUT/ids", "w") as file:
    file.write("\\n".join(load_from_disk("OUT/kept")["id"]))
print()
print("SECONDS", spent)
"""
PEER_RULES = """
import time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
began = time.process_time()
chain = [JsonlReader("SOURCE"), GopherRepetitionFilter(), GopherQualityFilter()]
LocalPipelineExecutor([*chain, JsonlWriter("OUT/kept", compression=None)], workers=1, tasks=1).run()
print("SECONDS", time.process_time() - began)
"""
OURS = """
import time
began = time.process_time()
from treadle import curate
from treadle.text.curate import METHODS
METHODS.resolve("@METHOD")
began = time.process_time()
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmHWM" in line)
before = peak()
result = curate("SOURCE/docs.jsonl", "OUT", {"method": "@METHOD", **SETTINGS}, workers=1)
print("SECONDS", time.process_time() - began)
print("PEAK", peak(), before)
"""
TEXT_FILES = (".py", ".pyi", ".txt", ".md", ".rst", ".html", "copyright", "changelog")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="/opt/peers/datatrove/bin/python")
    parser.add_argument("--text-dedup")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--tree", type=Path, nargs="+")
    parser.add_argument("--scale", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--keep", action="store_true", help="do not store the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        found = (scale if options.scale else compare)(options, Path(work))
    for line in json.dumps(found, indent=1).splitlines():
        sys.stdout.write(line + "\n")
    if not options.keep:
        theme = (
            "curate_scale" if options.scale else "curate_tree" if options.tree else "curate_peer"
        )
        sys.stdout.write(f"{store.write(theme, found)}\n")


def scale(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Let treadle remove the near copies of very many documents, and watch its memory."""
    source = work / "source"
    source.mkdir()
    pairs = make_corpus(source / "docs.jsonl", options.scale)
    script = OURS.replace("@METHOD", "minhash").replace("SETTINGS", "{}")
    spent = timed(sys.executable, script, source, work / "out")
    return {
        "documents": options.scale,
        "source_bytes": (source / "docs.jsonl").stat().st_size,
        **spent,
        "recall": recall(pairs, our_kept(work / "out")),
        "state_bytes_per_document": our_state(work / "out"),
    }


def compare(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    source = work / "source"
    source.mkdir()
    if options.tree:
        pairs, num_documents = [], gather_tree(source / "docs.jsonl", options.tree)
    else:
        num_documents = options.documents
        pairs = make_corpus(source / "docs.jsonl", num_documents)
    num_bytes = (source / "docs.jsonl").stat().st_size
    jobs = {
        "peer_minhash": (options.peer, PEER_MINHASH),
        "minhash": (sys.executable, OURS.replace("@METHOD", "minhash").replace("SETTINGS", "{}")),
        "peer_gopher": (options.peer, PEER_RULES),
        "rules_gopher": (
            sys.executable,
            OURS.replace("@METHOD", "rules").replace("SETTINGS", "{'preset': 'gopher'}"),
        ),
        "exact": (sys.executable, OURS.replace("@METHOD", "exact").replace("SETTINGS", "{}")),
    }
    if options.tree:  # near copies only: rules depend little on where text comes from
        del jobs["peer_gopher"]
    if options.text_dedup:
        jobs = {"text_dedup": (options.text_dedup, TEXT_DEDUP), **jobs}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for number in range(options.rounds):
        for name in list(jobs) if number % 2 == 0 else list(jobs)[::-1]:
            out = work / name
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(exist_ok=True)
            rounds[name].append(timed(*jobs[name], source, out))
    rates = {name: summary(spent, num_bytes) for name, spent in rounds.items()}
    kept = {"datatrove": peer_kept(work / "peer_minhash"), "treadle": our_kept(work / "minhash")}
    found: dict[str, Any] = {}
    if "peer_gopher" in rounds:
        found["gopher_ratio"] = ratio(rounds["peer_gopher"], rounds["rules_gopher"])
    if options.text_dedup:
        kept["text-dedup"] = set((work / "text_dedup" / "ids").read_text().split("\n"))
        found["text_dedup_ratio"] = ratio(rounds["text_dedup"], rounds["minhash"])
    return {
        "documents": num_documents,
        "source_bytes": num_bytes,
        "rounds": options.rounds,
        "rates": rates,
        "minhash_ratio": ratio(rounds["peer_minhash"], rounds["minhash"]),
        **found,
        "kept": {name: len(ids) for name, ids in kept.items()},
        "kept_by_both": {name: len(ids & kept["treadle"]) for name, ids in kept.items()},
        "recall": {
            "theory": {str(s): 1 - (1 - s**ROWS) ** BANDS for s in SIMILARITIES},
            **{name: recall(pairs, ids) for name, ids in kept.items() if pairs},
        },
        "state_bytes_per_document": {
            "datatrove": size(work / "peer_minhash" / "signatures") / num_documents,
            "treadle": our_state(work / "minhash"),
        },
    }


def gather_tree(file: Path, folders: list[Path]) -> int:
    """Write the text files below `folders` as documents, and return their number."""
    count = 0
    with file.open("w") as stream:
        for folder in folders:
            for path in sorted(p for p in folder.rglob("*") if p.name.endswith(TEXT_FILES)):
                if not path.is_file() or path.is_symlink():
                    continue
                text = path.read_bytes().decode("utf-8", errors="ignore").replace("\0", "")
                if text.strip():
                    stream.write(json.dumps({"id": str(path), "text": text}) + "\n")
                    count += 1
    return count


def make_corpus(file: Path, num_documents: int) -> list[tuple[str, str, float]]:
    """Write the documents, and return the pairs among them with their similarity."""
    generator = np.random.Generator(np.random.Philox(11))
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    sizes = generator.integers(2, 10, 200_000)
    vocabulary = ["".join(generator.choice(letters, size)) for size in sizes]
    num_pairs = int(num_documents * PAIRED_FRACTION / 2)
    pairs, rows = [], []
    for number in range(num_documents - num_pairs):
        words = generator.integers(0, len(vocabulary), NUM_WORDS)
        rows.append((f"a{number}", words))
        if number < num_pairs:
            similarity = SIMILARITIES[number % len(SIMILARITIES)]
            num_shingles = NUM_WORDS - 4
            common = round(2 * num_shingles * similarity / (1 + similarity))
            other = generator.integers(0, len(vocabulary), NUM_WORDS)
            other[: common + 4] = words[: common + 4]
            rows.append((f"b{number}", other))
            pairs.append((f"a{number}", f"b{number}", similarity))
    with file.open("w") as stream:
        for place in generator.permutation(len(rows)):
            name, words = rows[place]
            stream.write(json.dumps({"id": name, "text": prose(vocabulary, words)}) + "\n")
    return pairs


def prose(vocabulary: list[str], words: Any) -> str:
    """Return words as sentences of twelve, five to a line."""
    text = [vocabulary[word] for word in words]
    runs = [" ".join(text[first : first + 12]) for first in range(0, len(text), 12)]
    return "\n".join(". ".join(runs[n : n + 5]) + "." for n in range(0, len(runs), 5))


def timed(python: str, script: str, source: Path, out: Path) -> dict[str, float]:
    """Run a script in a process of its own; return what it and its children spent."""
    text = script.replace("SOURCE", str(source)).replace("OUT", str(out))
    text = text.replace("BANDS", str(BANDS)).replace("ROWS", str(ROWS))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [python, "-c", text],
        capture_output=True,
        cwd=out.parent,  # datatrove leaves logs where it runs
        text=True,
        check=False,
        env=environment,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
    inner = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"wall": wall, "cpu": cpu, "cpu_without_imports": float(inner.split()[1])}
    for line in done.stdout.splitlines():
        if line.startswith("PEAK"):
            peak, before = map(float, line.split()[1:])
            found |= {"peak_bytes": peak, "peak_bytes_beyond_imports": peak - before}
    return found


def summary(spent: list[dict[str, float]], num_bytes: int) -> dict[str, float]:
    found = {
        key if "bytes" in key else f"{key}_seconds": statistics.median(r[key] for r in spent)
        for key in spent[0]
    }
    found["megabytes_per_cpu_second"] = num_bytes / 1e6 / found["cpu_seconds"]
    bare = found["cpu_without_imports_seconds"]
    found["megabytes_per_cpu_second_without_imports"] = num_bytes / 1e6 / bare
    return found


def ratio(peer: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, float]:
    """Return how many times less processor time treadle takes: median and quartiles."""
    found = sorted(a["cpu"] / b["cpu"] for a, b in zip(peer, ours, strict=True))
    low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
    return {"lower": float(low), "median": float(middle), "upper": float(high)}


def peer_kept(out: Path) -> set[str]:
    lines = (line for f in (out / "kept").glob("*.jsonl") for line in f.open())
    return {json.loads(line)["id"] for line in lines}


def our_kept(out: Path) -> set[str]:
    import pyarrow.parquet as pq

    files = sorted((out / "data").glob("*.parquet"))
    return {name for f in files for name in pq.read_table(f, columns=["id"])["id"].to_pylist()}


def recall(pairs: list[tuple[str, str, float]], kept: set[str]) -> dict[str, float]:
    """Return the part of the pairs of each similarity of which one document is gone."""
    found: dict[str, list[bool]] = {str(s): [] for s in SIMILARITIES}
    for one, other, similarity in pairs:
        found[str(similarity)].append(one not in kept or other not in kept)
    return {key: float(np.mean(values)) for key, values in found.items()}


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def our_state(out: Path) -> float:
    from treadle.core.result import read_result

    return read_result(out).measurement("state_bytes_per_document").value


if __name__ == "__main__":
    main()
