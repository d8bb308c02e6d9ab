"""Damaged model folders: each verb refuses by name, or computes what transformers does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from damage import configs, weight_files
from damage.runs import KNOWN, READERS, oracle, outcome
from naive import config_of
from products import few
from treadle.core.errors import CheckpointError

DAMAGES = weight_files.DAMAGES | configs.DAMAGES
HARMLESS = weight_files.HARMLESS | configs.HARMLESS
SAMPLE = (
    *("cut: half", "header length 18446744073709551615", "header bits 3", "an LFS pointer"),
    *("header is deep", "shape [64, -96]", "a pipe", "index of lists", "a layer more"),
    *("without self_attn.q_proj.weight", "nan in model.norm.weight", "a matrix turned"),
    *("config '[]'", "num_attention_heads 0", "num_hidden_layers beyond all memory"),
    *("model_type ['llama']", "tokenizer 'null'", "generation config '[]'", "tie 'yes'"),
)
ENDLESS = ("a pipe", "num_hidden_layers beyond all memory")
"""What transformers would read or build for ever."""


def reads(folder: Path) -> bool:
    """Whether transformers knows what kind of model a folder says that it is."""
    try:
        return config_of(folder).get("model_type") in KNOWN
    except (ValueError, OSError, AttributeError, TypeError):
        return True


@pytest.mark.parametrize("name", few(DAMAGES, *SAMPLE))
def test_a_damaged_folder_is_refused_or_read_rightly(
    name: str, copied: Callable[[str], Path], llama: Path, text: str, tmp_path: Path
) -> None:
    folder = copied("llama")
    DAMAGES[name](folder)
    expected = "it never ends" if name in ENDLESS else oracle(folder)
    for verb, reader in READERS.items():
        found = outcome(reader, folder, tmp_path / "out", text, llama)
        assert not found.fault, f"{verb}: {found.fault}"
        if found.error or verb in ("compat", "inspect") or not reads(folder):
            continue
        if isinstance(expected, str):  # what overflows is only seen where it is computed
            assert expected == "not finite", f"{verb} takes what transformers does not: {expected}"
            assert verb not in ("LLM", "evaluate")
        elif found.losses is not None:
            np.testing.assert_allclose(found.losses, expected, atol=1e-3, err_msg=verb)


@pytest.mark.parametrize("name", few(HARMLESS, "nothing", "two shards"))
def test_what_does_no_harm_is_read(
    name: str, copied: Callable[[str], Path], llama: Path, text: str, tmp_path: Path
) -> None:
    folder = copied("llama")
    HARMLESS[name](folder)
    expected = oracle(llama)
    for verb, reader in READERS.items():
        if verb == "inspect" and name == "without the prefix":
            continue  # it compares names as they are
        found = outcome(reader, folder, tmp_path / "out", text, llama)
        assert not found.fault, f"{verb}: {found.fault}"
        assert not found.error, f"{verb}: {found.error}"
        if found.losses is not None:
            np.testing.assert_allclose(found.losses, expected, atol=1e-3, err_msg=verb)


MIXTURE = {
    "an expert short": weight_files.without("model.layers.1.block_sparse_moe.experts.2.w1"),
    "a router short": weight_files.without("model.layers.0.block_sparse_moe.gate"),
    "an expert turned": weight_files.tensor(
        "model.layers.0.block_sparse_moe.experts.0.w2.weight", lambda w: w.T
    ),
    "an expert more": weight_files.added(
        "model.layers.0.block_sparse_moe.experts.4.w1.weight", 96, 64
    ),
    "experts beyond all memory": configs.said(num_local_experts=2**31),
    "fewer experts": configs.said(num_local_experts=3),
    "more experts": configs.said(num_local_experts=5),
    "no experts": configs.said(num_local_experts=0),
    "more experts a token than there are": configs.said(num_experts_per_tok=9),
}


@pytest.mark.parametrize("name", few(MIXTURE, "an expert short", "experts beyond all memory"))
def test_a_damaged_mixture_is_refused(
    name: str,
    copied: Callable[[str], Path],
    tiny_model: Callable[..., Path],
    text: str,
    tmp_path: Path,
) -> None:
    folder = copied("mixtral")
    MIXTURE[name](folder)
    for verb, reader in READERS.items():
        found = outcome(reader, folder, tmp_path / "out", text, tiny_model("mixtral"))
        assert not found.fault, f"{verb}: {found.fault}"
        if verb not in ("compat", "inspect"):
            assert found.error or name == "more experts a token than there are", verb


def test_a_changed_input_is_seen(llama: Path, tmp_path: Path, text: str) -> None:
    """The harness finds what it is there to find."""
    folder = tmp_path / "model"
    folder.mkdir()

    def spoils(folder: Path, out: Path, text: str, sound: Path) -> None:
        (folder / "x").write_text("y")
        raise CheckpointError("refused, but too late")

    assert outcome(spoils, folder, tmp_path / "out", text, llama).fault == "the input changed"
    crashed = outcome(lambda *_: {}["x"], folder, tmp_path / "out", text, llama)
    assert crashed.fault.startswith("KeyError")
