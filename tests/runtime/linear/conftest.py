"""Adapters of one model, and an engine that holds them."""

from pathlib import Path

import pytest

from runtime.adapters import modules, write_adapter
from runtime.linear.tiers import TIERS, make
from treadle.runtime import LLM


@pytest.fixture(scope="module")
def folders(llama, tmp_path_factory) -> dict[str, Path]:
    """Three adapters: all matrices, a small one on two of them, and one of another rank."""
    home = tmp_path_factory.mktemp("adapters")
    some = modules(["self_attn.q_proj", "mlp.down_proj"])
    return {
        "all": write_adapter(home / "all", llama, seed=1),
        "some": write_adapter(home / "some", llama, some, rank=8, seed=2),
        "odd": write_adapter(home / "odd", llama, rank=3, seed=3, size=0.2, use_rslora=True),
    }


@pytest.fixture(params=TIERS)
def engine(request, llama, folders) -> LLM:
    return make(request.param, llama, folders)
