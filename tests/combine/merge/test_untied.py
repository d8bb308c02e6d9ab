"""A head and an embedding in one tensor: two tensors where an adapter changes one of them alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from combine.merge.models import arrays_of, run, variant
from naive import plain_model, tokens_of
from treadle.combine.merge import merge, merge_yaml

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def adapter(out: Path, seed: int = 0, whole: dict[str, float] | None = None, **config) -> Path:
    """Write an adapter that trained low ranks of some modules, and some tensors as a whole."""
    random, tensors = np.random.default_rng(seed), {}
    targets = config.pop("targets", ())
    for target in targets:
        a, b = (2, 320), (64, 2)  # an embedding's factors lie the other way round
        names = ("lora_embedding_A", "lora_embedding_B")
        if target == "lm_head":
            a, b, names = (2, 64), (320, 2), ("lora_A.weight", "lora_B.weight")
        for name, shape in zip(names, (a, b), strict=True):
            values = random.normal(size=shape).astype(np.float32)
            tensors[f"base_model.model.{target}.{name}"] = values
    for name, scale in (whole or {}).items():
        tensors[f"base_model.model.{name}"] = scale * np.ones((320, 64), np.float32)
    out.mkdir()
    save_file(tensors, out / "adapter_model.safetensors")
    full = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (out / "adapter_config.json").write_text(json.dumps(full))
    return out


def change(folder: Path, target: str) -> np.ndarray:
    """Return the change of a weight [320, 64], the plain way: 2 B A."""
    tensors = load_file(folder / "adapter_model.safetensors")
    prefix = f"base_model.model.{target}"
    if target == "lm_head":
        return 2 * tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
    return (2 * tensors[f"{prefix}.lora_embedding_B"] @ tensors[f"{prefix}.lora_embedding_A"]).T


def says_tied(folder: Path) -> bool:
    return bool(json.loads((folder / "config.json").read_text())["tie_word_embeddings"])


@pytest.mark.parametrize(
    "targets",
    [("lm_head",), ("model.embed_tokens",), ("lm_head", "model.embed_tokens")],
    ids=["the head", "the embedding", "both"],
)
def test_what_changes_one_side_makes_two_tensors(family, targets, tmp_path) -> None:
    lora = adapter(tmp_path / "lora", targets=targets)
    result = merge([f"{family.base}+{lora}"], tmp_path / "out", "passthrough")
    assert any("which its adapter does not change alike" in note for note in result.notes)
    before, found = arrays_of(family.base)[EMBEDDING], arrays_of(tmp_path / "out")
    for name, target in ((HEAD, "lm_head"), (EMBEDDING, "model.embed_tokens")):
        expected = before + change(lora, target) if target in targets else before
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
    assert not says_tied(tmp_path / "out")
    # As transformers computes it: one model with two tensors.
    tokens = tokens_of(1, 16, seed=3)
    expected_model = plain_model(family.base)
    expected_model.config.tie_word_embeddings = False
    expected_model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(found[HEAD]))
    expected_model.model.embed_tokens.weight.data = torch.from_numpy(found[EMBEDDING])
    with torch.no_grad():
        logits = plain_model(tmp_path / "out")(input_ids=tokens).logits
        torch.testing.assert_close(logits, expected_model(input_ids=tokens).logits)


@pytest.mark.parametrize(
    ("whole", "config", "is_tied"),
    [
        ({EMBEDDING: 1.0, HEAD: 1.0}, {}, True),
        ({EMBEDDING: 1.0, HEAD: 2.0}, {}, False),
        ({EMBEDDING: 1.0}, {}, False),
        ({EMBEDDING: 1.0}, {"ensure_weight_tying": True}, True),
    ],
)
def test_sides_that_stay_equal_stay_one_tensor(family, whole, config, is_tied, tmp_path) -> None:
    lora = adapter(tmp_path / "lora", whole=whole, **config)
    merge([f"{family.base}+{lora}"], tmp_path / "out", "passthrough")
    found = arrays_of(tmp_path / "out")
    assert (HEAD not in found) == is_tied == says_tied(tmp_path / "out")
    assert np.array_equal(found[EMBEDDING], np.ones((320, 64)))


def test_one_model_that_is_untied_unties_the_merge(family, tmp_path) -> None:
    lora = adapter(tmp_path / "lora", targets=("lm_head",))
    other = variant(family.base, tmp_path / "other", 5)
    merge([f"{family.base}+{lora}", other], tmp_path / "out", "linear")
    found, first, second = arrays_of(tmp_path / "out"), arrays_of(family.base), arrays_of(other)
    mean = 0.5 * (first[EMBEDDING] + second[EMBEDDING])
    np.testing.assert_allclose(found[EMBEDDING], mean, rtol=1e-5, atol=1e-6)
    expected = mean + 0.5 * change(lora, "lm_head")
    np.testing.assert_allclose(found[HEAD], expected, rtol=1e-4, atol=1e-5)


def test_models_that_tie_make_one_that_ties(family, tmp_path) -> None:
    run(family.experts, tmp_path / "out", "linear")
    assert HEAD not in arrays_of(tmp_path / "out")
    assert says_tied(tmp_path / "out")


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("first_is_tied", [True, False])
@pytest.mark.parametrize("last_is_tied", [True, False])
def test_stacked_models_read_with_the_first_and_answer_with_the_last(
    model_type, first_is_tied, last_is_tied, tiny_model, tmp_path
) -> None:
    ties = (first_is_tied, last_is_tied)
    pair = [tiny_model(model_type, tie_word_embeddings=tie) for tie in ties]
    if first_is_tied == last_is_tied:
        pair[1] = variant(pair[1], tmp_path / "other", 5)
    slices = [
        f"- sources: [{{model: {model}, layer_range: [{layer}, {layer + 1}]}}]"
        for layer, model in enumerate(pair)
    ]
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: passthrough\nslices:\n" + "\n".join(slices) + "\n")
    result = merge_yaml(recipe, tmp_path / "out")
    assert any("head is the embedding of the last" in n for n in result.notes) == last_is_tied
    first, last, found = map(plain_model, (*pair, tmp_path / "out"))
    assert torch.equal(found.get_input_embeddings().weight, first.get_input_embeddings().weight)
    assert torch.equal(found.get_output_embeddings().weight, last.get_output_embeddings().weight)
    # As transformers computes it: the first model with the last one's end.
    body, end = first.base_model, last.base_model
    layers, norm = ("h", "ln_f") if model_type == "gpt2" else ("layers", "norm")
    getattr(body, layers)[1] = getattr(end, layers)[1]
    setattr(body, norm, getattr(end, norm))
    first.lm_head = last.lm_head
    tokens = tokens_of(1, 16, seed=3)
    with torch.no_grad():
        logits = found(input_ids=tokens).logits
        torch.testing.assert_close(logits, first(input_ids=tokens).logits)


def test_one_tied_model_stacked_on_itself_stays_tied(family, tmp_path) -> None:
    slices = f"- sources: [{{model: {family.base}, layer_range: [0, 2]}}]\n"
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"merge_method: passthrough\nslices:\n{slices * 2}")
    merge_yaml(recipe, tmp_path / "out")
    assert HEAD not in arrays_of(tmp_path / "out")
    assert says_tied(tmp_path / "out")
