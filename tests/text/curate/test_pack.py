"""Packing: Megatron's files, the same bytes however it is run, and steps that can be replayed."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import CapacityError, DataError, SettingsError, TreadleError
from treadle.core.ledger import open_ledger
from treadle.core.result import read_result
from treadle.core.table import source
from treadle.model import tiny
from treadle.text.curate import intact, pack, replay

ROWS = corpora.records()


@pytest.fixture(autouse=True)
def _small_units(monkeypatch):
    monkeypatch.setattr(source, "_UNIT_BYTES", 2000)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer(folder)
    return folder


def packed(tmp_path, name="packed", rows=ROWS, **options):
    data = corpora.write_lines(tmp_path / f"{name}.jsonl", rows)
    settings = {"tokenizer": "bytes", "seq_len": 32, "rows": 4, **options}
    result = pack(data, tmp_path / name, **settings)
    return open_ledger(tmp_path / name), result


def files(out):
    names = ("tokens.bin", "tokens.idx", "documents.parquet", "order.json")
    return {n: (out / n).read_bytes() for n in (*names, "ledger.parquet", "spans.parquet")}


def texts_of(ledger):
    """Return the documents' texts by id, decoded from their tokens."""
    found = {}
    for number, name in enumerate(ledger.ids):
        start, stop = ledger.tokens.starts[number : number + 2]
        tokens = ledger.tokens.tokens[start:stop]
        assert tokens[-1] == 256
        found[name] = bytes(tokens[:-1].astype(np.uint8)).decode()
    return found


def test_every_document_is_there_once_with_its_end(tmp_path):
    for order in ("shuffled", "given"):
        ledger, result = packed(tmp_path, order, order=order)
        assert texts_of(ledger) == {row["id"]: row["text"] for row in ROWS}
        assert (ledger.ids == [row["id"] for row in ROWS]) == (order == "given")
        assert result.measurement("tokens").value == len(ledger.tokens.tokens)
    assert read_result(tmp_path / "given") == result


def test_records_that_are_no_documents_are_told(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", [*ROWS, ROWS[0], {"id": "e", "text": " "}])
    with data.open("ab") as stream:
        stream.write(b'{"id": "b", "te\n{"id": "c", "text": 5}\n')
    out = tmp_path / "out"
    result = pack(data, out, tokenizer="bytes", seq_len=32, rows=4)
    assert result.measurement("documents").value == len(ROWS) + 1
    assert result.measurement("rejected").value == 3
    for reason in ("empty", "not JSON", "no text in its field"):
        assert f"Not read: 1 records, {reason}." in result.notes
    assert any("1 documents have the id of an earlier one" in note for note in result.notes)
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    first = len(ROWS) + 1
    assert [row["row"] for row in rejects] == [first, first + 1, first + 2]
    manifest = json.loads((out / "treadle.json").read_text())
    assert "rejects.parquet" in [file["path"] for file in manifest["side_files"]]
    assert open_ledger(out).num_rows == result.measurement("rows").value


def test_a_source_without_documents_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match=r"holds no document \(not JSON\)"):
        pack(tmp_path / "a.jsonl", tmp_path / "out", tokenizer="bytes")


def test_bytes_do_not_depend_on_workers_or_shards(tmp_path, tokenizer):
    whole = corpora.write_lines(tmp_path / "whole.jsonl", ROWS)
    corpora.write_lines(tmp_path / "cut" / "a.jsonl", ROWS[:13])
    corpora.write_lines(tmp_path / "cut" / "b.jsonl.zst", ROWS[13:50])
    corpora.write_parquet(tmp_path / "cut" / "c.parquet", ROWS[50:])
    found = []
    for number, (data, workers) in enumerate(
        [(whole, 1), (whole, 2), (whole, 4), (tmp_path / "cut", 3)]
    ):
        out = tmp_path / f"out{number}"
        pack(data, out, tokenizer=str(tokenizer), seq_len=16, rows=4, workers=workers)
        found.append(files(out))
    assert found[0] == found[1] == found[2] == found[3]


def test_tokens_are_those_of_the_tokenizer(tmp_path, tokenizer):
    from transformers import AutoTokenizer

    ledger, _ = packed(tmp_path, tokenizer=str(tokenizer), order="given")
    reference = AutoTokenizer.from_pretrained(tokenizer)
    expected = [reference(row["text"], add_special_tokens=False)["input_ids"] for row in ROWS]
    flat = [token for one in expected for token in [*one, reference.eos_token_id]]
    assert ledger.tokens.tokens.tolist() == flat
    assert ledger.order.vocab_size == len(reference)


KILLED = """
import os, sys
from pathlib import Path
from treadle.core.table import source
from treadle.text.curate import corpus, pack, pack as _
from treadle.text.curate import ledger_tables
source._UNIT_BYTES = 2000
data, out, victim = sys.argv[1:]
if victim == "tokens":
    real, left = os.rename, 3
    def rename(*names):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        real(*names)
    corpus.os.rename = rename
else:
    ledger_tables.PartWriter.close = lambda self: os.kill(os.getpid(), 9)
pack(data, Path(out), tokenizer="bytes", seq_len=32, rows=4, workers=1)
"""


@pytest.mark.parametrize("victim", ["tokens", "ledger"])
def test_killed_run_goes_on_and_ends_the_same(tmp_path, victim):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    words = [str(data), str(tmp_path / "out"), victim]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert not (tmp_path / "out").exists()
    settings = {"tokenizer": "bytes", "seq_len": 32, "rows": 4}
    result = pack(data, tmp_path / "out", **settings)
    assert any("Resumed" in note for note in result.notes)
    pack(data, tmp_path / "whole", **settings)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_shares_of_the_tokenising_end_the_same(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    settings = {"tokenizer": "bytes", "seq_len": 32, "rows": 4}
    for share in ("2/2", "1/2"):
        result = pack(data, tmp_path / "out", shard=share, **settings)
    assert result.measurement("units_missing").value == 0
    assert not (tmp_path / "out").exists()
    pack(data, tmp_path / "out", **settings)
    pack(data, tmp_path / "whole", **settings)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_the_tables_say_what_the_ledger_computes(tmp_path):
    ledger, _ = packed(tmp_path)
    slots = pq.read_table(ledger.folder / "ledger.parquet").to_pylist()
    spans = pq.read_table(ledger.folder / "spans.parquet").to_pylist()
    assert len(slots) == ledger.num_rows
    assert [(s["step"], s["slot"]) for s in slots] == [
        divmod(place, 4) for place in range(ledger.num_rows)
    ]
    assert sorted(s["row"] for s in slots) == list(range(ledger.num_rows))
    assert sum(s["num_spans"] for s in slots) == len(spans)
    text = ledger.tokens.tokens
    for span in spans[::7]:
        start = int(ledger.tokens.starts[span["document"]]) + span["document_start"]
        row = span["row"] * 32 + span["row_start"]
        assert (
            text[start : start + span["num_tokens"]] == text[row : row + span["num_tokens"]]
        ).all()


def test_a_replay_equals_what_was_logged(tmp_path):
    ledger, _ = packed(tmp_path)
    result = replay(tmp_path / "packed", tmp_path / "first", first_step=2, num_steps=5)
    assert result.measurement("steps").value == 5
    assert "steps_compared" not in [measured.name for measured in result.measurements]
    log = tmp_path / "log.jsonl"
    lines = [{"step": step, "digest": ledger.digest(step), "loss": 1.0} for step in range(4)]
    log.write_text("".join(json.dumps(line) + "\n" for line in [{"loss": 2.0}, *lines]))
    for number, against in enumerate((tmp_path / "first", log)):
        again = replay(
            tmp_path / "packed", tmp_path / f"again{number}", num_steps=6, against=against
        )
        assert again.measurement("steps_compared").value == 4
    seen = pq.read_table(tmp_path / "first" / "seen.parquet").to_pylist()
    assert {row["step"] for row in seen} == {2, 3, 4, 5, 6}
    assert {row["document"] for row in seen} <= set(ledger.ids)


def test_changed_tokens_are_no_replay(tmp_path, monkeypatch):
    monkeypatch.setattr(intact, "_PIECE_TOKENS", 100)
    ledger, _ = packed(tmp_path, order="given")
    file = tmp_path / "packed" / "tokens.bin"
    content = bytearray(file.read_bytes())
    content[ledger.tokens.tokens.itemsize * 350] ^= 1
    file.write_bytes(content)
    assert not replay(tmp_path / "packed", tmp_path / "one", num_steps=2).notes
    with pytest.raises(DataError, match=r"tokens from 300 on differ .* copy or pack it again"):
        replay(tmp_path / "packed", tmp_path / "two", num_steps=3)
    (tmp_path / "packed" / "pieces.json").write_text("{}")
    with pytest.raises(DataError, match="holds no digests"):
        replay(tmp_path / "packed", tmp_path / "two", num_steps=3)
    (tmp_path / "packed" / "pieces.json").unlink()
    (note,) = replay(tmp_path / "packed", tmp_path / "two", num_steps=3).notes
    assert "Not checked" in note


def test_another_order_is_no_replay(tmp_path):
    packed(tmp_path)
    packed(tmp_path, "other", seed=1)
    replay(tmp_path / "packed", tmp_path / "first")
    with pytest.raises(DataError, match=r"Step 0 of .* the run saw other tokens"):
        replay(tmp_path / "other", tmp_path / "second", against=tmp_path / "first")
    with pytest.raises(DataError, match="holds none of the steps"):
        replay(tmp_path / "packed", tmp_path / "second", first_step=9, against=tmp_path / "first")
    with pytest.raises(DataError, match="No digests at"):
        replay(tmp_path / "packed", tmp_path / "second", against=tmp_path / "absent")
    with pytest.raises(SettingsError, match="0 steps from 0 on"):
        replay(tmp_path / "packed", tmp_path / "second", num_steps=0)


def test_what_cannot_be_packed_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"too few for a row of 100001"):
        packed(tmp_path, "long", seq_len=100000)
    with pytest.raises(DataError, match="No tokenizer at 'absent'"):
        packed(tmp_path, tokenizer="absent")
    with pytest.raises(SettingsError, match=r"no token '<x>'; name the token that ends"):
        packed(tmp_path, tokenizer=str(tokenizer), end_token="<x>")
    with pytest.raises(SettingsError, match="has its own end"):
        packed(tmp_path, end_token="<x>")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tokenizer / "tokenizer.json", bare)
    with pytest.raises(SettingsError, match=r"no end token in tokenizer_config\.json"):
        packed(tmp_path, tokenizer=str(bare))
    (bare / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer"):
        packed(tmp_path, tokenizer=str(bare))
    packed(tmp_path)
    with pytest.raises(SettingsError, match="already exists"):
        packed(tmp_path)
    packed(tmp_path, overwrite=True, seq_len=16)


def test_the_command_line_and_a_recipe_pack(tmp_path):
    from treadle.cli import main
    from treadle.recipe import run_recipe

    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    words = ["curate", "pack", str(data), str(tmp_path / "one"), "--tokenizer", "bytes"]
    assert main([*words, "--seq-len", "32", "--rows", "4"]) == 0
    recipe = tmp_path / "r.yaml"
    step = (
        f"curate: {{action: pack, data: '{data}', tokenizer: bytes, seq_len: 32, rows: 4, out: p}}"
    )
    second = "curate: {action: replay, data: p, num_steps: 3, out: seen}"
    recipe.write_text(f"out: {tmp_path / 'two'}\nsteps:\n  - {step}\n  - {second}\n")
    assert len(list(run_recipe(recipe))) == 2
    assert files(tmp_path / "one") == files(tmp_path / "two" / "p")
    assert (tmp_path / "two" / "seen" / "digests.parquet").is_file()


def test_a_log_with_a_loss_that_is_no_number_is_compared(tmp_path):
    ledger, _ = packed(tmp_path)
    log = tmp_path / "log.jsonl"
    log.write_text(f'{{"step": 0, "loss": NaN, "digest": "{ledger.digest(0)}"}}\n{{"loss": NaN}}\n')
    result = replay(tmp_path / "packed", tmp_path / "seen", against=log)
    assert result.measurement("steps_compared").value == 1
    log.write_text('{"step": 0, "digest": "x"\n')
    with pytest.raises(DataError, match=r"holds no steps and digests \(line 1 is not JSON\)"):
        replay(tmp_path / "packed", tmp_path / "again", against=log)


@pytest.mark.parametrize("name", ["curate pack", "curate_pack"])
def test_a_recipe_takes_the_names_of_the_other_doors(tmp_path, name):
    from treadle import curate_pack
    from treadle.recipe import run_recipe

    assert curate_pack is pack
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    settings = f"data: '{data}', tokenizer: bytes, seq_len: 32, rows: 4, out: p"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"out: {tmp_path / 'out'}\nsteps:\n  - {name}: {{{settings}}}\n")
    assert len(list(run_recipe(recipe))) == 1
    curate_pack(data, tmp_path / "p", tokenizer="bytes", seq_len=32, rows=4)
    assert files(tmp_path / "out" / "p") == files(tmp_path / "p")
    for wrong in (f"{name}: {{action: replay, {settings}}}", f"{name}: [1]", "curate_x: {out: p}"):
        recipe.write_text(f"out: {tmp_path / 'two'}\nsteps:\n  - {wrong}\n")
        with pytest.raises(SettingsError, match="unknown verb"):
            list(run_recipe(recipe))


@pytest.mark.parametrize(("setting", "value"), [("seq_len", 0), ("rows", 0), ("rows", -1)])
def test_sizes_of_nothing_are_refused_in_plain_words(
    setting: str, value: int, tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    says = f"{setting} = {value} is refused: expected greater than or equal to 1; change it"
    with pytest.raises(SettingsError, match=says):
        pack(tmp_path / "data.jsonl", tmp_path / "out", tokenizer="bytes", **{setting: value})


def test_what_is_too_short_is_named_by_its_source_and_leaves_nothing(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS[:2])
    with pytest.raises(DataError, match=r"/a.jsonl' has \d+ tokens, too few .* shorten --seq-len"):
        pack(data, tmp_path / "out", tokenizer="bytes", seq_len=99_999_999_999)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("verb", ["curate", "pack", "replay"])
def test_without_room_nothing_is_left_and_no_hidden_name_is_told(tmp_path, verb):
    packed(tmp_path, "packed")
    before = sorted(file.name for file in tmp_path.iterdir())
    data, out = tmp_path / "packed.jsonl", tmp_path / "out"
    run = {
        "curate": lambda: curate(data, out, "exact"),
        "pack": lambda: pack(data, out, tokenizer="bytes", seq_len=32),
        "replay": lambda: replay(tmp_path / "packed", out, num_steps=2),
    }[verb]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CapacityError) as refusal:
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(out) in str(refusal.value)
    assert "partial" not in str(refusal.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_work_is_kept_only_where_the_same_command_goes_on_with_it(tmp_path, monkeypatch):
    def fail(error):
        def raise_it(*_):
            raise error

        monkeypatch.setattr(sys.modules["treadle.text.curate.pack"], "write_rejects", raise_it)
        with pytest.raises(TreadleError) as refusal:
            packed(tmp_path, "out")
        assert ".partial" not in str(refusal.value)
        return (tmp_path / ".out.partial" / "work").exists()

    assert fail(CapacityError(f"no room for '{tmp_path}/.out.partial/x'"))
    assert not fail(DataError(f"'{tmp_path}/.out.partial/x' is no text"))
    assert not fail(SettingsError("a setting is wrong"))


def test_a_share_that_is_no_text_is_told_how_it_is_written(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(SettingsError, match=r"shard = \(2, 2\) .*write '2/16'"):
        curate(data, tmp_path / "out", "exact", shard=(2, 2))
    with pytest.raises(SettingsError, match=r"shard = \(2, 2\) .*write '2/16'"):
        pack(data, tmp_path / "out", tokenizer="bytes", shard=(2, 2))
    for known in ("d1", Path("d1")):
        with pytest.raises(SettingsError, match=r"known = 'd1' is one text.* write \['d1'\]"):
            curate(data, tmp_path / "out", "exact", known=known)
