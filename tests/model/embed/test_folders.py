"""Vectors of models: means over a text's own tokens, and over nothing else."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from treadle.core.errors import CheckpointError, SettingsError, TreadleError
from treadle.core.ports import Embedder
from treadle.model import tiny
from treadle.model.embed.specs import embedder_of, features_named
from treadle.model.load import load_tokenizer

TEXTS = ["def f(x):", "a", "", "import inspect, and then some more of it"]


def embedded(name: str) -> Embedder:
    return embedder_of(features_named(name))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=320, intermediate_size=16, max_position_embeddings=16, **sizes)
    BertModel(config).save_pretrained(folder)
    tiny.tokenizer(folder)
    return folder


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_are_the_mean_of_a_texts_own_states(llama, layer):
    embedder = embedded(f"states:{llama}?layer={layer}")
    found = embedder.embed(TEXTS)
    from transformers import AutoModelForCausalLM

    module, tokenizer = AutoModelForCausalLM.from_pretrained(llama).eval(), load_tokenizer(llama)
    for row, text in zip(found, TEXTS, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            assert not row.any()
            continue
        with torch.no_grad():
            states = module(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer]
        alike = [unit(one) for one in states[0].double().numpy()]
        assert row == pytest.approx(unit(np.mean(alike, axis=0)), abs=1e-5)
    assert embedder.dim == 64


def test_half_of_the_blocks_by_default_and_not_more_than_there_are(llama):
    plain, named = (embedded(f"states:{llama}{end}") for end in ("", "?layer=1"))
    assert plain.hash == named.hash
    assert np.array_equal(plain.embed(TEXTS), named.embed(TEXTS))
    assert plain.hash != embedded(f"states:{llama}?layer=2").hash
    with pytest.raises(SettingsError, match=r"layer = 3, but .* has 2 blocks"):
        embedded(f"states:{llama}?layer=3")


def test_the_end_of_a_long_text_is_read(llama, encoder):
    for name in (f"states:{llama}?max_tokens=4", f"encoder:{encoder}?max_tokens=4"):
        embedder = embedded(name)
        long = embedder.embed(["one two three four five six seven eight nine ten xyz"])
        other = embedder.embed(["nobody reads this beginning of the text, but: ten xyz"])
        assert long == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_an_encoder_pools_and_nothing_is_filled_up(encoder, pooling):
    from transformers import AutoModel

    embedder = embedded(f"encoder:{encoder}?pooling={pooling}")
    found = embedder.embed(TEXTS[:2])
    module, tokenizer = AutoModel.from_pretrained(encoder).eval(), load_tokenizer(encoder)
    for row, text in zip(found, TEXTS, strict=False):
        with torch.no_grad():
            states = module(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        wanted = states[0] if pooling == "first" else states.double().mean(0)
        assert row == pytest.approx(unit(wanted.numpy()), abs=1e-5)


def test_static_vectors_are_means_of_rows(tmp_path):
    tiny.tokenizer(tmp_path)
    rows = np.random.default_rng(0).standard_normal((320, 8)).astype(np.float32)
    save_file({"embeddings": rows}, tmp_path / "model.safetensors")
    embedder, tokenizer = embedded(f"static:{tmp_path}"), load_tokenizer(tmp_path)
    found = embedder.embed(TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        wanted = unit(rows[ids].mean(axis=0)) if ids else np.zeros(8)
        assert row == pytest.approx(wanted, abs=1e-6)
    weights = np.linspace(0.1, 2, 320).astype(np.float32)
    mapping = np.arange(320)[::-1].copy()
    parts = {"embeddings": rows, "weights": weights, "mapping": mapping}
    save_file(parts, tmp_path / "model.safetensors")
    ids = tokenizer("def", add_special_tokens=False)["input_ids"]
    wanted = unit((rows[mapping[ids]] * weights[ids][:, None]).mean(axis=0))
    assert embedded(f"static:{tmp_path}").embed(["def"])[0] == pytest.approx(wanted, abs=1e-6)


def test_a_models_own_input_embeddings_are_static_vectors(llama):
    assert np.linalg.norm(embedded(f"static:{llama}").embed(["def"])) == pytest.approx(1)


def test_names_that_name_nothing_are_refused(tmp_path):
    for name in ("ngram", "static:", "states", "ngrams:folder", ""):
        with pytest.raises(SettingsError, match="names no encoder of texts"):
            features_named(name)
    with pytest.raises(SettingsError, match="layer = 'x' is refused"):
        features_named("states:m?layer=x")
    assert features_named("ngrams?width=64").width == 64
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        embedded(f"static:{tmp_path}")
    with pytest.raises(TreadleError, match=str(tmp_path)):
        embedded(f"encoder:{tmp_path}")


def test_another_model_than_the_one_it_was_chosen_with_is_refused(llama):
    features = features_named(f"states:{llama}").model_copy(update={"hash": "0" * 64})
    with pytest.raises(CheckpointError, match="not the model that the vectors were made with"):
        embedder_of(features)
