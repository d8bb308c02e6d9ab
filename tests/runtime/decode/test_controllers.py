"""What holds for every controller, on a real engine."""

import pytest

from naive import tokens_of
from products import few
from treadle.core.errors import SettingsError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.decode.tables import CONTROLLERS
from treadle.runtime.decode.tree import NodeState
from treadle.runtime.transformers_step.generic import GenericExecutor

SETTINGS = {
    "beam": {"width": 3},
    "best_of": {"n": 5, "temperature": 0.9, "top_p": 0.95},
    "self_consistency": {"n": 5, "pattern": "[a-z]"},
    "tree_of_thoughts": {"depth": 2, "thoughts": 3, "width": 2, "thought_tokens": 4},
    "replay": {"nodes": [{"parent": None, "num_tokens": 3}, {"parent": 0, "num_tokens": 2}]},
}
PROMPT = tokens_of(1, 40, seed=9)[0].tolist()


def test_every_controller_is_tried_here():
    assert set(SETTINGS) == set(CONTROLLERS.table)


def searched(llm: LLM, name: str, **options):
    given = {"max_tokens": 12, "seed": 3, **options}
    return llm.search(PROMPT, {"method": name, **SETTINGS[name]}, **given)


def summary(out) -> list[tuple]:
    return [(b.token_ids, b.score, b.text, b.finish_reason) for b in out.branches]


@pytest.mark.parametrize("name", list(SETTINGS))
def test_its_numbers_follow_from_the_request_alone(name, llama):
    """Neither from places, chunks, pages, what is cached, nor from what runs beside."""
    settings = {"kv_dtype": "fp32", "cache_bytes": 2**20}
    plain = searched(LLM(llama, **settings), name)
    assert plain.best is not None
    narrow = LLM(llama, max_num_seqs=2, max_num_batched_tokens=5, page_size=4, **settings)
    assert summary(searched(narrow, name)) == summary(plain)
    assert summary(searched(narrow, name)) == summary(plain)  # from the cache
    busy = LLM(llama, enable_prefix_caching=False, preemption="swap", **settings)
    others = busy.submit(PROMPT[5:], SamplingParams(n=4, max_tokens=40, seed=1))
    assert summary(searched(busy, name, request_id="another")) == summary(plain)
    busy.close(others)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_its_tree_is_whole_and_nothing_is_left(name, llama):
    llm = LLM(llama, cache_bytes=2**20)
    out = searched(llm, name)
    nodes = {node.id: node for node in out.nodes}
    assert {n.state for n in out.nodes} <= {
        NodeState.SHARED,
        NodeState.PRUNED,
        NodeState.FINISHED,
    }
    assert out.controller == CONTROLLERS.resolve({"method": name, **SETTINGS[name]}).settings()
    for branch in out.branches:
        assert nodes[branch.node].state is NodeState.FINISHED
        assert 1 <= len(branch.token_ids) <= 12
        assert branch.text == llm.get_tokenizer().decode(
            [t for t in branch.token_ids if t != 0], clean_up_tokenization_spaces=False
        )
    assert 0 < out.num_computed_tokens <= out.num_alone_tokens
    assert len(out.figure().series) == len(out.nodes)
    report = llm.load_report()
    assert (report.num_waiting, report.num_running, report.num_paused) == (0, 0, 0)
    assert report.num_free_pages + report.num_cached_pages == report.num_pages
    assert llm._runner.searches._open == []


@pytest.mark.parametrize("model_type", few(list(tiny.CONFIGS), "llama", "gpt2", "gemma2"))
def test_every_architecture_is_searched(model_type, tiny_model):
    folder = tiny_model(model_type)
    executor = GenericExecutor.from_folder(folder)
    llm = LLM(folder, cache_bytes=2**20, kv_dtype="fp32", executor=executor)
    best = searched(llm, "beam").best
    row = [PROMPT + best.token_ids]
    (logs,) = llm.log_probs(row, [len(PROMPT)])
    assert float(logs.sum()) == pytest.approx(best.cumulative_logprob, abs=1e-3)


def test_salts_adapters_and_deadlines_reach_the_branches(llama, tmp_path):
    from runtime.adapters import write_adapter

    write_adapter(tmp_path / "adapter", llama)
    llm = LLM(llama, cache_bytes=2**20, kv_dtype="fp32", adapters={"law": tmp_path / "adapter"})
    plain = searched(llm, "beam")
    law = searched(llm, "beam", adapter="law")
    salted = searched(llm, "beam", cache_salt="x")
    assert summary(law) != summary(plain) == summary(salted)
    assert law.num_computed_tokens == plain.num_computed_tokens
    assert salted.num_computed_tokens == plain.num_computed_tokens
    late = searched(llm, "best_of", timeout_seconds=0.0)
    assert {b.finish_reason for b in late.branches} == {"deadline"}


@pytest.mark.parametrize(
    ("controller", "message"),
    [
        ("beem", r"Unknown controller of branches 'beem'. Did you mean 'beam'"),
        ({"method": "beam", "widht": 3}, r"has no setting 'widht'"),
        ({"method": "best_of", "n": 0}, r"n.*greater than or equal to 1"),
        ({"method": "replay"}, r"nodes"),
    ],
)
def test_a_controller_that_is_none_is_refused(controller, message, llama):
    with pytest.raises(SettingsError, match=message):
        LLM(llama, cache_bytes=2**20).search([1, 2], controller)
