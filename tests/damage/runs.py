"""What a verb makes of a folder: a named error, or the right result; not a test itself.

The right result is what transformers computes from the same folder, if it reads all of it.
"""

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from judge.evaluate.runs import measure
from naive import config_of, plain_losses, tokens_of
from treadle import merge, prune, quantize
from treadle.app.compat import compat
from treadle.app.export import export
from treadle.combine.merge.inspect import merge_inspect
from treadle.core.errors import TreadleError
from treadle.runtime import LLM, SamplingParams

__all__ = ["KNOWN", "READERS", "Outcome", "fingerprints", "oracle", "outcome"]

TOKENS = tokens_of(2, 24, seed=11)
Losses = np.ndarray


KNOWN = frozenset(CONFIG_MAPPING)
"""What transformers has a config for; weights of other architectures are moved, not understood."""


class Outcome(NamedTuple):
    """What came of a verb."""

    error: str
    """The named error; empty where it went well."""
    losses: Losses | None
    """Of what was asked, or of what was written, where there is a model."""
    fault: str
    """What must never be: another error than a named one, or an input that changed."""


def _answers(folder: Path, out: Path, text: str, sound: Path) -> Losses:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    llm = LLM(folder, weights="fp32", kv_dtype="fp32", cache_bytes=1 << 20)
    answers = llm.generate([row.tolist() for row in TOKENS], params)
    return np.array(
        [
            [-place[token] for place, token in zip(a.prompt_logprobs[1:], row[1:], strict=True)]
            for a, row in zip(answers, TOKENS.tolist(), strict=True)
        ]
    )


def _evaluated(folder: Path, out: Path, text: str, sound: Path) -> None:
    measure(folder, out, text)


def _pruned(folder: Path, out: Path, text: str, sound: Path) -> Losses:
    prune(folder, out, "magnitude", sparsity=0.0)
    return read_by_transformers(out)


def _quantised(folder: Path, out: Path, text: str, sound: Path) -> None:
    quantize(folder, out, "rtn", group=16)


def _merged(folder: Path, out: Path, text: str, sound: Path) -> Losses | None:
    merge([folder, folder], out, "linear", workers=1)
    return _read_if_known(out)


def _exported(folder: Path, out: Path, text: str, sound: Path) -> Losses | None:
    export(folder, out, dtype="float32")
    return _read_if_known(out)


def _read_if_known(folder: Path) -> Losses | None:
    """What transformers computes, of an architecture that it knows: weights of others are moved."""
    return read_by_transformers(folder) if config_of(folder).get("model_type") in KNOWN else None


def _judged(folder: Path, out: Path, text: str, sound: Path) -> None:
    assert str(compat(folder))


def _compared(folder: Path, out: Path, text: str, sound: Path) -> None:
    merge_inspect([folder, sound])


Reader = Callable[[Path, Path, str, Path], Losses | None]
READERS: dict[str, Reader] = {
    "LLM": _answers,
    "evaluate": _evaluated,
    "prune": _pruned,
    "quantize": _quantised,
    "merge": _merged,
    "export": _exported,
    "compat": _judged,
    "inspect": _compared,
}
"""Every verb that reads a model folder."""


def read_by_transformers(folder: Path) -> Losses:
    """What transformers computes of a folder that it reads whole.

    Raises:
        ValueError: It would draw weights anew.
    """
    module, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if told.get(kind):
            raise ValueError(f"{kind}: {told[kind]}")
    return plain_losses(module.eval(), TOKENS).numpy()


def oracle(folder: Path) -> Losses | str:
    """What transformers computes of the folder, or why it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_by_transformers(folder)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return found if np.isfinite(found).all() else "not finite"


def fingerprints(folder: Path) -> dict[str, str]:
    """What lies in a folder, and what it holds."""
    return dict(_fingerprints(folder))


def _fingerprints(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            yield name, f"link to {os.readlink(path)}"
        elif path.is_file():
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            yield name, "other"


def outcome(reader: Reader, folder: Path, out: Path, text: str, sound: Path) -> Outcome:
    """Run a verb on a folder and look at what it left behind."""
    before, error, losses, fault = fingerprints(folder), "", None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            losses = reader(folder, out, text, sound)
        except TreadleError as refusal:
            error = f"{type(refusal).__name__}: {refusal}"
        except Exception as crash:
            fault = f"{type(crash).__name__}: {crash}"
    if fingerprints(folder) != before:
        fault = fault or "the input changed"
    if error and out.exists():
        fault = fault or "an output was left behind"
    shutil.rmtree(out, ignore_errors=True)
    return Outcome(error, losses, fault)
