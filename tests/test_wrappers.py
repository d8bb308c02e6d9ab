"""Wrappers around a text model: every verb runs the text, and leaves the other towers alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from judge.evaluate.runs import measure
from naive import config_of, plain_losses, tokens_of, weights_of
from products import few
from treadle.app.compat import compat
from treadle.app.export import export
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.model import facts, tiny
from treadle.runtime import LLM, SamplingParams
from treadle.shrink.prune import METRICS, prune
from treadle.shrink.quantize import quantize

Wrap = Callable[[str, bool], Path]
FORMS = [(name, is_original) for name in tiny.WRAPPERS for is_original in (True, False)]
MOST = few(FORMS, ("gemma3", True), ("smolvlm", True), ("llava", False))


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Wrap:
    made: dict[tuple[str, bool], Path] = {}

    def build(name: str, is_original: bool) -> Path:
        if (name, is_original) not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name, is_original] = tiny.build_wrapper(name, folder, is_original=is_original)
        return made[name, is_original]

    return build


def whole(folder: Path) -> PreTrainedModel:
    """The wrapper as transformers loads it, every tensor of it read."""
    module, told = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return module.eval()


@pytest.mark.parametrize("form", MOST)
def test_the_text_is_answered_and_scored_as_the_wrapper_does(
    form: tuple[str, bool], wrapper: Wrap, text: str, tmp_path: Path
) -> None:
    folder = wrapper(*form)
    tokens = tokens_of(1, 40, seed=3)
    expected = -plain_losses(whole(folder), tokens)[0].numpy()
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    llm = LLM(folder, weights="fp32", kv_dtype="fp32")
    (answer,) = llm.generate([tokens[0].tolist()], params)
    rest = tokens[0, 1:].tolist()
    found = [place[token] for place, token in zip(answer.prompt_logprobs[1:], rest, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    ways = [measure(folder, tmp_path / str(way), text, through=way) for way in ("blocks", None)]
    assert ways[0].samples["nll"] == pytest.approx(ways[1].samples["nll"], abs=1e-5)


@pytest.mark.parametrize("form", MOST)
def test_pruning_changes_the_text_model_alone(
    form: tuple[str, bool], wrapper: Wrap, text: str, tmp_path: Path
) -> None:
    folder, out = wrapper(*form), tmp_path / "rows"
    options = {"text": text, "num_windows": 2, "window_tokens": 32}
    prune(folder, out, METRICS.resolve("wanda"), sparsity=0.5, **options)
    alone = export_text(folder, tmp_path / "text")
    prune(alone, tmp_path / "alone", METRICS.resolve("wanda"), sparsity=0.5, **options)
    expected = list(weights_of(tmp_path / "alone").values())
    for found, weight in zip(weights_of(out).values(), expected, strict=True):
        assert torch.equal(found, weight)
    with CheckpointReader(folder) as before, CheckpointReader(out) as after:
        own = {matrix.tensor for layer in range(2) for matrix in of(before, layer)}
        assert list(before.tensors) == list(after.tensors)
        for name in before.tensors.keys() - own:
            assert np.array_equal(before.array(name), after.array(name)), name
    whole(out)


def of(reader: CheckpointReader, layer: int) -> list[facts.Linear]:
    shapes = {name: info.shape for name, info in reader.tensors.items()}
    return facts.linears(facts.base_config(reader.config), layer, shapes)


def export_text(folder: Path, out: Path) -> Path:
    export(folder, out, text_only=True)
    return out


@pytest.mark.parametrize("form", MOST)
def test_fewer_neurons_stand_in_the_text_config(
    form: tuple[str, bool], wrapper: Wrap, tmp_path: Path
) -> None:
    folder, out = wrapper(*form), tmp_path / "out"
    prune(folder, out, METRICS.resolve("magnitude"), sparsity=0.25, pattern="neurons")
    before, after = config_of(folder), config_of(out)
    assert after["text_config"]["intermediate_size"] == 72
    before["text_config"]["intermediate_size"] = 72
    assert after == before
    whole(out)


@pytest.mark.parametrize("form", MOST)
def test_the_text_model_is_taken_out(form: tuple[str, bool], wrapper: Wrap, tmp_path: Path) -> None:
    folder = wrapper(*form)
    (folder / "preprocessor_config.json").write_text("{}")
    said = export(folder, tmp_path / "out", text_only=True, dtype="float32")
    assert "left behind" in said
    assert "vision" in said
    assert not list((tmp_path / "out").glob("*processor_config.json"))
    module, told = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = tokens_of(2, 30)
    with torch.no_grad():
        expected = whole(folder)(input_ids=tokens).logits
        torch.testing.assert_close(module(input_ids=tokens).logits, expected, rtol=0, atol=0)
    assert config_of(tmp_path / "out")["model_type"] == tiny.WRAPPERS[form[0]][0]


def test_what_is_no_wrapper_has_no_text_model_to_take_out(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing around the text model.* leave --text-only"):
        export(llama, tmp_path / "out", text_only=True)
    with pytest.raises(SettingsError, match="--pad and --text-only make two folders"):
        export(llama, tmp_path / "out", text_only=True, pad=True)


def test_what_a_wrapper_is_and_where_it_loads(wrapper: Wrap, tmp_path: Path) -> None:
    folder = wrapper("gemma3", True)
    said = str(compat(folder))
    assert "gemma3 around gemma3_text" in said
    assert "runs its text model: has facts of model_type 'gemma3_text'" in said
    with pytest.raises(UnsupportedModelError, match="quantise its text model: treadle export"):
        quantize(folder, tmp_path / "out", "rtn")


def test_what_a_config_leaves_out_is_its_class_s_default() -> None:
    """Gemma 3 4B's text_config says neither heads nor vocabulary."""
    config = {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34},
    }
    base = facts.base_config(config)
    assert (facts.num_heads(base), facts.num_kv_heads(base), facts.head_dim(base)) == (8, 4, 256)
    # Mistral's heads are shared by four, whatever its config leaves unsaid.
    mistral = facts.base_config({"model_type": "mistral", "hidden_size": 4096, "vocab_size": 32000})
    assert facts.num_kv_heads(mistral) == 8


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ({"model_type": "my_lm"}, "says text_config.model_type 'my_lm', for which treadle has no"),
        ({"num_hidden_layers": None}, "none of the keys text_config.num_hidden_layers"),
        ({"num_key_value_heads": 0}, None),
    ],
)
def test_advice_names_the_key_where_it_stands(
    said: dict[str, object], mend: str | None, wrapper: Wrap, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(wrapper("gemma3", True), tmp_path / "model"))
    config = config_of(folder)
    inner = {k: v for k, v in {**config["text_config"], **said}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": inner}))
    with pytest.raises((CheckpointError, UnsupportedModelError), match=mend):
        prune(folder, tmp_path / "out", "magnitude", sparsity=0.5)


def test_an_inner_model_type_that_is_left_to_the_class(wrapper: Wrap, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wrapper("gemma3", True), tmp_path / "model"))
    config = config_of(folder)
    del config["text_config"]["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    answers = [
        LLM(model, weights="fp32").generate([[5, 6, 7]], SamplingParams(temperature=0))[0]
        for model in (folder, wrapper("gemma3", True))
    ]
    assert answers[0].outputs[0].token_ids == answers[1].outputs[0].token_ids
    prune(folder, tmp_path / "out", "magnitude", sparsity=0.5)


def test_a_text_model_that_facts_do_not_know_is_no_crash(wrapper: Wrap, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wrapper("gemma3", True), tmp_path / "model"))
    config = config_of(folder)
    config["text_config"]["model_type"] = "my_lm"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="no max_position_embeddings"):
        LLM(folder)
