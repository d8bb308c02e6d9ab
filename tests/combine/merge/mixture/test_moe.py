"""The verb: every router, the same bytes, resumed where it was killed, in all forms of a call."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from combine.merge.mixture.conftest import WORDS
from combine.merge.models import arrays_of, bytes_of, variant
from products import few
from treadle.combine.merge import merge_moe
from treadle.combine.merge import run as runs
from treadle.combine.merge.mixture.account import condition_number
from treadle.combine.merge.mixture.tables import ROUTERS
from treadle.core.result import read_result
from treadle.model.load import load_tokenizer
from treadle.recipe import run_recipe


def needed(router: str, prompts) -> dict:
    """What a router must be given beside models."""
    if ROUTERS.resolve(router).reads == "losses":
        return {"text": [__file__], "num_windows": 3, "window_tokens": 24}
    return {"prompts": prompts} if ROUTERS.resolve(router).needs_prompts else {}


def gates_of(folder) -> dict[str, np.ndarray]:
    return {n: v for n, v in arrays_of(folder).items() if n.endswith("gate.weight")}


@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_makes_a_gate_for_every_layer(
    router, has_base, kin, prompts, tmp_path
) -> None:
    base, experts = kin("mistral")
    given = {**needed(router, prompts), "base": base if has_base else None}
    result = merge_moe(experts, tmp_path / "out", router=router, **given)
    gates = gates_of(tmp_path / "out")
    assert {one.shape for one in gates.values()} == {(3, 64)}
    worst = max(condition_number(one) for one in gates.values())
    (found,) = (m.value for m in result.measurements if m.name == "condition number")
    assert worst == pytest.approx(found, rel=1e-4)
    assert result.is_control == (router == "random")
    alike = [np.array_equal(a, b) for a in gates.values() for b in gates.values()]
    assert all(alike) == (router == "cheap_embed")


@pytest.mark.parametrize("router", few(ROUTERS, "hidden", "smile"))
def test_workers_calls_and_doubts_do_not_change_a_byte(router, kin, prompts, tmp_path) -> None:
    experts, given = kin("qwen2").experts, needed(router, prompts)
    merge_moe(experts, tmp_path / "a", router=router, workers=1, **given)
    merge_moe(experts, tmp_path / "b", router=router, workers=2, verify=True, **given)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    merge_moe(experts, tmp_path / "c", router=router, seed=1, **given)
    is_drawn = router in ("smile", "random", "trained")
    other = [n for n, v in bytes_of(tmp_path / "c").items() if v != bytes_of(tmp_path / "a")[n]]
    assert any(name.endswith("mlp.gate.weight") for name in other) == is_drawn


def test_a_killed_run_ends_in_the_same_bytes(kin, tmp_path, monkeypatch) -> None:
    base, experts = kin("llama")
    merge_moe(experts, tmp_path / "whole", base=base)
    monkeypatch.setattr(runs, "_SYNC_BYTES", 20_000)
    pid = os.fork()
    if pid == 0:
        merged = []
        real = runs._merge

        def killed(job, writer) -> None:
            if len(merged) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            merged.append(job)
            real(job, writer)

        runs._merge = killed
        merge_moe(experts, tmp_path / "out", base=base, workers=1)
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    result = merge_moe(experts, tmp_path / "out", base=base)
    assert any("Resumed" in note for note in result.notes)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert read_result(tmp_path / "out") == result
    assert {p.name for p in tmp_path.iterdir()} == {"out", "whole"}


def test_gates_see_what_the_output_gives_them(kin, prompts, tmp_path) -> None:
    """With all experts alike and the base's own, the gate's input is what was looked at."""
    base = kin("llama").base
    same = [variant(base, tmp_path / f"e{n}", 0) for n in (1, 2, 3)]
    settings = {"method": "hidden", "negatives": "none", "position": "mean"}
    merge_moe(same, tmp_path / "out", base=base, router=settings, prompts=prompts)
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    entered: dict[int, np.ndarray] = {}
    for layer, block in enumerate(module.model.layers):
        block.mlp.register_forward_pre_hook(
            lambda _, args, layer=layer: entered.update({layer: args[0][0].numpy()})
        )
    tokenizer = load_tokenizer(base)
    for place, words in enumerate(WORDS):
        with torch.no_grad():
            module(input_ids=torch.tensor([tokenizer(words).input_ids]))
        for layer, gate in enumerate(gates_of(tmp_path / "out").values()):
            mean = entered[layer].mean(axis=0)
            np.testing.assert_allclose(gate[place], mean / np.linalg.norm(mean), atol=1e-5)


def test_experts_of_half_precision_stay_as_they_are(half_family, tmp_path) -> None:
    merge_moe(half_family.experts, tmp_path / "out", router="random")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    ours, theirs = bytes_of(tmp_path / "out"), bytes_of(half_family.experts[1])
    name = "model.layers.1.block_sparse_moe.experts.1.w2.weight"
    assert ours[name] == theirs["model.layers.1.mlp.down_proj.weight"]


def test_a_recipe_and_a_call_do_the_same(kin, prompts, tmp_path) -> None:
    experts = kin("llama").experts
    steps = tmp_path / "steps.yaml"
    listed = ", ".join(map(str, experts))
    steps.write_text(
        f"name: moe\nout: {tmp_path}\nsteps:\n- merge moe: {{models: [{listed}], "
        f"router: cheap_embed, router.negatives: none, prompts: {prompts}, out: by_recipe}}\n"
    )
    list(run_recipe(steps))
    settings = {"method": "cheap_embed", "negatives": "none"}
    merge_moe(experts, tmp_path / "by_call", router=settings, prompts=prompts)
    assert bytes_of(tmp_path / "by_recipe") == bytes_of(tmp_path / "by_call")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[5.0, 0.0]], 1.0),
        ([[1.0, 0.0], [0.0, 1.0]], 1.0),
        ([[1.0, 0.0], [-1.0, 0.0]], 1.0),
        ([[1.0, 0.1], [1.0, -0.1]], 10.0),
        ([[1.0, 2.0], [1.0, 2.0]], float("inf")),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], float("inf")),
        ([[0.0], [1.0], [2.0]], float("inf")),
    ],
)
def test_the_condition_is_of_what_tells_experts_apart(rows, expected) -> None:
    assert condition_number(np.array(rows, np.float32)) == pytest.approx(expected, rel=1e-5)


def test_two_experts_without_a_base_are_told_so(kin, tmp_path) -> None:
    result = merge_moe(kin("llama").experts[:2], tmp_path / "out")
    assert any("In 2 of 2 MLPs the gate cannot tell all" in note for note in result.notes)
    assert any("(--base)" in note for note in result.notes)
