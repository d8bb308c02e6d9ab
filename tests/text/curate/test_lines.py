"""Lines and paragraphs that stand more than once."""

import pytest
from tests.text.curate import corpora

from treadle import curate

NOTICE = "All rights reserved, do not copy this page."
OWN = [f"This is what only page number {n} says about it." for n in range(4)]


def run(tmp_path, texts, **settings):
    rows = [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    result = curate(data, tmp_path / "out", {"method": "lines", **settings}, overwrite=True)
    return {str(row["id"]): row["text"] for row in corpora.kept(tmp_path / "out")}, result


def test_a_line_stays_in_one_place_only(tmp_path):
    texts = [f"{own}\n\n{NOTICE}\n- ok" for own in OWN]
    found, result = run(tmp_path, texts)
    assert sum(text.count(NOTICE) for text in found.values()) == 1
    for number, own in enumerate(OWN):
        assert found[f"d{number}"] in (f"{own}\n\n{NOTICE}\n- ok", f"{own}\n\n- ok")
    assert "3 of 8 lines" in result.notes[0]
    assert f"{3 * len(NOTICE)} characters" in result.notes[0]


def test_short_lines_stay_wherever_they_stand(tmp_path):
    found, _ = run(tmp_path, [f"{own}\n}}\nreturn x\n}}" for own in OWN])
    assert found == {f"d{n}": f"{own}\n}}\nreturn x\n}}" for n, own in enumerate(OWN)}
    found, _ = run(tmp_path, [f"{own}\nreturn x" for own in OWN], min_piece_chars=8)
    assert sum("return x" in text for text in found.values()) == 1


def test_a_line_repeated_in_one_document_stays_where_it_stood_first(tmp_path):
    found, _ = run(tmp_path, [f"{NOTICE}\n{OWN[0]}\n  {NOTICE}\n{NOTICE}"])
    assert found["d0"] == f"{NOTICE}\n{OWN[0]}"


def test_paragraphs_are_compared_whole(tmp_path):
    texts = [f"{NOTICE}\n{OWN[0]}\n\n{OWN[1]}", f"{OWN[2]}\n\n{NOTICE}\n{OWN[0]}", NOTICE + OWN[3]]
    found, _ = run(tmp_path, texts, unit="paragraph")
    assert sum(f"{NOTICE}\n{OWN[0]}" in text for text in found.values()) == 1
    assert found["d2"] == texts[2]
    assert all(text in "\n\n".join(found.values()) for text in OWN)


@pytest.mark.parametrize("order", [1, -1])
def test_the_place_does_not_depend_on_the_order_of_documents(tmp_path, order):
    rows = [{"id": f"d{n}", "text": f"{own}\n{NOTICE}"} for n, own in enumerate(OWN)]
    one = corpora.write_lines(tmp_path / "a.jsonl", rows)
    other = corpora.write_lines(tmp_path / "b.jsonl", rows[::order])
    for number, data in enumerate((one, other)):
        curate(data, tmp_path / f"out{number}", "lines")
    found = [{r["id"]: r["text"] for r in corpora.kept(tmp_path / f"out{n}")} for n in (0, 1)]
    assert found[0] == found[1]


def test_document_of_which_too_little_is_left_goes_with_what_is_left(tmp_path):
    found, _ = run(tmp_path, [NOTICE, f"{NOTICE}\nmore", NOTICE, "short"])
    assert len(found) == 2
    assert found["d3"] == "short"
    dropped = [r for r in corpora.decisions(tmp_path / "out").values() if not r["is_kept"]]
    assert {row["drop_reason"] for row in dropped} == {"too little left"}
    assert all(row["drop_value"] < 20 for row in dropped)


def test_sorting_in_ranges_removes_the_same(tmp_path, monkeypatch):
    from treadle.text.curate import keys as sorting

    texts = [
        "\n".join(str(row["text"])[at : at + 40] for at in range(0, 200, 40))
        for row in corpora.records()
    ]
    whole, _ = run(tmp_path, texts)
    monkeypatch.setattr(sorting, "_SORT_BYTES", 500)
    assert run(tmp_path, texts)[0] == whole
