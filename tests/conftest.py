"""What every test shares: no network, one thread, its own cache, checked shapes, tiny models."""

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch  # before treadle: its shape annotations are real only where torch is loaded
from hypothesis import settings
from jaxtyping import install_import_hook

from cpu_budget import Budget

install_import_hook("treadle", "shape_checks.check")

from transformers.utils import logging  # noqa: E402

from treadle.core.cache import cache_folder  # noqa: E402  # after the hook
from treadle.model import tiny  # noqa: E402

torch.set_num_threads(1)
gc.freeze()
gc.set_threshold(100_000, 20, 20)
logging.disable_progress_bar()
settings.register_profile(
    "treadle", deadline=None, max_examples=25, derandomize=True, database=None
)
settings.load_profile("treadle")

pytest_plugins = ["pytester"]
Build = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Count what the fast tests cost; the slow ones may cost what they need."""
    if "not slow" in config.option.markexpr:
        config.pluginmanager.register(Budget(), "cpu-budget")


def pytest_collection_finish() -> None:
    """Set aside what was imported: it stays, and looking at it again and again costs time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the cache of a worker in a folder of its own, but for kernels, which compile once."""
    folder, kernels = tmp_path_factory.mktemp("cache"), cache_folder() / "native"
    with contextlib.suppress(OSError):  # then each worker compiles them
        kernels.mkdir(parents=True, exist_ok=True)
        (folder / "native").symlink_to(kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREADLE_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function from a model type and config overrides to a folder for reading."""
    made: dict[str, Path] = {}

    def build(model_type: str, **overrides: object) -> Path:
        key = repr((model_type, sorted(overrides.items())))
        if key not in made:
            made[key] = tiny.build(model_type, tmp_path_factory.mktemp(model_type), **overrides)
        return made[key]

    return build


@pytest.fixture(scope="session")
def llama(tiny_model: Build) -> Path:
    """Return a tiny llama with a tied head."""
    return tiny_model("llama")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a text file of some 3000 tokens."""
    import textwrap as page

    file = tmp_path_factory.mktemp("text") / "calibration.txt"
    file.write_text(Path(str(page.__file__)).read_text()[:9000])
    return str(file)
