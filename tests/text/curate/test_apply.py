"""What holds for every method: same bytes however it is run, whatever is cut, killed or broken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.text.curate import corpora

from products import few
from treadle import curate
from treadle.core.errors import DataError, SettingsError
from treadle.core.result import read_result
from treadle.core.table import open_source, parts, source
from treadle.text.curate import METHODS
from treadle.text.curate.corpus import Corpus

REPEATED = [{"id": f"rep-{n}", "text": f"again, {n}.\n" * 3, "score": 0} for n in range(2)]
ROWS = [*corpora.records(), *REPEATED]
NAMES = list(METHODS.table)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_DOCUMENTS", 5)
    monkeypatch.setattr(parts, "_PART_GROUPS", 3)
    monkeypatch.setattr(source, "_UNIT_BYTES", 2000)


def settings(name):
    """Return a method with settings that drop some of the documents."""
    extra = {"rules": {"preset": (), "drop": ("num_words<75",)}, "sample": {"fraction": 0.5}}
    return {"method": name, **extra.get(name, {})}


def against(name):
    """Return an evaluation set that is part of some documents, for the method that needs one."""
    return [str(Path(__file__).parent / "evaluation.txt")] if name == "decontaminate" else None


def run(data, out, name, **options):
    return curate(data, out, settings(name), against=against(name), **options)


@pytest.mark.parametrize("name", few(NAMES, "minhash", "lines"))
def test_bytes_do_not_depend_on_workers_or_shards(tmp_path, name):
    whole = corpora.write_lines(tmp_path / "whole" / "a.jsonl", ROWS)
    cut = tmp_path / "cut"
    corpora.write_lines(cut / "a.jsonl", ROWS[:11])
    corpora.write_lines(cut / "b.jsonl.gz", ROWS[11:45])
    corpora.write_lines(cut / "c.jsonl.zst", ROWS[45:60])
    corpora.write_lines(cut / "d.jsonl", ROWS[60:])
    found = []
    for number, (data, workers) in enumerate([(whole, 1), (whole, 2), (whole, 4), (cut, 3)]):
        out = tmp_path / f"out{number}"
        result = run(data, out, name, workers=workers)
        assert result.measurement("documents").value == len(ROWS)
        assert 0 < result.measurement("dropped").value < len(ROWS)
        found.append(corpora.content(out))
    assert len(found[0]) > 4
    for other in found[1:3]:
        assert other == found[0]
    data = [{k: v for k, v in f.items() if k.startswith(("data", "deci"))} for f in found]
    assert data[3] == data[0]


@pytest.mark.parametrize("name", ["exact", "minhash", "lines"])
def test_documents_without_an_id_are_the_same_in_any_shards(tmp_path, name):
    rows = [{"text": row["text"], "n": row["score"]} for row in ROWS]
    whole = corpora.write_lines(tmp_path / "whole.jsonl", rows)
    corpora.write_lines(tmp_path / "cut" / "a.jsonl", rows[:20])
    corpora.write_lines(tmp_path / "cut" / "b.jsonl.zst", rows[20:70])
    corpora.write_lines(tmp_path / "cut" / "c.jsonl", rows[70:])
    result = run(whole, tmp_path / "one", name, workers=2)
    run(tmp_path / "cut", tmp_path / "two", name, workers=1)
    for kind in ("data", "decisions"):
        one, two = (corpora.content(tmp_path / out / kind) for out in ("one", "two"))
        assert one == two
    decided = corpora.read(tmp_path / "one", "decisions")
    assert len({row["id"] for row in decided}) == len(rows)
    assert sum(row["id"].endswith("-2") for row in decided) == len(rows) - len(
        {row["text"] for row in rows}
    )
    assert any("documents without an id have an earlier one's text" in n for n in result.notes)


@pytest.mark.parametrize("name", NAMES)
def test_parquet_shards_leave_the_same_documents(tmp_path, name):
    lines = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    table = corpora.write_parquet(tmp_path / "a.parquet", ROWS)
    run(lines, tmp_path / "one", name)
    run(table, tmp_path / "two", name)
    one, two = corpora.kept(tmp_path / "one"), corpora.kept(tmp_path / "two")
    assert [(r["id"], r["text"]) for r in one] == [(r["id"], r["text"]) for r in two]
    assert [json.loads(r["meta"])["score"] for r in one] == [r["score"] for r in two]


@pytest.mark.parametrize("name", NAMES)
def test_every_document_is_accounted_for(tmp_path, name):
    data = corpora.write_lines(tmp_path / "a.jsonl", [*ROWS, {"text": " "}])
    result = run(data, tmp_path / "out", name)
    decided = corpora.decisions(tmp_path / "out")
    assert list(decided) == [row["id"] for row in ROWS]
    stay = [row["id"] for row in corpora.kept(tmp_path / "out")]
    assert stay == [name for name, row in decided.items() if row["is_kept"]]
    assert all((row["drop_reason"] is None) == row["is_kept"] for row in decided.values())
    assert result.measurement("rejected").value == 1
    assert corpora.content(tmp_path / "out")["rejects.parquet"]
    assert read_result(tmp_path / "out") == result
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", few(NAMES, "exact", "minhash"))
def test_an_output_is_a_source_and_a_second_run_drops_nothing(tmp_path, name):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    run(data, tmp_path / "one", name)
    again = run(tmp_path / "one", tmp_path / "two", name)
    assert again.measurement("dropped").value == 0
    assert corpora.kept(tmp_path / "two") == corpora.kept(tmp_path / "one")


KILLED = """
import os, sys
from treadle import curate
from treadle.core.table import parts, source
from treadle.text.curate import corpus
parts._GROUP_DOCUMENTS, parts._PART_GROUPS, source._UNIT_BYTES = 5, 3, 2000
data, out, name, drop, victim, count, *against = sys.argv[1:]
where = {"measure": (corpus.os, "rename"), "write": (parts.os, "replace")}[victim]
real, left = getattr(*where), int(count)
def rename(*names):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    real(*names)
setattr(*where, rename)
method = {"method": name, **({"preset": (), "drop": (drop,)} if drop else {})}
method |= {"fraction": 0.5} if name == "sample" else {}
curate(data, out, method, workers=1, against=against)
"""


@pytest.mark.parametrize("name", few(NAMES, "lines"))
@pytest.mark.parametrize(("victim", "count"), [("measure", 3), ("write", 5)])
def test_killed_run_goes_on_and_ends_the_same(tmp_path, name, victim, count):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    drop = "num_words<75" if name == "rules" else ""
    words = [
        str(data),
        str(tmp_path / "out"),
        name,
        drop,
        victim,
        str(count),
        *(against(name) or ()),
    ]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert not (tmp_path / "out").exists()
    units = tmp_path / ".out.partial" / "work"
    assert len(list(units.glob("0*"))) >= 3
    result = run(data, tmp_path / "out", name)
    assert any("Resumed" in note for note in result.notes)
    run(data, tmp_path / "whole", name)
    assert corpora.content(tmp_path / "out") == corpora.content(tmp_path / "whole")


@pytest.mark.parametrize("name", few(NAMES, "minhash", "lines"))
def test_shares_of_the_work_end_the_same(tmp_path, name):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    run(data, tmp_path / "whole", name)
    missing = []
    for share in ("2/3", "3/3", "1/3", "1/3"):
        result = run(data, tmp_path / "out", name, shard=share)
        missing.append(result.measurement("units_missing").value)
        assert not (tmp_path / "out").exists()
    assert missing[0] > missing[1] > missing[2] == missing[3] == 0
    assert result.measurement("units_measured").value == 0
    run(data, tmp_path / "out", name)
    assert corpora.content(tmp_path / "out") == corpora.content(tmp_path / "whole")


def test_shares_that_contradict_are_refused(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    for share in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SettingsError, match=f"shard = '{share}' is no share; write i/n"):
            curate(data, tmp_path / "out", "exact", shard=share)
    curate(data, tmp_path / "out", "exact", shard="1/2")
    with pytest.raises(SettingsError, match="holds a run with other settings or documents"):
        curate(data, tmp_path / "out", "minhash", shard="2/2")
    with pytest.raises(SettingsError, match="leave --shard out"):
        run(data, tmp_path / "out", "rules", shard="1/2", statistics=tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("name", NAMES)
def test_a_ray_cluster_leaves_the_same_bytes(tmp_path, name):
    pytest.importorskip("ray")
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    run(data, tmp_path / "one", name)
    run(data, tmp_path / "two", name, engine="ray", workers=2)
    assert corpora.content(tmp_path / "one") == corpora.content(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_mistake_on_a_ray_cluster_says_what_to_mend(tmp_path):
    pytest.importorskip("ray")
    file = corpora.write_lines(tmp_path / "a.jsonl.gz", ROWS)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"is damaged: .*Fetch the file again"):
        curate(file, tmp_path / "out", "exact", engine="ray")


def test_changed_settings_or_documents_begin_anew(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    partial = tmp_path / ".out.partial" / "work" / "00000"
    partial.mkdir(parents=True)
    (partial.parent.parent / "key.txt").write_text("of another run")
    result = curate(data, tmp_path / "out", "exact")
    assert not any("Resumed" in note for note in result.notes)


def test_existing_output_is_replaced_only_when_asked(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    curate(data, tmp_path / "out", "exact")
    with pytest.raises(SettingsError, match="already exists"):
        curate(data, tmp_path / "out", "exact")
    curate(data, tmp_path / "out", "minhash", overwrite=True)
    assert read_result(tmp_path / "out").method == "minhash"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="no output of treadle curate"):
        curate(data, tmp_path / "other", "exact", overwrite=True)


def test_output_inside_the_source_is_refused(tmp_path):
    corpora.write_lines(tmp_path / "docs" / "a.jsonl", ROWS)
    with pytest.raises(SettingsError, match="lies in the source"):
        curate(tmp_path / "docs", tmp_path / "docs" / "out", "exact")


def test_source_without_a_document_is_refused_with_the_reasons(tmp_path):
    rows = [{"body": "x", "n": 1, "meta": {"text": "y"}}]
    for name in ("a.jsonl", "a.jsonl.gz"):
        data = corpora.write_lines(tmp_path / name, rows)
        says = (
            r"no document \(no text in its field\).*\(texts are in: body, meta.text\) with --text-c"
        )
        with pytest.raises(DataError, match=says):
            curate(data, tmp_path / "out", "exact")
    curate(data, tmp_path / "out", "exact", text_column="meta.text")
    assert [row["text"] for row in corpora.kept(tmp_path / "out")] == ["y"]


def test_wrong_number_of_workers_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="workers = 0"):
        curate(tmp_path, tmp_path / "out", "exact", workers=0)


def test_repeated_ids_are_noted(tmp_path):
    rows = [{"id": "same", "text": f"text number {n}"} for n in range(3)]
    result = curate(corpora.write_lines(tmp_path / "a.jsonl", rows), tmp_path / "out", "exact")
    assert any("2 documents have the id of an earlier one" in note for note in result.notes)


def test_texts_are_read_again_by_number(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    opened = open_source(data)
    from treadle.text.curate.corpus import measure
    from treadle.text.curate.engines import choose_engine

    threads = choose_engine("threads", 2)
    measures = (METHODS.resolve("exact").measure,)
    corpus, *_ = measure("measure", measures, opened, tmp_path / "work", threads, {})
    assert isinstance(corpus, Corpus)
    import numpy as np

    wanted = np.array([0, 3, 17, len(ROWS) - 1])
    found = {
        int(number): texts.text(place)
        for numbers, texts in corpus.wanted_texts(wanted)
        for place, number in enumerate(numbers)
    }
    assert found == {int(n): ROWS[n]["text"] for n in wanted}
    assert corpus.ids(wanted) == [ROWS[n]["id"] for n in wanted]


def test_base_install_needs_no_torch(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from treadle.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["curate", "minhash", str(data), str(tmp_path / "out"), "--preset", "fineweb"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout


def test_an_output_around_the_source_is_refused(tmp_path):
    first = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    run(first, tmp_path / "out", "exact", output_format="jsonl")
    inside = tmp_path / "out" / "data" / "part-0000[0-9].jsonl"
    with pytest.raises(SettingsError, match="or the source in it"):
        run(inside, tmp_path / "out", "exact", overwrite=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "far").symlink_to(tmp_path / "out" / "data")
    with pytest.raises(SettingsError, match="or the source in it"):
        run(tmp_path / "linked", tmp_path / "out", "exact", overwrite=True)


def test_numbers_beyond_floats_rank_and_name(tmp_path):
    rows = [{"id": n, "text": "same", "score": s} for n, s in enumerate((1, 10**400, -(10**400)))]
    rows += [{"id": 9, "text": "other", "source": 10**30}]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(data, tmp_path / "out", {"method": "exact", "keep": "best:score"})
    assert [row["id"] for row in corpora.kept(tmp_path / "out")] == ["1", "9"]
    override = (f"{10**30}: num_chars<10",)
    rules = {"method": "rules", "preset": (), "drop": ("num_chars<2",), "override": override}
    curate(data, tmp_path / "rules", rules)
    assert [row["id"] for row in corpora.kept(tmp_path / "rules")] == ["0", "1", "2"]


def test_what_was_mended_does_not_depend_on_workers_or_the_kernel(tmp_path, monkeypatch):
    from treadle.text.curate import apply

    rows = [
        {**row, "ppl": float("nan"), "n": 10**30} if n % 3 else row for n, row in enumerate(ROWS)
    ]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    result = run(data, tmp_path / "one", "exact", workers=1)
    run(data, tmp_path / "four", "exact", workers=4)
    monkeypatch.setattr(apply, "parse_lines", None)
    run(data, tmp_path / "python", "exact")
    found = [corpora.content(tmp_path / out) for out in ("one", "four", "python")]
    assert found[0] == found[1] == found[2]
    assert "mended.parquet" in found[0]
    num_mended = sum(n % 3 > 0 for n in range(len(ROWS)))
    assert result.measurement("mended").value == num_mended
    assert result.measurement("documents").value == len(ROWS)
    assert any(note.startswith(f"Mended: in {num_mended} records a value") for note in result.notes)
    manifest = json.loads((tmp_path / "one" / "treadle.json").read_text())
    assert "mended.parquet" in [file["path"] for file in manifest["side_files"]]
