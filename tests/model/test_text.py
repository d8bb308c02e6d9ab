"""Windows of text: what is cut, what is counted, and what the protocol's hash notices."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from treadle.core.errors import DataError, SettingsError
from treadle.model.load import load_tokenizer
from treadle.model.text import (
    Protocol,
    read_text,
    sampled_windows,
    tokenizer_hash,
    windows,
)


@pytest.fixture(scope="module")
def tokenizer(llama: Path):
    return load_tokenizer(llama)


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with a BOS token: the reference of every byte count."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: place for place, symbol in enumerate([*alphabet, "<s>"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def write(folder: Path, text: str, name: str = "t.txt") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def bytes_by_token(tokenizer, text: str) -> list[int]:
    """Bytes of the characters that begin in each token, naively.

    Each symbol of a token of a byte-level vocabulary is one byte.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    owner = [i for i, id_ in enumerate(ids) for _ in tokenizer.convert_ids_to_tokens(id_)]
    assert len(owner) == len(text.encode())
    found, place = [0] * len(ids), 0
    for character in text:
        found[owner[place]] += len(character.encode())
        place += len(character.encode())
    return found


TEXTS = {
    "ascii": "def f(x):\n    return x ** 2  # squares\n" * 40,
    "accents": "Größe, naïveté et café; déjà vu?\n" * 40,
    "wide": "日本語のテキスト🌙 mixed with ascii 🙂🙂 and more\n" * 40,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("length", [2, 7, 33])
def test_predicted_bytes_are_exact(text: str, length: int, tokenizer, tmp_path: Path) -> None:
    cut = windows(write(tmp_path, text), tokenizer, None, length)
    counts = bytes_by_token(tokenizer, text)
    rows = [counts[first : first + length] for first in range(0, len(counts), length)]
    expected = sum(sum(row[1:]) for row in rows if len(row) == length)
    assert cut.protocol.num_bytes == expected
    assert cut.protocol.num_tokens == cut.tokens.shape[0] * (length - 1)


def test_ascii_windows_decode_to_their_bytes(tokenizer, tmp_path: Path) -> None:
    text = TEXTS["ascii"]
    cut = windows(write(tmp_path, text), tokenizer, 5, 12)
    decoded = [tokenizer.decode(row[1:]) for row in cut.tokens]
    assert cut.protocol.num_bytes == sum(len(part.encode()) for part in decoded)
    assert text.startswith("".join(tokenizer.decode(row) for row in cut.tokens))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_bos_windows_predict_every_byte(text: str, byte_tokenizer, tmp_path: Path) -> None:
    cut = windows(write(tmp_path, text), byte_tokenizer, 6, 11, "each")
    assert (cut.tokens[:, 0] == byte_tokenizer.bos_token_id).all()
    assert cut.protocol.num_bytes == cut.protocol.num_tokens == 60
    assert cut.protocol.stride_tokens == 10
    ids = byte_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert cut.tokens[:, 1:].reshape(-1).tolist() == ids[:60]


def test_bos_without_a_bos_token(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no BOS token.*use bos = 'none'"):
        windows(write(tmp_path, "some text " * 20), tokenizer, 1, 8, "each")


def test_windows_do_not_overlap_and_leave_nothing_out(byte_tokenizer, tmp_path: Path) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    cut = windows(write(tmp_path, text), byte_tokenizer, None, 8)
    assert [byte_tokenizer.decode(row) for row in cut.tokens] == [
        "abcdefgh",
        "ijklmnop",
        "qrstuvwx",
    ]
    assert cut.protocol.num_windows == 3
    first = windows(write(tmp_path, text), byte_tokenizer, 2, 8)
    assert first.tokens.tolist() == cut.tokens[:2].tolist()


def test_sampled_windows_are_windows_drawn_by_the_seed(tokenizer, text: str) -> None:
    every = {tuple(row) for row in windows(text, tokenizer, None, 16).tokens.tolist()}
    drawn = [sampled_windows(text, tokenizer, 9, 16, seed).tokens.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(tuple(row) in every for row in drawn[2])
    assert len({tuple(row) for row in drawn[2]}) == 9, "drawn without replacement"
    everything = sampled_windows(text, tokenizer, len(every), 16, 3).tokens.tolist()
    assert {tuple(row) for row in everything} == every


def test_the_protocols_hash_changes_with_each_field(tokenizer, text: str) -> None:
    protocol = windows(text, tokenizer, 2, 16).protocol
    changes = {
        name: (
            not value if isinstance(value, bool) else value + (1 if isinstance(value, int) else "x")
        )
        for name, value in protocol.model_dump().items()
    }
    assert set(changes) == set(Protocol.model_fields)
    for name, value in changes.items():
        changed = protocol.model_copy(update={name: value})
        assert (changed.hash == protocol.hash) == (name == "corpus"), name


def test_the_same_text_elsewhere_has_the_same_hash(tokenizer, text: str, tmp_path: Path) -> None:
    other = write(tmp_path, Path(text).read_text(), "elsewhere.txt")
    mine, theirs = (windows(t, tokenizer, 2, 16).protocol for t in (text, other))
    assert mine.hash == theirs.hash
    assert mine.corpus != theirs.corpus


def test_the_tokenizers_hash(tokenizer, byte_tokenizer, tiny_model) -> None:
    assert tokenizer_hash(tokenizer) == tokenizer_hash(load_tokenizer(tiny_model("gpt2")))
    assert tokenizer_hash(tokenizer) != tokenizer_hash(byte_tokenizer)


@pytest.mark.parametrize("cut", [windows, lambda *a: sampled_windows(*a, seed=0)])
def test_too_little_text(cut, byte_tokenizer, tmp_path: Path) -> None:
    file = write(tmp_path, "x" * 30)
    with pytest.raises(DataError) as caught:
        cut(file, byte_tokenizer, 4, 8)
    assert f"'{file}' has 3 windows of 8 tokens, but 4 were asked for" in str(caught.value)
    with pytest.raises(DataError, match="has 30 tokens, too few for one window of 31; give more"):
        cut(file, byte_tokenizer, 1, 31)
    with pytest.raises(DataError, match="has 0 tokens"):
        cut(write(tmp_path, "", "empty.txt"), byte_tokenizer, 1, 8)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_text(str(tmp_path / "no.txt"))
    assert "No text at" in str(caught.value)
    assert "one of stdlib:calibration, stdlib:heldout" in str(caught.value)
    with pytest.raises(DataError, match="No text at"):
        read_text(str(tmp_path))


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("abc é".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 4\); convert it with iconv"):
        read_text(str(tmp_path / "latin.txt"))


def test_jsonl_rows_are_joined_by_blank_lines(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two\nlines", "other": 1}]
    file = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "t.jsonl")
    assert read_text(file) == ("one\n\ntwo\nlines", "\\n\\n")


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x1c"])
def test_jsonl_rows_end_at_newlines_only(separator: str, tmp_path: Path) -> None:
    """Raw line separators are legal inside JSON strings (\\x1c escaped), and no end of a row."""
    row = json.dumps({"text": f"a{separator}b"}, ensure_ascii=False)
    assert read_text(write(tmp_path, row + "\n", "t.jsonl"))[0] == f"a{separator}b"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{broken", "JSONDecodeError"),
        ('{"txt": "a"}', "KeyError"),
        ('["text"]', "TypeError"),
        ('{"text": null}', "TypeError"),
        ('{"text": 3}', "TypeError"),
        ("", "JSONDecodeError"),
    ],
)
def test_a_bad_jsonl_row(row: str, why: str, tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "good"}\n' + row + '\n{"text": "good"}\n', "t.jsonl")
    with pytest.raises(DataError) as caught:
        read_text(file)
    assert f"Line 2 of '{file}' has no field 'text' ({why})" in str(caught.value)


def test_the_standard_librarys_splits_are_disjoint() -> None:
    from pydoc_data.topics import topics

    texts = {split: read_text(f"stdlib:{split}")[0] for split in ("calibration", "heldout")}
    assert all(len(text) > 100_000 for text in texts.values())
    inside = {
        name: [split for split, text in texts.items() if topics[name].strip() in text]
        for name in topics
    }
    long = {name: found for name, found in inside.items() if len(topics[name]) > 500}
    assert len(long) > 50
    assert all(len(found) == 1 for found in long.values())
    with pytest.raises(DataError, match=r"No split 'test'.*choose one of calibration, heldout"):
        read_text("stdlib:test")
