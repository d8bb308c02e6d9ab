"""A tiny base of each architecture, experts of it, and what they are for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from combine.merge.conftest import Family
from combine.merge.models import variant

Kin = Callable[[str], Family]
WORDS = ("def main(self): return x", "the quick brown fox", "1 + 2 = 3 and so on")


@pytest.fixture(scope="session")
def kin(tiny_model, tmp_path_factory) -> Kin:
    """Return a function from a model type to a base and three experts, for reading."""
    made: dict[str, Family] = {}

    def build(model_type: str) -> Family:
        if model_type not in made:
            base, folder = tiny_model(model_type), tmp_path_factory.mktemp(f"{model_type}-kin")
            experts = [variant(base, folder / f"e{n}", n, scale=0.5) for n in (1, 2, 3)]
            made[model_type] = Family(base, experts)
        return made[model_type]

    return build


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Return a file of prompts for e1, e2 and e3."""
    file = tmp_path / "prompts.yaml"
    file.write_text("".join(f"e{n}: ['{text}']\n" for n, text in enumerate(WORDS, 1)))
    return file
