"""Damaged GGUF files, adapters and merge recipes: a named error, or a result; never a crash."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from damage import adapters, gguf_files, recipes
from damage.runs import Reader, outcome
from judge.evaluate.runs import measure
from products import few
from treadle import merge
from treadle.app.compat import compat
from treadle.combine.merge import merge_yaml
from treadle.runtime import LLM, SamplingParams

Copied = Callable[[str], Path]
GREEDY = SamplingParams(temperature=0, max_tokens=3)
GGUF = (
    *("cut: 60%", "4611686018427387904 tensors", "4611686018427387904 keys", "bits of the keys 2"),
    *("llama.attention.head_count = 0", "llama.block_count = 2147483648", "a web page"),
    *("blk.0.attn_q.weight of type 99", "blk.0.attn_q.weight at 4611686018427387904"),
)
ADAPTERS = (
    *("config '[[[[[[[[[[[[[[[[[[[['", "r [4]", "lora_alpha None", "rank_pattern {'(': 4}"),
    *("cut: half", "ranks differ", "nan inside", "modules_to_save ['lm_head']"),
)
RECIPES = ("deep", "a bomb", "a tag that runs code", "weight .nan", "layer_range [1, 0]", "binary")


def _gguf(folder: Path, out: Path, text: str, sound: Path) -> None:
    file = folder / "model.gguf"
    LLM(file, cache_bytes=1 << 20).generate([[5, 6, 7]], GREEDY)
    measure(file, out, text, through="runtime")


@pytest.mark.parametrize("name", few(gguf_files.DAMAGES, *GGUF))
def test_a_damaged_gguf_file(
    name: str, copied: Copied, llama: Path, text: str, tmp_path: Path
) -> None:
    folder = copied("gguf")
    gguf_files.DAMAGES[name](folder / "model.gguf")
    found = outcome(_gguf, folder, tmp_path / "out", text, llama)
    assert not found.fault, found.fault


def _answers(folder: Path, out: Path, text: str, sound: Path) -> np.ndarray:
    llm = LLM(sound, cache_bytes=1 << 20)
    llm.add_adapter("a", folder)
    return _read(llm, "a")


def _read(llm: LLM, adapter: str | None = None) -> np.ndarray:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    (answer,) = llm.generate([[5, 6, 7, 8]], params, adapter=adapter)
    chosen = zip(answer.prompt_logprobs[1:], [6, 7, 8], strict=True)
    return np.array([place[token] for place, token in chosen])


def _merged(folder: Path, out: Path, text: str, sound: Path) -> np.ndarray:
    merge([f"{sound}+{folder}"], out, "passthrough", workers=1)
    made = out.rename(out.with_name("merged"))
    return _read(LLM(made, cache_bytes=1 << 20, weights="fp32"))


def _scored(folder: Path, out: Path, text: str, sound: Path) -> None:
    measure(sound, out, text, through="runtime", adapter=folder)


def _judged(folder: Path, out: Path, text: str, sound: Path) -> None:
    compat(folder)


USERS: dict[str, Reader] = {
    "LLM": _answers,
    "merge": _merged,
    "evaluate": _scored,
    "compat": _judged,
}
"""Every verb that takes an adapter."""


@pytest.mark.parametrize("name", few(adapters.DAMAGES, *ADAPTERS))
def test_a_damaged_adapter(
    name: str, copied: Copied, llama: Path, text: str, tmp_path: Path
) -> None:
    folder = copied("adapter")
    adapters.DAMAGES[name](folder)
    found = {
        verb: outcome(user, folder, tmp_path / "out", text, llama) for verb, user in USERS.items()
    }
    assert not {verb: one.fault for verb, one in found.items() if one.fault}
    beside, merged = found["LLM"], found["merge"]
    # Beside the model there are linear maps alone, and what overflows is seen where it is added.
    if not beside.error and not merged.error:
        np.testing.assert_allclose(beside.losses, merged.losses, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", few(adapters.HARMLESS, "keys of nobody"))
def test_a_sound_adapter(name: str, copied: Copied, llama: Path, text: str, tmp_path: Path) -> None:
    folder = copied("adapter")
    expected = _answers(folder, tmp_path / "out", text, llama)
    adapters.HARMLESS[name](folder)
    for verb, user in USERS.items():
        found = outcome(user, folder, tmp_path / "out", text, llama)
        assert not found.fault + found.error, verb
        if found.losses is not None:
            np.testing.assert_allclose(found.losses, expected, atol=1e-3)


@pytest.mark.parametrize("name", few(recipes.RECIPES, *RECIPES))
def test_a_wrong_recipe(
    name: str, tiny_model: Callable[..., Path], text: str, tmp_path: Path
) -> None:
    first, second = tiny_model("llama"), tiny_model("llama", rms_norm_eps=1e-6)
    folder = tmp_path / "recipe"
    folder.mkdir()
    written = recipes.RECIPES[name].replace("path: A", f"path: {first}")
    for letter, model in (("A", first), ("B", second)):
        written = written.replace(f"model: {letter}", f"model: {model}")
    (folder / "merge.yaml").write_text(written)
    found = outcome(
        lambda given, out, *_: merge_yaml(given / "merge.yaml", out, workers=1) and None,
        folder,
        tmp_path / "out",
        text,
        first,
    )
    assert not found.fault, found.fault
