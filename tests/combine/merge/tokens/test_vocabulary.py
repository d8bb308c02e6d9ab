"""Models with different tokenizers: tokens side by side, rows in a new order, padding kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from combine.merge.tokens.pairs import NAME, A, B, C, Make, Pairs, lenders
from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.sources import TensorSource, WeightFiles, stored
from treadle.combine.merge.recipe.grammar import ModelRef, TokenizerRequest, TokenSource
from treadle.combine.merge.tokens.tokenizer import vocabulary_of
from treadle.combine.merge.tokens.vocabulary import Vocabulary, plan
from treadle.core.errors import CheckpointError, SettingsError

UNION = TokenizerRequest("union")


class Rows(TensorSource):
    """A tensor in memory."""

    def __init__(self, array: Floats) -> None:
        self.shape, self.dtype, self.array = array.shape, "F32", array

    def read(self, first: int, target: Floats) -> None:
        target[:] = self.array.reshape(-1)[first : first + target.size]


def embedding(vocabulary: Vocabulary, model: ModelRef, pairs: Pairs, files: WeightFiles) -> Floats:
    """Return a model's whole embedding in the output's rows."""
    sources: dict[ModelRef, TensorSource | None] = {ref: stored(r, NAME, files) for ref, r in pairs}
    source = vocabulary.permuted(model, NAME, sources)
    target = np.empty(source.shape, np.float32)
    source.read(0, target.reshape(-1))
    return target


def planned(request: TokenizerRequest, pairs: Pairs, base: int | None = 0) -> Vocabulary:
    vocabulary, _ = plan(request, lenders(pairs), base)
    assert vocabulary is not None
    return vocabulary


def ids(vocabulary: Vocabulary, folder: Path) -> dict[str, int]:
    """Return the tokens as transformers reads them from what was written."""
    from transformers import AutoTokenizer

    folder.mkdir()
    vocabulary.write(folder)
    found = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert found == vocabulary_of(folder), "the library numbers the tokens as we do"
    return dict(found)


def test_a_union_appends_the_tokens_of_others(
    make: Make, files: WeightFiles, tmp_path: Path
) -> None:
    pairs = [
        (A, make("a", ("alpha",))),
        (B, make("b", ("beta", "gamma"), ("<|b|>",))),
        (C, make("c", ("gamma", "alpha", "beta"))),
    ]
    vocabulary = planned(UNION, pairs)
    tokens = ids(vocabulary, tmp_path / "out")
    assert [tokens[t] for t in ("alpha", "beta", "gamma", "<|b|>")] == [320, 321, 322, 323]
    assert vocabulary.num_rows == vocabulary.num_tokens == 324
    assert vocabulary.permutations[:, 319:].tolist() == [
        [319, 320, -1, -1, -1],
        [319, -1, 320, 321, 322],
        [319, 321, 322, 320, -1],
    ]
    a, b, c = (reader.array(NAME) for _, reader in pairs)
    found = embedding(vocabulary, A, pairs, files)
    assert np.array_equal(found[:321], a), "its own rows come first"
    assert np.array_equal(found[321], (b[320] + c[322]) / 2), "the mean of those that have it"
    assert np.array_equal(found[323], b[322]), "the only one that has it"
    found = embedding(vocabulary, B, pairs, files)
    assert np.array_equal(found[320], a[320]), "the base's row, though another has it as well"
    assert np.array_equal(found[[321, 322, 323]], b[[320, 321, 322]])
    assert np.array_equal(
        embedding(vocabulary, C, pairs, files)[:323], c[[*range(320), 321, 322, 320]]
    )


def test_without_a_base_several_owners_are_averaged(make: Make, files: WeightFiles) -> None:
    pairs = [(A, make("a", ("alpha",))), (B, make("b", ("alpha",))), (C, make("c"))]
    a, b = pairs[0][1].array(NAME), pairs[1][1].array(NAME)
    found = embedding(planned(UNION, pairs, None), C, pairs, files)
    assert np.array_equal(found[320], (a[320] + b[320]) / 2)
    assert np.array_equal(embedding(planned(UNION, pairs), C, pairs, files)[320], a[320])


def test_a_special_token_stays_special(make: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    pairs = [(A, make("a")), (B, make("b", ("plain",), ("<|b|>",)))]
    ids(planned(UNION, pairs), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    number = tokenizer.convert_tokens_to_ids("<|b|>")
    assert tokenizer.decode([number, 40], skip_special_tokens=True) == tokenizer.decode([40])
    assert tokenizer.encode("x<|b|>plain") == [tokenizer.encode("x")[0], 321, 320]
    assert tokenizer.eos_token == "<|end|>"


def test_a_word_of_the_base_that_is_special_elsewhere(make: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    pairs = [(A, make("a"))]
    word = max(vocabulary_of(pairs[0][1].folder) or (), key=lambda token: (token.isalpha(), token))
    pairs.append((B, make("b", special=(word,))))
    assert ids(planned(UNION, pairs), tmp_path / "out") == vocabulary_of(pairs[0][1].folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode(f"x{word}y"), skip_special_tokens=True) == "xy"


def test_ids_with_holes(make: Make, tmp_path: Path) -> None:
    reader = make("a", padding=100)
    file = reader.folder / "tokenizer.json"
    document = json.loads(file.read_text())
    last = max(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    document["model"]["vocab"][last] = 400
    file.write_text(json.dumps(document))
    vocabulary = planned(UNION, [(A, reader), (B, make("b", ("beta",)))])
    tokens = ids(vocabulary, tmp_path / "out")
    assert (tokens[last], tokens["beta"]) == (400, 401)
    assert vocabulary.num_rows == 420
    assert vocabulary.permutations[:, 319].tolist() == [319, -1], "a hole: padding in one model"


def test_identical_tokenizers_permute_nothing(
    make: Make, files: WeightFiles, tmp_path: Path
) -> None:
    pairs = [(A, make("a", ("alpha",), padding=7)), (B, make("b", ("alpha",), padding=7))]
    for request in (UNION, TokenizerRequest("base"), TokenizerRequest(B)):
        vocabulary, note = plan(request, lenders(pairs), 0)
        assert vocabulary is not None
        assert note is None
        sources: dict[ModelRef, TensorSource | None] = {
            ref: stored(reader, NAME, files) for ref, reader in pairs
        }
        for ref in (A, B):
            assert vocabulary.permuted(ref, NAME, sources) is sources[ref]
    assert plan(None, lenders(pairs), 0) == (None, None)
    vocabulary.write(out := tmp_path)
    assert (out / "tokenizer.json").read_bytes() == (
        pairs[0][1].folder / "tokenizer.json"
    ).read_bytes()


def test_padded_rows_are_kept(make: Make, files: WeightFiles) -> None:
    pairs = [(A, make("a", padding=10)), (B, make("b", ("beta",), padding=3))]
    vocabulary = planned(UNION, pairs)
    assert (vocabulary.num_rows, vocabulary.num_tokens) == (330, 321)
    a, b = (reader.array(NAME) for _, reader in pairs)
    found = embedding(vocabulary, B, pairs, files)
    assert np.array_equal(found[:324], b), "its own padding rows"
    assert np.array_equal(found[324:], a[324:]), "then the base's"
    found = embedding(vocabulary, A, pairs, files)
    assert np.array_equal(found[:320], a[:320])
    assert np.array_equal(found[320], b[320]), "a token that was a padding row of the base"
    assert np.array_equal(found[321:], a[321:])


def test_more_rows_are_the_mean_of_the_tokens(make: Make, files: WeightFiles) -> None:
    pairs = [(A, make("a")), (B, make("b", ("beta",)))]
    vocabulary = planned(TokenizerRequest("union", {}, 64), pairs)
    assert vocabulary.num_rows == 384
    for ref in (A, B):
        found = embedding(vocabulary, ref, pairs, files)
        assert np.allclose(found[321:], found[:321].mean(axis=0, dtype=np.float64), atol=1e-7)


def test_the_tokenizer_of_the_base_or_of_a_model(
    make: Make, files: WeightFiles, tmp_path: Path
) -> None:
    pairs = [(A, make("a")), (B, make("b", ("beta",), padding=2))]
    a, b = (reader.array(NAME) for _, reader in pairs)
    vocabulary = planned(TokenizerRequest("base"), pairs)
    assert np.array_equal(embedding(vocabulary, B, pairs, files), b[:320])
    for source in (B, "b"):
        vocabulary = planned(TokenizerRequest(source), pairs)
        found = embedding(vocabulary, A, pairs, files)
        assert np.array_equal(found, np.concatenate([a, b[320:]]))
    assert "beta" in ids(vocabulary, tmp_path / "out")
    with pytest.raises(SettingsError, match="source 'other' is no model of the merge; choose one"):
        plan(TokenizerRequest(ModelRef("other")), lenders(pairs), 0)


def test_rows_that_the_recipe_chooses(make: Make, files: WeightFiles) -> None:
    pairs = [(A, make("a", ("alpha", "beta"))), (B, make("b", ("alpha", "beta")))]
    a, b = (reader.array(NAME) for _, reader in pairs)
    tokens = {
        "alpha": TokenSource("model", B, force=True),
        "beta": TokenSource("zero"),
        "<|end|>": TokenSource("zero", force=True),
        "new": TokenSource("model_token", A, token="alpha"),
        "newer": TokenSource("model_token", B, token_id=5),
        "bare": TokenSource("default"),
    }
    vocabulary, note = plan(TokenizerRequest("union", tokens), lenders(pairs), 0)
    assert vocabulary is not None
    assert note is not None
    assert note.startswith("1 token starts from zeros, as no model has a row for it: 'bare'")
    for ref, own in ((A, a), (B, b)):
        found = embedding(vocabulary, ref, pairs, files)
        assert np.array_equal(found[320], b[320])
        assert np.array_equal(found[321], own[321]), "not forced, and every model has it"
        assert np.array_equal(found[322:], np.stack([a[320], b[5], np.zeros(64)]))
        assert not found[0].any()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (TokenSource("model", C), "comes from 'c', which is no model of the merge; name one of: a"),
        (TokenSource("model", A), "row of token 'new' of 'a', which has none among its 320 rows"),
        (TokenSource("model_token", A, token="?!?"), "row of token '\\?!\\?' of 'a'"),
        (TokenSource("model_token", A, token_id=320), "row of id 320 of 'a', which has none"),
    ],
)
def test_rows_that_no_model_has(make: Make, source: TokenSource, message: str) -> None:
    pairs = [(A, make("a")), (B, make("b"))]
    with pytest.raises(SettingsError, match=message):
        plan(TokenizerRequest("union", {"new": source}), lenders(pairs), 0)


def test_no_request(make: Make) -> None:
    pairs = [
        (A, make("a", ("alpha", "beta"))),
        (B, make("b", ("beta", "alpha"))),
        (C, make("c", padding=2)),
    ]
    vocabulary, note = plan(None, lenders(pairs[:2]), 0)
    assert vocabulary is None
    assert note is not None
    assert "2 tokens of 'b' have other ids than in 'a'" in note
    (pairs[2][1].folder / "tokenizer.json").unlink()
    assert "'b'" in str(plan(None, lenders(pairs), 0)[1])
    longer = [*pairs, (ModelRef("d"), make("d"))]
    with pytest.raises(CheckpointError) as caught:
        plan(None, lenders(longer), 0)
    assert str(caught.value) == (
        "The vocabularies differ: 'a' has 322 rows of embeddings and 'd' has 320; give --tokenizer "
        "union to keep the tokens of all models, or --tokenizer base for the base's."
    )
    with pytest.raises(CheckpointError, match=r"c has no tokenizer.json, so its tokens are unkn"):
        plan(UNION, lenders(pairs), 0)


def test_tensors_that_do_not_fit(make: Make, files: WeightFiles) -> None:
    pairs = [(A, make("a")), (B, make("b", ("beta",)))]
    vocabulary = planned(UNION, pairs)
    sources: dict[ModelRef, TensorSource | None] = {ref: stored(r, NAME, files) for ref, r in pairs}
    with pytest.raises(CheckpointError, match="'b' has no tensor 'x', which rows of the output's"):
        vocabulary.permuted(A, "x", sources | {B: None})
    norm = stored(pairs[1][1], "model.norm.weight", files)
    with pytest.raises(CheckpointError, match="'x' of 'b' has 64 rows, but its vocabulary has 321"):
        vocabulary.permuted(A, "x", sources | {B: norm})
    narrow = Rows(np.zeros((321, 8), np.float32))
    with pytest.raises(CheckpointError, match=r"have shape \[64\] in 'a', \[8\] in 'b'"):
        vocabulary.permuted(A, "x", sources | {B: narrow})


def test_config_follows(make: Make, tmp_path: Path) -> None:
    pairs = [(A, make("a")), (B, make("b", ("beta",)))]
    config = {"vocab_size": 320, "eos_token_id": [0, 319], "bos_token_id": 0, "other": None}
    union = planned(UNION, pairs)
    assert union.config_changes(config) == {"vocab_size": 321}
    nested = {"text_config": {"vocab_size": 320, "hidden_size": 64}}
    assert union.config_changes(nested) == {"text_config": {"vocab_size": 321, "hidden_size": 64}}
    file = pairs[1][1].folder / "tokenizer.json"
    document = json.loads(file.read_text())
    words = document["model"]["vocab"]
    words["<|end|>"], words["!"] = words["!"], words["<|end|>"]
    document["added_tokens"][0]["id"] = words["<|end|>"]
    file.write_text(json.dumps(document))
    moved = planned(TokenizerRequest(B), pairs)
    number = words["<|end|>"]
    assert moved.config_changes(config) == {
        "vocab_size": 321,
        "bos_token_id": number,
        "eos_token_id": [number, 319],
    }
    (pairs[0][1].folder / "generation_config.json").write_text('{"eos_token_id": 0, "top_k": 5}')
    moved.write(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written == {"eos_token_id": number, "top_k": 5}


def test_files_that_repeat_the_tokens(make: Make, tmp_path: Path) -> None:
    reader = make("a")
    (reader.folder / "added_tokens.json").write_text('{"<|end|>": 0}')
    (reader.folder / "vocab.txt").write_text("words")
    config_file = reader.folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    config |= {"added_tokens_decoder": {}, "chat_template": "{{ 1 }}"}
    config_file.write_text(json.dumps(config))
    planned(UNION, [(A, reader), (B, make("b", ("beta",)))]).write(tmp_path)
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == {"<|end|>": 0, "beta": 320}
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["added_tokens_decoder"]["320"]["content"] == "beta"
    assert "chat_template" not in written
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ 1 }}"
    assert (tmp_path / "vocab.txt").read_text() == "words"
