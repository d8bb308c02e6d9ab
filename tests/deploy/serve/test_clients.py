"""The scripts of examples/clients, each with the real client against a running server.

OpenAI's runs always; the others where their packages are: here, or in the environment whose
interpreter TREADLE_CLIENTS_PYTHON names.
"""

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from treadle.deploy.serve.opening import open_all
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.model import tiny

from .bundles import bundle
from .servers import Running, add_template, loaded, running

SCRIPTS = Path(__file__).parents[3] / "examples" / "clients"
PACKAGES = {
    "anthropic": ("anthropic", "anthropic"),
    "instructor": ("instructor", "instructor"),
    "langchain_openai": ("langchain_openai", "langchain-openai"),
    "litellm": ("litellm", "litellm"),
    "openai_agents": ("agents", "openai-agents"),
    "pydantic_ai": ("pydantic_ai", "'pydantic-ai-slim[openai]'"),
}
"""Client -> the module that it needs, and how pip calls it."""
ELSEWHERE = os.environ.get("TREADLE_CLIENTS_PYTHON")


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server whose model has room for an agent that calls its tools again and again."""
    folder = tiny.build("llama", tmp_path_factory.mktemp("roomy"), max_position_embeddings=8192)
    with running(loaded(add_template(folder))) as found:
        yield found


def test_every_script_is_run():
    scripts = {file.stem.removesuffix("_client") for file in SCRIPTS.glob("*.py")}
    assert scripts == {"openai", "routed", *PACKAGES}


def test_openais_client(server, monkeypatch, capsys):
    script = str(SCRIPTS / "openai_client.py")
    monkeypatch.setattr("sys.argv", [script, server.url, "tiny"])
    runpy.run_path(script, run_name="__main__")
    said = capsys.readouterr().out
    for line in ("stream: ", "call: place=", "form: place=", "response: place=", "too long: con"):
        assert f"\n{line}" in said


def test_a_routers_client(monkeypatch, capsys, tmp_path):
    script = str(SCRIPTS / "routed_client.py")
    opened = open_all([f"both={bundle(tmp_path)}"], (), ServeEngineSettings(weights="fp32"))
    with running(opened.models, routers=opened.routers) as found:
        monkeypatch.setattr("sys.argv", [script, found.url, "auto"])
        runpy.run_path(script, run_name="__main__")
    said = capsys.readouterr().out
    assert "chooses among: words, sums\nanswered by: sums - chosen by: auto" in said
    for line in ("goes on with: sums", "by its name: sums", "no vectors: one_model_needed"):
        assert f"\n{line}" in said


@pytest.mark.parametrize("client", PACKAGES)
def test_another_client(request, client):
    module, package = PACKAGES[client]
    if ELSEWHERE is None and find_spec(module) is None:
        pytest.skip(f"pip install {package}, or name an interpreter by TREADLE_CLIENTS_PYTHON")
    url = request.getfixturevalue("roomy").url
    ended = subprocess.run(
        [ELSEWHERE or sys.executable, SCRIPTS / f"{client}_client.py", url, "tiny"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(ended.stdout.splitlines()) > 5, ended.stdout
