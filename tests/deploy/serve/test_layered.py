"""Bundles of layers behind the server: one model, and a mixture of experts for each request."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from combine.merge.conflict import bundles
from treadle.core.checkpoint.layered import expert_file
from treadle.core.errors import CheckpointError, SettingsError
from treadle.deploy.serve.opening import open_all
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.model import tiny
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams

from .servers import add_template, running

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
FP32 = ServeEngineSettings(weights="fp32")
KNOWN, STRANGE = bundles.KINDS["sums"][5], "Ein Satz, der mit alledem nichts zu tun hat!"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("layered")
    base = add_template(tiny.build("llama", made / "base", seed=1, max_position_embeddings=512))
    models = bundles.variants(base, made)
    return bundles.whole(base, models, made / "b", density=0.3, data=bundles.questions(made))


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx.Client]:
    opened = open_all([f"both={folder}"], (), FP32)
    with (
        running(opened.models, routers=opened.routers) as found,
        httpx.Client(base_url=found.url, timeout=120) as client,
    ):
        yield client


def test_a_request_is_answered_by_its_mixture_and_the_reply_says_so(http: httpx.Client, folder):
    llm = LLM(folder, weights="fp32", cache_bytes=4 << 20)
    params = SamplingParams(max_tokens=6, temperature=0)
    for text in (KNOWN, STRANGE):
        (shares,) = llm.route([text])
        body = {"prompt": text, "max_tokens": 6, "temperature": 0}
        for router in ("both", "auto", None):
            asked = body if router is None else {**body, "model": router}
            found = http.post("/v1/completions", json=asked)
            assert found.status_code == 200, found.text
            said = ",".join(f"{name}={share:g}" for name, share in shares.items())
            assert found.json()["model"] == (said if len(shares) > 1 else next(iter(shares)))
            (wanted,) = llm.generate([text], params)
            assert found.json()["choices"][0]["text"] == wanted.outputs[0].text


def test_experts_and_the_model_beside_them_are_models_of_their_own(http: httpx.Client, folder):
    names = [one["id"] for one in http.get("/v1/models").json()["data"]]
    assert names == ["e1", "e2", "both/dense", "both", "auto"]
    llm = LLM(folder, weights="fp32", cache_bytes=4 << 20)
    params = SamplingParams(max_tokens=6, temperature=0)
    for name, adapter in (("e1", "e1"), ("e2", "e2"), ("both/dense", "dense")):
        body = {"model": name, "prompt": STRANGE, "max_tokens": 6, "temperature": 0}
        found = http.post("/v1/completions", json=body).json()
        (wanted,) = llm.generate([STRANGE], params, adapter=adapter)
        assert (found["model"], found["choices"][0]["text"]) == (name, wanted.outputs[0].text)


def test_a_conversation_is_routed_by_its_first_message_not_by_its_template(http: httpx.Client):
    talk = [{"role": "user", "content": KNOWN}]
    body = {"model": "both", "messages": talk, "max_tokens": 2, "temperature": 0}
    first = http.post("/v1/chat/completions", json=body).json()["model"]
    talk += [{"role": "assistant", "content": "5"}, {"role": "user", "content": STRANGE}]
    assert first in ("e1", "e2")
    assert http.post("/v1/chat/completions", json=body).json()["model"] == first


def test_without_a_router_the_dense_model_answers(tmp_path: Path):
    base = tiny.build("llama", tmp_path / "base", seed=1, max_position_embeddings=512)
    bundle = bundles.whole(base, bundles.variants(base, tmp_path), tmp_path / "b")
    opened = open_all([f"both={bundle}"], (), FP32)
    with running(opened.models, routers=opened.routers) as found:
        body = {"model": "both", "prompt": STRANGE, "max_tokens": 2}
        answer = httpx.post(f"{found.url}/v1/completions", json=body, timeout=60)
    assert answer.json()["model"] == "both/dense"


def test_what_cannot_be_served_is_refused_at_the_start(folder: Path, tmp_path: Path):
    other = tiny.build("llama", tmp_path / "e1", seed=5)
    with pytest.raises(SettingsError, match="has a model 'e1'"):
        open_all([str(folder), str(other)], (), FP32)
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    expert_file(damaged, "e2").unlink()
    with pytest.raises(CheckpointError, match="copy the whole folder again"):
        open_all([str(damaged)], (), FP32)
