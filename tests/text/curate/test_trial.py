"""Trials: better text wins on text like it, equal corpora tie, unequal forms are refused."""

import numpy as np
import pytest
from tests.text.curate import corpora

from treadle.core.errors import SettingsError
from treadle.core.result import read_result
from treadle.text.curate import pack, trial

SMALL = {"steps": 25, "num_seeds": 2, "hidden": 32, "layers": 1, "heldout_rows": 24}


def packed(tmp_path, name, texts, **options):
    rows = [{"id": f"{n}", "text": text} for n, text in enumerate(texts)]
    data = corpora.write_lines(tmp_path / f"{name}.jsonl", rows)
    settings = {"tokenizer": "bytes", "seq_len": 32, "rows": 8, **options}
    pack(data, tmp_path / name, **settings)
    return tmp_path / name


def sentences(seed, num_texts=60):
    words = [
        "the",
        "a",
        "cat",
        "dog",
        "sat",
        "ran",
        "on",
        "under",
        "mat",
        "tree",
        "and",
        "then",
        "saw",
    ]
    generator = np.random.Generator(np.random.Philox(seed))
    return [" ".join(generator.choice(words, 40)) + "." for _ in range(num_texts)]


def noise(seed, num_texts=60):
    generator = np.random.Generator(np.random.Philox(seed))
    return ["".join(map(chr, generator.integers(33, 126, 150))) for _ in range(num_texts)]


def test_text_beats_noise_on_text_and_loses_on_noise(tmp_path):
    raw = packed(tmp_path, "raw", noise(0))
    clean = packed(tmp_path, "clean", sentences(1))
    texts = [packed(tmp_path, "text", sentences(2)), packed(tmp_path, "junk", noise(3))]
    result = trial([raw, clean], tmp_path / "out", heldout=texts, **SMALL)
    assert read_result(tmp_path / "out") == result
    assert result.measurement("clean minus raw on text").high < -0.3
    assert result.measurement("clean minus raw on junk").low > 0.1
    entry = result.measurement("loss of clean on text")
    assert entry.low < entry.value < entry.high < np.log(257)
    verdicts = [note for note in result.notes if "minus" in note]
    assert [("better" in note, "worse" in note) for note in verdicts] == [
        (True, False),
        (False, True),
    ]
    assert [figure.kind for figure in result.figures] == ["line", "interval", "interval"]


def test_the_same_corpus_twice_is_no_different(tmp_path):
    one, two = (packed(tmp_path, name, sentences(1)) for name in ("one", "two"))
    text = packed(tmp_path, "text", sentences(2))
    options = {**SMALL, "steps": 3}
    result = trial([one, two], tmp_path / "out", heldout=[text], **options)
    entry = result.measurement("two minus one on text")
    assert entry.value == entry.low == entry.high == 0
    assert any("no different" in note for note in result.notes)
    with pytest.raises(SettingsError, match="holds a result already"):
        trial([one, two], tmp_path / "out", heldout=[text], **options)
    again = trial([one, two], tmp_path / "out", heldout=[text], overwrite=True, **options)
    assert again.measurements == result.measurements


def test_corpora_of_other_forms_are_refused(tmp_path):
    one = packed(tmp_path, "one", sentences(1))
    longer = packed(tmp_path, "longer", sentences(1), seq_len=16)
    wider = packed(tmp_path, "wider", sentences(1), rows=4)
    for corpora_, texts in (([one, longer], [wider]), ([one], [longer]), ([one, wider], [one])):
        with pytest.raises(SettingsError, match=r"pack all of them alike|have one name"):
            trial(corpora_, tmp_path / "out", heldout=texts, **SMALL)
