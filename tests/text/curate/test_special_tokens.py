"""Special tokens that documents write: text, unless control tokens are asked for."""

import json

import pytest
from tests.text.curate import corpora
from tokenizers import AddedToken, Tokenizer, models

from treadle.core.errors import DataError, SettingsError
from treadle.core.ledger import open_ledger
from treadle.text.curate import pack

CHARACTERS = "abcdef </s>|im_"
ROWS = [
    {"id": "a", "text": "abc</s>def</s>"},
    {"id": "b", "text": "abc<|im|>"},
    {"id": "c", "text": "a"},
]


def write_tokenizer(folder, model=None, is_special=True):
    loaded = Tokenizer(
        model or models.BPE({c: n for n, c in enumerate(dict.fromkeys(CHARACTERS))}, [])
    )
    tokens = [AddedToken(name, special=is_special, normalized=False) for name in ("</s>", "<|im|>")]
    (loaded.add_special_tokens if is_special else loaded.add_tokens)(tokens)
    folder.mkdir()
    loaded.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return loaded


def packed(tmp_path, rows=ROWS, **options):
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    settings = {"tokenizer": str(tmp_path / "t"), "seq_len": 4, "rows": 1, "order": "given"}
    result = pack(data, tmp_path / "out", **{**settings, **options})
    ledger = open_ledger(tmp_path / "out")
    return ledger.tokens.tokens.tolist(), result.notes


@pytest.mark.parametrize("is_special", [True, False])
def test_a_text_forges_no_end(tmp_path, is_special):
    loaded = write_tokenizer(tmp_path / "t", is_special=is_special)
    end, mark = loaded.token_to_id("</s>"), loaded.token_to_id("<|im|>")
    tokens, notes = packed(tmp_path)
    assert tokens.count(end) == len(ROWS)
    assert tokens.count(mark) == (not is_special)  # a word of the vocabulary like all others
    assert (
        "".join(loaded.id_to_token(token) for token in tokens)
        == "abc</s>def</s></s>abc<|im|></s>a</s>"
    )
    number, where = (3, 2) if is_special else (2, 1)
    assert any(
        f"{number} special tokens stand in the texts of {where} documents" in n for n in notes
    )


def test_control_tokens_where_they_are_asked_for(tmp_path):
    loaded = write_tokenizer(tmp_path / "t")
    tokens, notes = packed(tmp_path, special_tokens="control")
    assert tokens.count(loaded.token_to_id("</s>")) == len(ROWS) + 2
    assert tokens.count(loaded.token_to_id("<|im|>")) == 1
    assert any("3 control tokens were made of them" in note for note in notes)


def test_a_tokenizer_that_makes_them_of_plain_text_is_named(tmp_path):
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -2.0) for c in "abcdef <>/s|im_")]
    loaded = write_tokenizer(tmp_path / "t", models.Unigram(pieces, 0))
    tokens, notes = packed(tmp_path)
    assert tokens.count(loaded.token_to_id("</s>")) == len(ROWS) + 2
    assert any("made 2 of them from the texts of 1 documents" in note for note in notes)


def test_texts_without_any_need_no_note(tmp_path):
    write_tokenizer(tmp_path / "t")
    for rows in ([{"text": "abc < /s> def"}], [{"text": "a"}, {"text": "bcdef"}]):
        assert not [note for note in packed(tmp_path, rows, overwrite=True)[1] if "special" in note]


def test_what_cannot_be_is_refused(tmp_path):
    write_tokenizer(tmp_path / "t")
    with pytest.raises(SettingsError, match="'bytes' has no special tokens"):
        packed(tmp_path, tokenizer="bytes", special_tokens="control")
    with pytest.raises(SettingsError, match="No packaged model 'x'"):
        packed(tmp_path, tokenizer="packaged:x")
    for content in ("{", "[]", "\xff"):
        (tmp_path / "t" / "tokenizer_config.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(DataError, match=r"no tokenizer's config .* --end-token"):
            packed(tmp_path)
    (tmp_path / "t" / "tokenizer_config.json").write_text('{"eos_token": 5}')
    with pytest.raises(SettingsError, match="no end token in tokenizer_config"):
        packed(tmp_path)


def test_the_packaged_model_has_a_tokenizer(tmp_path, monkeypatch):
    from treadle.model import pretrained

    loaded = write_tokenizer(tmp_path / "t")
    monkeypatch.setattr(pretrained, "packaged", lambda name: {"smollm2": tmp_path / "t"}[name])
    tokens, _ = packed(tmp_path, tokenizer="packaged:smollm2")
    assert tokens.count(loaded.token_to_id("</s>")) == len(ROWS)
