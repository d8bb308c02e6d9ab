"""A live request moves to another engine and goes on with the same tokens."""

import json
import os
import shutil

import pytest

from products import fast_where
from treadle.core.errors import CapacityError, CheckpointError, SettingsError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.request import RequestState
from treadle.runtime.transformers_step.generic import GenericExecutor

PROMPT = [(7 * place) % 300 + 1 for place in range(37)]
PARAMS = SamplingParams(temperature=1.3, max_tokens=20, ignore_eos=True, stop="\u0000\u0000")


@pytest.fixture(scope="module")
def executor(llama):
    return GenericExecutor.from_folder(llama)


@pytest.fixture
def make(llama, executor):
    return lambda **options: LLM(llama, executor=executor, cache_bytes=2**20, **options)


def expected(make) -> list[int]:
    (out,) = make().generate([PROMPT], PARAMS)
    return out.outputs[0].token_ids


def finish(engine: LLM, request) -> None:
    while request.state is not RequestState.FINISHED:
        engine.step()


def through_json(exported):
    return exported._replace(state=json.loads(json.dumps(exported.state)))


@pytest.mark.parametrize(
    ("num_steps", "kv_dtype"),
    fast_where(
        lambda num_steps, kv_dtype: (num_steps in (1, 9)) == (kv_dtype == "int8"),
        *([0, 1, 2, 9, 15], ["fp32", "int8"]),
    ),
)
def test_goes_on_with_equal_tokens(make, num_steps, kv_dtype):
    """Whether it waits, is in the middle of its prompt, or generates."""
    options = {"kv_dtype": kv_dtype, "max_num_batched_tokens": 20}
    whole = expected(lambda: make(**options))
    source, target = make(**options), make(seed=99, **options)
    (request,) = source.submit(PROMPT, PARAMS, request_id="request-1")
    for _ in range(num_steps):
        source.step()
    source.pause(request.id)
    target.import_pages(through_json(source.export_pages(request.id)))
    moved = target.commit(request.id)
    source.forget(request.id)
    before = target.load_report().num_rows
    finish(target, moved)
    assert request.finish_reason == "migrated"
    assert moved.outputs == whole
    new_rows = target.load_report().num_rows - before
    assert new_rows == len(PROMPT) + 19 - request.num_computed


def test_pages_are_copied_while_it_runs(make):
    """Two stages: full pages beside decoding, then the tail; the target computes nothing again."""
    whole = expected(make)
    source, target = make(page_size=4), make(page_size=4)
    (request,) = source.submit(PROMPT, PARAMS, request_id="request-1")
    for _ in range(3):
        source.step()
    first = source.export_pages(request.id)
    target.import_pages(first)
    for _ in range(6):
        source.step()
    second = source.export_pages(request.id, first_page=first.num_pages)
    target.import_pages(second)
    for _ in range(3):
        source.step()
    source.pause(request.id)
    last = source.export_pages(request.id, first.num_pages + second.num_pages)
    target.import_pages(last)
    assert last.num_pages <= 2
    assert last.num_bytes < first.num_bytes
    moved = target.commit(request.id)
    source.forget(request.id)
    finish(target, moved)
    assert moved.outputs == whole
    assert target.load_report().num_rows == len(PROMPT) + 19 - request.num_computed
    assert source.load_report().num_free_pages + source.load_report().num_cached_pages == (
        source.load_report().num_pages
    )


def test_a_reservation_that_lost_its_pages_is_computed_again(make):
    whole = expected(make)
    source, target = make(), make()
    (request,) = source.submit(PROMPT, PARAMS, request_id="request-1")
    for _ in range(4):
        source.step()
    first = source.export_pages(request.id)
    target.import_pages(first)
    pool = target._batch.pool
    pool.release(target._batch.borrow(pool.num_pages))
    source.step()
    source.pause(request.id)
    target.import_pages(source.export_pages(request.id, first.num_pages))
    moved = target.commit(request.id)
    source.forget(request.id)
    finish(target, moved)
    assert moved.outputs == whole


def test_resumes_at_the_source_when_the_target_refuses(make, llama, executor):
    whole = expected(make)
    source = make()
    target = LLM(llama, executor=executor, cache_bytes=2**15)
    held, _ = (
        target.submit([5] * 20, SamplingParams(n=2, max_tokens=8), request_id="o"),
        target.step(),
    )
    (request,) = source.submit(PROMPT, PARAMS, request_id="request-1")
    for _ in range(4):
        source.step()
    source.pause(request.id)
    exported = source.export_pages(request.id)
    free = target._batch.pool.allocate(target._batch.pool.num_free)
    with pytest.raises(CapacityError, match=r"pages are to be imported and 0 are free; import"):
        target.import_pages(exported)
    target._batch.pool.release(free)
    assert held[0].id in target._batch
    source.resume(request.id)
    finish(source, request)
    assert request.outputs == whole


def test_wrong_imports_are_refused(make):
    source = make()
    (request,) = source.submit(PROMPT, PARAMS)
    for _ in range(3):
        source.step()
    exported = source.export_pages(request.id)
    with pytest.raises(SettingsError, match=r"is in use by an unfinished request"):
        source.import_pages(exported)
    with pytest.raises(SettingsError, match=r"first_page=9, but .* 2 pages to export; give 0 to 2"):
        source.export_pages(request.id, 9)
    with pytest.raises(
        SettingsError, match=r"another model.*: kv_dtype is fp16 there and fp32 here"
    ):
        make(kv_dtype="fp32").import_pages(exported)
    with pytest.raises(SettingsError, match=r"model is unknown there"):
        make().import_pages(exported._replace(origin=None))
    target = make()
    target.import_pages(exported)
    with pytest.raises(SettingsError, match=r"2 pages came before; export from first_page=2"):
        target.import_pages(exported._replace(first_page=1))
    with pytest.raises(SettingsError, match=r"is not paused"):
        source.commit(request.id)


def test_pages_of_another_model_are_refused(llama, tiny_model, tmp_path):
    """Equal shapes are not enough: such pages would stand in the cache for other requests, too."""
    source = LLM(llama, cache_bytes=2**20)
    (request,) = source.submit(PROMPT, PARAMS)
    for _ in range(3):
        source.step()
    exported = through_json(source.export_pages(request.id))
    exported = exported._replace(origin=json.loads(json.dumps(exported.origin)))
    theta = tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    others = {
        "model": LLM(tiny.build("llama", tmp_path / "other", seed=5), cache_bytes=2**20),
        "model is": LLM(theta, cache_bytes=2**20),
        "weights": LLM(llama, weights="q8", cache_bytes=2**20),
        "kv_dtype": LLM(llama, kv_dtype="int8", cache_bytes=2**20),
        "page_size": LLM(llama, page_size=8, cache_bytes=2**20),
    }
    for name, other in others.items():
        with pytest.raises(SettingsError, match=f"form, page size or dtype: {name}.*move requests"):
            other.import_pages(exported)
        assert other.load_report().num_paused == 0
    copy = shutil.copytree(llama, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({"_name_or_path": "copy", **config}))
    LLM(copy, cache_bytes=2**20).import_pages(exported)


def test_weights_that_changed_under_an_engine_have_no_name(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "model")
    source = LLM(folder, cache_bytes=2**20)
    (request,) = source.submit(PROMPT, PARAMS)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"changed after they were loaded.*load it again"):
        source.export_pages(request.id)
