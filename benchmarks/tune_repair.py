"""Repair: a model pruned to 2:4 learns from its dense self, and from the same tokens alone.

SparseGPT prunes the packaged model; then the same windows of text are learned in two ways, as many
tokens each: by distillation from the dense model, and by cross-entropy (SFT on text), the control.
Measured are nats per token on other text, what share of the gap to dense is closed, whether every
zero stayed, and what it costs.

With --own-tokens the text that is learned is the dense model's own: it goes on, at temperature 1,
from the first words of windows of TRAIN.txt. Cross-entropy then cannot learn what the dense model
does not know; on other people's text it can, and that counts as repair, too.

Usage: python benchmarks/tune_repair.py --text TRAIN.txt --heldout TEST.txt --work FOLDER
"""

import argparse
from pathlib import Path

import numpy as np
import store

from treadle.core.checkpoint import CheckpointReader
from treadle.core.result import Result, read_result
from treadle.core.seed import numpy_stream
from treadle.judge.evaluate import evaluate
from treadle.learn.tune import tune
from treadle.runtime import LLM, SamplingParams
from treadle.shrink.prune import prune


def zeros(folder: Path) -> dict[str, np.ndarray]:
    with CheckpointReader(folder) as reader:
        names = [name for name in reader.tensors if "_proj" in name]
        return {name: np.asarray(reader.array(name), np.float32) == 0 for name in names}


def nats(model: str | Path, out: Path, heldout: str, windows: int) -> Result:
    if (out / "result.json").is_file():
        return read_result(out)
    return evaluate(model, out, "perplexity", data=heldout, num_windows=windows, window_tokens=512)


def own_text(model: str, source: str, file: Path, num_tokens: int, seed: int) -> str:
    """Write what a model says by itself, as one text, and return the file."""
    if not file.is_file():
        llm = LLM(model, max_num_seqs=16)
        words = Path(source).read_text().split()
        length, start = 480, 6
        starts = numpy_stream(seed, "own text").integers(
            0, len(words) - start, num_tokens // length
        )
        prompts = [" ".join(words[place : place + start]) for place in starts]
        asked = [
            SamplingParams(max_tokens=length, temperature=1.0, seed=place, ignore_eos=True)
            for place in range(len(prompts))
        ]
        answers = llm.generate(prompts, asked)
        texts = [p + a.outputs[0].text for p, a in zip(prompts, answers, strict=True)]
        file.write_text("\n\n".join(texts))
    return str(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--heldout", required=True, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--tokens", type=int, default=98_304)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--own-tokens", type=int, default=0)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    pruned = work / "pruned"
    if not pruned.is_dir():
        prune(
            arguments.model,
            pruned,
            "sparsegpt",
            pattern=arguments.pattern,
            text=arguments.text,
            num_windows=64,
        )
    text, heldout = arguments.text, list(arguments.heldout)
    if arguments.own_tokens:
        text = own_text(arguments.model, text, work / "own.txt", arguments.own_tokens, 0)
        num = 600 * arguments.windows
        heldout.append(own_text(arguments.model, heldout[0], work / "own-heldout.txt", num, 1))
    settings = {
        "text": text,
        "window_tokens": 512,
        "rows": arguments.rows,
        "steps": arguments.tokens // (512 * arguments.rows),
        "learning_rate": arguments.learning_rate,
    }
    runs = {}
    for name, method, more in (
        ("distilled", "distill", {"teacher": arguments.model}),
        ("cross_entropy", "sft", {}),
    ):
        folder = work / name
        done = (folder / "result.json").is_file()
        runs[name] = (
            read_result(folder) if done else tune(pruned, folder, method, **settings, **more)
        )
    places = {"dense": arguments.model, **{n: work / n for n in ("pruned", *runs)}}
    found: dict[str, dict[str, float]] = {}
    closed: dict[str, dict[str, float]] = {}
    for number, data in enumerate(heldout):
        said = {}
        for name, place in places.items():
            result = nats(place, work / f"evaluated-{number}-{name}", data, arguments.windows)
            said[name] = float(np.log(result.measurement("perplexity").value))
        gap = said["pruned"] - said["dense"]
        found[data] = said
        closed[data] = {name: (said["pruned"] - said[name]) / gap for name in runs}
    before = zeros(pruned)
    kept = {
        name: all(np.array_equal(before[key], mask) for key, mask in zeros(work / name).items())
        for name in runs
    }
    for data, said in found.items():
        print(data)
        for name, value in said.items():
            share = f", closes {closed[data][name]:.1%} of the gap" if name in runs else ""
            print(f"  {name:14} {value:.4f} nats per token (perplexity {np.exp(value):.2f}){share}")
    for name, run in runs.items():
        print(
            f"{name:14} zeros kept: {kept[name]}, "
            f"{run.measurement('tokens').value:.0f} tokens, {run.cpu_seconds:.0f} CPU s, "
            f"peak {run.peak_memory_bytes / 1e9:.2f} GB"
        )
    store.write(
        "tune_repair",
        {
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "nats_per_token": found,
            "closed_fraction": closed,
            "zeros_kept": kept,
            "cpu_seconds": {name: run.cpu_seconds for name, run in runs.items()},
            "peak_bytes": {name: run.peak_memory_bytes for name, run in runs.items()},
        },
    )


if __name__ == "__main__":
    main()
