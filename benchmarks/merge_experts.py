"""A real combination: one base, four experts of four domains, every merge method, joint training.

Trains small Llama-shaped models from scratch with `treadle.model.fit`: a base on a mixture of all
domains, from it one expert on each domain (encyclopaedia: WikiText-2; arithmetic: GSM8K; code: the
standard library's sources; manual: its documentation), and from it a joint model on the mixture
with as many steps as all experts together. Every method merges the four experts (methods for two
merge them in a tree). Settings are chosen on the development text of each domain, the figures are
of its test text: nats per token, averaged over domains, with 95 % intervals of the paired
difference to the plain mean (linear). Trivial bounds stand beside: each expert alone, the base,
and the best expert for each domain (which needs to know the domain).

Usage: python benchmarks/merge_experts.py --shared ../shared/data [--work DIR]
"""

import argparse
import hashlib
import json
import statistics
import sysconfig
from pathlib import Path

import numpy as np
import store

from treadle import evaluate, merge
from treadle.combine.merge import METHODS
from treadle.core.result import Result, digest, read_result
from treadle.core.seed import numpy_stream
from treadle.judge.evaluate import TASKS
from treadle.model.fit import FitSettings, fit, loss_figure, random_batches

DOMAINS = ("encyclopaedia", "arithmetic", "code", "manual")
VOCAB_SIZE, SEQ, ROWS = 4096, 128, 8
NUM_WINDOWS = 24
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_WEIGHTS = [{"weight": weight} for weight in (0.25, 0.5, 0.75, 1.0)]
_TRIMMED = [
    {"weight": weight, "density": density} for weight in (0.3, 0.6, 1.0) for density in (0.3, 0.7)
]
_ELECTED = [
    {"lambda": scale, "density": density} for scale in (0.5, 1.0, 1.5) for density in (0.3, 0.7)
]
GRIDS: dict[str, list[dict]] = {
    "slerp": [{"t": 0.5}],
    "nearswap": [{"t": t} for t in (1e-3, 1e-2)],
    "task_arithmetic": _WEIGHTS,
    "ties": _ELECTED,
    "dare_ties": _ELECTED,
    "breadcrumbs_ties": [{**s, "weight": 1.0, "normalize": True} for s in _ELECTED],
    "della": _ELECTED,
    "dare_linear": _TRIMMED,
    "breadcrumbs": _TRIMMED,
    "della_linear": _TRIMMED,
    "sce": [{"select_topk": k} for k in (0.3, 1.0)],
    "consensus": [{"lambda": scale} for scale in (0.25, 0.5, 1.0)],
    "tsv": [{"lambda": scale} for scale in (0.25, 0.5, 1.0)],
    "isotropic": [{"lambda": scale} for scale in (0.25, 0.5, 1.0)],
    "ramplus_tl": [{}, {"r": 0.3}],
}
"""What is tried of each method's settings; a method without an entry has its defaults."""


def texts(shared: Path) -> dict[str, list[str]]:
    """Return the documents of each domain."""
    from pydoc_data.topics import topics

    wiki = "".join(
        (shared / "text" / f"wikitext2_{split}.txt").read_text() for split in ("valid", "test")
    )
    rows = (shared / "tasks" / "gsm8k_train_2000.jsonl").read_text().splitlines()
    problems = [json.loads(row) for row in rows]
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return {
        "encyclopaedia": [part.strip() for part in wiki.split("\n = ") if len(part) > 200],
        "arithmetic": [f"Question: {p['question']}\nAnswer: {p['answer']}" for p in problems],
        "code": [file.read_text(errors="ignore") for file in sources],
        "manual": [topics[name].strip() for name in sorted(topics)],
    }


def split(documents: list[str]) -> dict[str, str]:
    """Cut by document, by hash: eight tenths to train, one to choose settings, one to report."""
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for document in documents:
        tenth = hashlib.sha256(document.encode()).digest()[0] % 10
        parts["dev" if tenth == 8 else "test" if tenth == 9 else "train"].append(document)
    return {name: "\n\n".join(found) for name, found in parts.items()}


def write_texts(work: Path, shared: Path) -> None:
    for domain, documents in texts(shared).items():
        for name, text in split(documents).items():
            (work / f"{domain}.{name}.txt").write_text(text)


def write_tokenizer(work: Path, folder: Path) -> None:
    """Train a byte-level BPE on equal shares of the domains."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    shares = [(work / f"{domain}.train.txt").read_text()[:400_000] for domain in DOMAINS]
    bpe.train_from_iterator(shares, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    made.save_pretrained(folder)


def train(
    work: Path, name: str, domains: tuple[str, ...], start: Path | None, settings: dict
) -> dict:
    """Train one model, unless it is there, and return its losses."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from treadle.model.load import full, load_tokenizer

    folder, curve = work / name, work / f"{name}.losses.json"
    if curve.is_file():
        return json.loads(curve.read_text())
    write_tokenizer(work, folder)
    tokenizer = load_tokenizer(folder)
    parts = []
    for domain in domains:
        text = (work / f"{domain}.train.txt").read_text()
        parts.append(torch.tensor(tokenizer(text, verbose=False)["input_ids"]))
    batches = [random_batches(p, ROWS // len(parts), SEQ, seed=7) for p in parts]
    torch.manual_seed(0)  # of transformers' initialisation
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)) if start is None else full(start)
    found = fit(
        model,
        lambda step, losses: torch.cat([batch(step, losses) for batch in batches]),
        FitSettings(save_every=200, **settings),
        work / f"{name}.state",
        learn=".",
        identity=digest(["next token", ROWS, SEQ, 7, [part.tolist() for part in parts]]),
    )
    model.save_pretrained(folder)
    curve.write_text(json.dumps({"losses": found.losses, "settings": settings}))
    print(f"{name}: {found.losses[0]:.3f} -> {statistics.mean(found.losses[-20:]):.3f}", flush=True)
    return json.loads(curve.read_text())


def score(work: Path, model: Path, part: str) -> dict[str, list[float]]:
    """Return the loss of every window of every domain, in nats per token."""
    task = TASKS.resolve({"method": "perplexity", "num_windows": NUM_WINDOWS, "window_tokens": SEQ})
    found = {}
    for domain in DOMAINS:
        out = work / "scores" / f"{model.name}.{domain}.{part}"
        if not (out / "result.json").is_file():
            evaluate(model, out, task, data=str(work / f"{domain}.{part}.txt"), overwrite=True)
        (samples,) = list(read_result(out).samples.values())[:1]
        found[domain] = samples
    return found


def mean(scores: dict[str, list[float]]) -> float:
    return statistics.mean(statistics.mean(values) for values in scores.values())


def interval(scores: dict[str, list[float]], other: dict[str, list[float]]) -> list[float]:
    """Return the 95 % interval of the mean difference, by a paired bootstrap inside each domain."""
    random = numpy_stream(0, "bootstrap")
    drawn = np.zeros(2000)
    for domain in DOMAINS:
        apart = np.array(scores[domain]) - np.array(other[domain])
        places = random.integers(len(apart), size=(len(drawn), len(apart)))
        drawn += apart[places].mean(axis=1) / len(DOMAINS)
    return [float(v) for v in np.quantile(drawn, [0.025, 0.975])]


def merged(work: Path, method: str, settings: dict, number: int) -> Path:
    """Merge the four experts; a method for two merges two pairs, and then those."""
    out = work / f"{method}-{number}"
    if (out / "result.json").is_file():
        return out
    experts = [work / domain for domain in DOMAINS]
    chosen, cls = METHODS.resolve({"method": method, **settings}), METHODS[method]
    options: dict = {"base": work / "base"} if cls.base == "required" else {}
    if cls.needs:
        options["text"] = [str(work / f"{domain}.train.txt") for domain in DOMAINS]
        options |= {"num_windows": 64, "window_tokens": SEQ}
    is_pair = cls.num_models[1] is not None
    if is_pair:
        halves = [work / f"{method}-{number}-half{i}" for i in range(2)]
        for half, pair in zip(halves, (experts[:2], experts[2:]), strict=True):
            merge(list(pair), half, chosen, overwrite=True, **options)
        experts = halves
    merge(experts, out, chosen, overwrite=True, **options)
    return out


def measure(work: Path, method: str) -> dict:
    """Choose the settings on the development texts and report on the test texts."""
    grid = GRIDS.get(method, [{}])
    tried = []
    for number, settings in enumerate(grid):
        folder = merged(work, method, settings, number)
        tried.append((mean(score(work, folder, "dev")), number, folder))
    dev, number, folder = min(tried)
    result: Result = read_result(folder)
    return {
        "settings": grid[number],
        "num_tried": len(grid),
        "dev": dev,
        "scores": score(work, folder, "test"),
        "merge_seconds": result.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/merge_experts"))
    parser.add_argument("--steps", type=int, default=400, help="of the base, and of each expert")
    arguments = parser.parse_args()
    work = arguments.work
    (work / "scores").mkdir(parents=True, exist_ok=True)
    write_texts(work, arguments.shared)
    settings = {"steps": 2 * arguments.steps, "learning_rate": 2e-3}
    losses = {"base": train(work, "base", DOMAINS, None, settings)}
    tuned = {"steps": arguments.steps, "learning_rate": 3e-4}
    for domain in DOMAINS:
        losses[domain] = train(work, domain, (domain,), work / "base", tuned)
    joint = {**tuned, "steps": 4 * arguments.steps}
    losses["joint"] = train(work, "joint", DOMAINS, work / "base", joint)

    known = {name: score(work, work / name, "test") for name in ("base", *DOMAINS, "joint")}
    known["best expert for each domain"] = {domain: known[domain][domain] for domain in DOMAINS}
    rows: dict[str, dict] = {name: {"scores": scores} for name, scores in known.items()}
    methods = [name for name in METHODS.table if name != "passthrough"]
    for method in methods:
        rows[method] = measure(work, method)
        print(f"{method:18} {mean(rows[method]['scores']):.4f}", flush=True)
    plain = rows["linear"]["scores"]
    for name, row in rows.items():
        scores = row.pop("scores")
        row["nats_per_token"] = mean(scores)
        row["by_domain"] = {domain: statistics.mean(values) for domain, values in scores.items()}
        row["minus_linear_95"] = interval(scores, plain)
        row["minus_joint_95"] = interval(scores, known["joint"])
        low, high = row["minus_linear_95"]
        print(
            f"{name:28} {row['nats_per_token']:.4f}  minus linear [{low:+.4f}, {high:+.4f}]  "
            f"{row.get('settings', '')}",
            flush=True,
        )
    figure = loss_figure({name: found["losses"] for name, found in losses.items()}, 50)
    content = {"shape": SHAPE, "rows": rows, "losses": figure.model_dump()}
    print(store.write("merge_experts", content))


if __name__ == "__main__":
    main()
