"""Both executors, and engines with adapters on them; not a test itself."""

from pathlib import Path

from naive import tokens_of
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
NATIVE = library("step") is not None
TIERS = ["generic", *(["native"] if NATIVE else [])]


def executor(tier: str, folder: Path, weights: str = "fp32", threads: int = 2):
    if tier == "generic":
        return GenericExecutor.from_folder(folder)
    return LlamaStep(folder, weights, threads)


def make(tier: str, llama: Path, folders: dict[str, Path], **settings) -> LLM:
    own = {"cache_bytes": 2**20, "kv_dtype": "fp32", "adapters": folders, **settings}
    return LLM(llama, executor=executor(tier, llama), **own)


def texts(count: int) -> list[list[int]]:
    return [tokens_of(1, 20 + place, seed=place)[0].tolist() for place in range(count)]
