"""The driver of benchmarks: load a model into the runtime, measure, write the result."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.errors import SettingsError
from treadle.core.result import Measurement, Result, digest
from treadle.core.run import recorded
from treadle.core.timing import Stopwatch
from treadle.judge.bench import BENCHMARKS
from treadle.judge.bench.base import Benchmark

if TYPE_CHECKING:
    from treadle.runtime import LLM
    from treadle.runtime.executor import Executor

__all__ = ["bench"]


def bench(
    model: str | Path,
    out: Path,
    method: Benchmark | str,
    *,
    weights: str = "auto",
    num_threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Measure what a model costs on this machine and write the result.

    Args:
        model: Hugging Face folder (of floats, GPTQ, AWQ or compressed-tensors), GGUF file,
            packaged:smollm2, or a hub id.
        out: Folder for result.json.
        method: What is measured.
        weights: How matrices are held: fp32, fp16, q8, q4_0 or q4_1; auto keeps the codes of a
            quantised model, and holds others in fp32.
        num_threads: Threads of the native step (default: the physical cores).
        seed: Seed of the prompts.
        overwrite: Replace the result in `out`.
        trust_remote_code: Run code that the checkpoint brings along.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: `out` holds a result already, or the model is shorter than the requests.
        CheckpointError: The model cannot be read.
    """
    from treadle.model.load import resolve
    from treadle.model.source import open_model, source_hash
    from treadle.runtime import LLM
    from treadle.runtime.choice import choose_executor

    benchmark, out = BENCHMARKS.resolve(method), Path(out)
    settings = {**benchmark.settings(), "weights": weights, "num_threads": num_threads}
    with recorded("bench", benchmark, settings, seed=seed, out=out, overwrite=overwrite) as run:
        folder = resolve(model, takes_files=True)
        with open_model(folder) as reader:
            run.read("model", str(model), source_hash(folder), "model")
            run.read("config", "config.json", digest(reader.config), "config")
            run.bytes["input"] = reader.num_bytes
        with Stopwatch() as loading:
            executor = choose_executor(folder, weights, num_threads, trust_remote_code)
            llm = LLM(folder, executor=executor, enable_prefix_caching=False)
        answerer = _Answerer(llm, executor)
        run.measurements += benchmark.measure(answerer, seed)
        run.measurements.append(
            Measurement(
                name="load",
                value=loading.wall_seconds,
                unit="seconds, checked against transformers",
            )
        )
        run.notes.append(f"Computed by the {answerer.computed_by}.")
    return run.result


class _Answerer:
    """The runtime as benchmarks see it."""

    def __init__(self, llm: "LLM", executor: "Executor") -> None:
        from treadle.runtime.llama_step import LlamaStep

        self._llm, shape = llm, executor.shape
        self.vocab_size, self.max_positions = shape.vocab_size, shape.max_positions
        native = executor if isinstance(executor, LlamaStep) else None
        forms = ", ".join(sorted(native.weights.forms)) if native else "fp32"
        name = "native step" if native else "generic executor"
        self.computed_by = f"{name}, matrices in {forms}"
        self.bytes_per_token = native.weight_bytes if native else 0
        self.flops_per_token = 2 * native.num_weights if native else 0

    def answer(self, prompts: Sequence[Sequence[int]], num_new: int) -> None:
        """Continue every prompt by `num_new` tokens, in one batch."""
        from treadle.runtime import SamplingParams

        longest = max(map(len, prompts)) + num_new
        if longest > self.max_positions:
            raise SettingsError(
                f"Requests of {longest} tokens are longer than the model's {self.max_positions} "
                f"positions; lower prompt_tokens or new_tokens."
            )
        params = SamplingParams(max_tokens=num_new, temperature=0.0, ignore_eos=True)
        self._llm.generate([list(prompt) for prompt in prompts], params)

    def ask(self, question: str, num_new: int) -> tuple[str, int]:
        """Return the greedy answer of at most `num_new` tokens to a user, and its tokens."""
        from treadle.runtime import SamplingParams

        params = SamplingParams(max_tokens=num_new, temperature=0.0)
        (answer,) = self._llm.chat([{"role": "user", "content": question}], params)
        return answer.outputs[0].text, len(answer.outputs[0].token_ids)
