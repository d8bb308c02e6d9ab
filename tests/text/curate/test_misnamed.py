"""Fields, policies and actions that do not exist: what was meant is named."""

import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle import curate_pack as pack
from treadle.core.errors import DataError, SettingsError


@pytest.mark.parametrize("verb", ["exact", "pack"])
def test_a_field_of_ids_that_nobody_has_is_refused(tmp_path, verb):
    def run_it(name):
        if verb == "pack":
            return pack(data, tmp_path / name, tokenizer="bytes", seq_len=8, id_column="key")
        return curate(data, tmp_path / name, "exact", id_column="key")

    rows = [{"keys": f"k{n}", "text": f"text number {n}"} for n in range(3)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"No document has an id in 'key'.*Did you mean 'keys'"):
        run_it("none")
    assert not list(tmp_path.glob(".none*"))
    corpora.write_lines(data, [*rows, {"key": "k", "text": "another"}])
    notes = run_it("some").notes
    assert "3 of 4 documents have no id in 'key': a hash of the text stands for it." in notes
    corpora.write_lines(data, [{"key": {"a": 1}, "text": "t" * 9}])
    assert any("an id that is no text or number" in note for note in run_it("object").notes)


def test_a_policy_by_a_field_suggests_one_that_ranks(tmp_path):
    rows = [{"id": f"{n}", "text": "t", "score": n, "day": "2020-01-01", "who": "x"} for n in "123"]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    for wrong in ("earliest:text", "best:who", "best:scores"):
        with pytest.raises(DataError, match="to keep copies by") as refusal:
            curate(data, tmp_path / "out", "exact", keep=wrong)
        listed = str(refusal.value).partition("Choose one of: ")[2]
        assert listed == "id, score, day."
    corpora.write_lines(data, [{"id": f"i{n}", "text": "t"} for n in "123"])
    with pytest.raises(DataError, match="None does: take longest or first"):
        curate(data, tmp_path / "out", "exact", keep="best:who")
    for meta in ("no JSON", "[1]", '{"score": 2}'):
        file = corpora.write_parquet(tmp_path / "b.parquet", [{"text": "t", "meta": meta}] * 2)
        with pytest.raises(DataError, match="to keep copies by"):
            curate(file, tmp_path / "out", "exact", keep="best:who")


def test_an_action_is_named_where_a_verb_or_a_method_is_looked_for(tmp_path):
    import treadle

    with pytest.raises(AttributeError, match=r"no verb 'pack'; the action .* is curate_pack; "):
        _ = treadle.pack
    with pytest.raises(AttributeError, match=r"is merge_extract_lora; "):
        _ = treadle.extract_lora
    with pytest.raises(AttributeError, match=r"no verb 'nope'; it has the verbs .* curate_replay"):
        _ = treadle.nope
    for verb, action in ((treadle.curate, "pack"), (treadle.merge, "yaml")):
        name = f"{verb.__name__}_{action}"
        with pytest.raises(
            SettingsError, match=rf"'{action}' is an action .* call {name}\("
        ) as one:
            verb(["a"] if verb is treadle.merge else "a", tmp_path / "out", method=action)
        assert f"from treadle import {name}" in str(one.value)
        assert callable(getattr(treadle, name))
