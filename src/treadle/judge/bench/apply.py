"""The driver of benchmarks: load a model into the runtime, measure, write the result."""

from pathlib import Path
from typing import Any, Literal

from treadle.core.arguments import checked
from treadle.core.checkpoint.hashing import file_hash
from treadle.core.result import Measurement, Result, digest
from treadle.core.run import recorded
from treadle.core.timing import Stopwatch
from treadle.judge.bench.base import Benchmark
from treadle.judge.bench.tables import BENCHMARKS

__all__ = ["bench"]


@checked
def bench(
    model: str | Path,
    out: Path,
    method: Benchmark | str,
    *,
    weights: str = "auto",
    kv_dtype: Literal["fp32", "fp16", "int8", "int4"] = "fp16",
    num_threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Measure what a model costs on this machine and write the result.

    Args:
        model: Hugging Face folder (of floats, GPTQ, AWQ or compressed-tensors), GGUF file,
            packaged:smollm2, or a hub id.
        out: Folder for result.json.
        method: What is measured.
        weights: How matrices are held: fp32, fp16, q8, q4_0 or q4_1; auto keeps the codes of a
            quantised model, and holds others in fp32.
        kv_dtype: How keys and values are stored.
        num_threads: Threads of the native step (default: the physical cores).
        seed: Seed of the prompts.
        overwrite: Replace the result in `out`.
        trust_remote_code: Run code that the checkpoint brings along.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: `out` holds a result already, or the model is shorter than the requests.
        CheckpointError: The model cannot be read.
    """
    from treadle.model.load import resolve
    from treadle.model.source import open_model, source_hash
    from treadle.runtime import LLM
    from treadle.runtime.answering import RuntimeGenerator
    from treadle.runtime.choice import choose_executor

    benchmark, out = BENCHMARKS.resolve(method), Path(out)
    held = {"weights": weights, "kv_dtype": kv_dtype, "num_threads": num_threads}
    settings = {**benchmark.settings(), **held}
    with recorded("bench", benchmark, settings, seed=seed, out=out, overwrite=overwrite) as run:
        folder = resolve(model, takes_files=True)
        with open_model(folder) as reader:
            run.read("model", str(model), source_hash(folder), "model")
            run.read("config", "config.json", digest(reader.config), "config")
            run.bytes["input"] = reader.num_bytes
        for name, value in benchmark:
            if isinstance(value, Path) and value.is_file():
                run.read(name, str(value), file_hash(value), "data")
        with Stopwatch() as loading:
            executor = choose_executor(folder, weights, num_threads, trust_remote_code)
            is_caching = benchmark.repeats_prompts
            llm = LLM(
                folder, executor=executor, kv_dtype=kv_dtype, enable_prefix_caching=is_caching
            )
        generator = RuntimeGenerator(llm)
        if generator.bytes_per_token:
            run.bytes["held"] = generator.bytes_per_token
        run.notes.append(f"Computed by the {generator.computed_by}.")
        found = benchmark.measure(generator, seed)
        run.measurements += found.measurements
        run.figures += found.figures
        run.tables += found.tables
        run.notes += [note for note in found.warnings if note]
        run.measurements.append(
            Measurement(
                name="load",
                value=loading.wall_seconds,
                unit="seconds, checked against transformers",
            )
        )
    return run.result
