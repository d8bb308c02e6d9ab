import json

import numpy as np
import pytest
import torch

from naive import plain_model, tokens_of
from runtime.adapters import merged
from runtime.linear.tiers import GREEDY, TIERS, make, texts
from treadle.core.errors import SettingsError
from treadle.runtime import SamplingParams
from treadle.runtime.request import Request, RequestState


def answers(found) -> list[list[int]]:
    return [out.outputs[0].token_ids for out in found]


def test_one_batch_answers_as_each_alone(engine):
    names = ["all", None, "some", "odd", None, "all"]
    together = answers(engine.generate(texts(6), GREEDY, adapter=names))
    for prompt, name, answer in zip(texts(6), names, together, strict=True):
        assert answers(engine.generate(prompt, GREEDY, adapter=name)) == [answer]
    assert together[0] != answers(engine.generate(texts(1), GREEDY))[0]
    with pytest.raises(SettingsError, match="Found 2 adapters for 3 prompts; give one for each"):
        engine.generate(texts(3), GREEDY, adapter=["all", None])


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_preempted_requests_keep_their_adapter(preemption, llama, folders):
    tier, names = TIERS[-1], ["all", "some", None, "odd", "all"]
    calm = answers(make(tier, llama, folders).generate(texts(5), GREEDY, adapter=names))
    page = make(tier, llama, folders)._batch.pool.store.page_size
    bytes_of_page = 2 * 2 * 2 * 16 * page * 4
    small = make(
        tier, llama, folders, cache_bytes=6 * bytes_of_page, preemption=preemption, page_size=page
    )
    found = small.generate(texts(5), GREEDY, adapter=names)
    assert answers(found) == calm
    assert sum(out.outputs[0].num_preemptions for out in found) > 0


def test_adapters_do_not_share_cached_pages(engine):
    """The same text with another adapter has other keys: nothing of it may be found."""
    prompt = tokens_of(1, 60)[0].tolist()

    def cached(adapter):
        (out,) = engine.generate(prompt, GREEDY, adapter=adapter)
        return out.outputs[0].num_cached_tokens

    assert [cached(name) for name in (None, "all", "some")] == [0, 0, 0]
    assert [cached(name) for name in (None, "all", "some")] == [48, 48, 48]


def test_another_adapter_of_an_old_name_finds_nothing(engine, folders):
    prompt = tokens_of(1, 60)[0].tolist()
    first = answers(engine.generate(prompt, GREEDY, adapter="all"))
    engine.remove_adapter("all")
    engine.add_adapter("all", folders["odd"])
    (out,) = engine.generate(prompt, GREEDY, adapter="all")
    assert out.outputs[0].num_cached_tokens == 0
    assert [out.outputs[0].token_ids] != first
    assert answers([out]) == answers(engine.generate(prompt, GREEDY, adapter="odd"))


def test_siblings_share_the_adapter(engine):
    params = SamplingParams(n=3, max_tokens=6, seed=1, ignore_eos=True)
    (found,) = engine.generate(texts(1), params, adapter="all")
    (other,) = engine.generate(texts(1), params, adapter="some")
    assert [o.token_ids for o in found.outputs] != [o.token_ids for o in other.outputs]


def test_a_request_moves_with_its_adapter(llama, folders):
    here, there = (make(TIERS[-1], llama, folders) for _ in range(2))
    expected = answers(here.generate(texts(1), GREEDY, adapter="some"))
    (request,) = here.submit(texts(1)[0], GREEDY, adapter="some", request_id="moves")
    for _ in range(4):
        here.step()
    here.pause("moves")
    exported = here.export_pages("moves")
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert (again.adapter, again.adapter_hash) == ("some", request.adapter_hash)
    there.import_pages(exported)
    arrived = there.commit("moves")
    while arrived.state is not RequestState.FINISHED:
        there.step()
    assert [arrived.outputs] == expected
    there.remove_adapter("some")
    with pytest.raises(SettingsError, match="No adapter 'some'"):
        there.import_pages(exported)
    there.add_adapter("some", folders["odd"])
    with pytest.raises(
        SettingsError, match="'moves' comes with an adapter 'some' of other content"
    ):
        there.import_pages(exported)


def test_embeddings_see_the_adapter(engine, llama, folders, tmp_path):
    prompt = texts(1)[0]
    found = engine.embed(prompt, adapter="all")[0]
    model = plain_model(merged(tmp_path / "merged", llama, folders["all"], 2.0))
    with torch.no_grad():
        expected = model.model(input_ids=torch.tensor([prompt])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert np.abs(found - engine.embed(prompt)[0]).max() > 0.01
