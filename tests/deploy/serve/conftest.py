"""One server for the tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from treadle.model import tiny
from treadle.runtime import LLM

from .servers import Running, add_template, loaded, running


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny llama with a chat template and a longer context."""
    folder = tmp_path_factory.mktemp("chatty")
    return add_template(tiny.build("llama", folder, max_position_embeddings=1024))


@pytest.fixture(scope="session")
def llm(chatty: Path) -> LLM:
    """Return the same model in process."""
    return LLM(chatty, weights="fp32")


@pytest.fixture(scope="session")
def server(chatty: Path) -> Iterator[Running]:
    """Return a server of the tiny model."""
    with running(loaded(chatty)) as found:
        yield found


@pytest.fixture(scope="session")
def client(server: Running) -> Iterator[openai.OpenAI]:
    """Return the official client of that server."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as found:
        yield found


@pytest.fixture(scope="session")
def web(server: Running) -> Iterator[httpx.Client]:
    """Return a plain client of that server, which keeps its connection."""
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as found:
        yield found
