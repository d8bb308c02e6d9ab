"""Executors of a tiny model, and its folder with drawn retaining heads."""

import pytest

from runtime.retained import with_heads
from treadle.native.loader import library
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor


@pytest.fixture(scope="session")
def retained(tiny_model, tmp_path_factory):
    """A folder that carries heads of all policies that have some."""
    return with_heads(tiny_model("qwen3"), tmp_path_factory.mktemp("retained") / "qwen3")


@pytest.fixture(scope="session", params=["generic", "native"])
def stepping(request, retained):
    """Each executor of that model."""
    return stepping_of(request.param, retained)


@pytest.fixture(scope="session", params=["generic", "native"])
def plain_stepping(request, tiny_model):
    """Each executor of a model whose keys have lengths of their own."""
    return stepping_of(request.param, tiny_model("llama"))


def stepping_of(name, folder):
    if name == "generic":
        return GenericExecutor.from_folder(folder)
    if library("step") is None:
        pytest.skip("no compiler")
    return LlamaStep(folder, "fp32", 1)
