"""A study of results, and its page, made once."""

from pathlib import Path

import made_results as made
import pytest
from made_results import page_of


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study") / "results"
    made.study(root)
    return root


@pytest.fixture(scope="session")
def study_page(study: Path) -> str:
    return page_of(study)
