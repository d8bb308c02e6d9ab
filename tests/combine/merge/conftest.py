"""A tiny base and three variants of it."""

from pathlib import Path
from typing import NamedTuple

import pytest

from combine.merge.models import variant


class Family(NamedTuple):
    base: Path
    experts: list[Path]


@pytest.fixture(scope="session")
def family(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    return Family(llama, [variant(llama, folder / f"expert{n}", n) for n in (1, 2, 3)])


@pytest.fixture(scope="session")
def half_family(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The same in bfloat16."""
    folder = tmp_path_factory.mktemp("half")
    base = variant(llama, folder / "base", 0, dtype="BF16")
    return Family(base, [variant(llama, folder / f"e{n}", n, dtype="BF16") for n in (1, 2, 3)])
