"""Rules on the words of one language say what share of the other scripts fell for want of them."""

import re

import numpy as np
import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.native.text import Texts
from treadle.text.curate.scripts import SCRIPTS, scripts_of

SENTENCES = {
    "Latin": "the cat sat on the mat and it was good to be there with that dog of mine. ",
    "Cyrillic": "съешь ещё этих мягких французских булок да выпей же чаю на дорогу. ",
    "Greek": "ξεσκεπάζω την ψυχοφθόρα βδελυγμία και λέω ότι όλα είναι καλά. ",
    "Han": "我能吞下玻璃而不伤身体今天天气很好我们一起去公园玩吧。",
    "Kana": "いろはにほへとちりぬるをわかよたれそつねならむ。",
    "Hangul": "나는 유리를 먹을 수 있어요 그래도 아프지 않아요. ",
    "Arabic": "أنا قادر على أكل الزجاج و هذا لا يؤلمني في كل يوم جديد. ",
    "Devanagari": "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती है। ",
    "Thai": "ฉันกินกระจกได้แต่มันไม่ทำให้ฉันเจ็บเลยสักนิดเดียว ",
    "Hebrew": "אני יכול לאכול זכוכית וזה לא מזיק לי בכל יום חדש. ",
}
GERMAN = "der Hund lief über die Straße und niemand sah ihn dort je wieder. "


def documents(counts):
    rows, sentences = [], {**SENTENCES, "German": GERMAN}
    for script, count in counts.items():
        for number in range(count):
            words = f"{sentences[script]}{number} ".replace(". ", f" {number}. ") * 8
            rows.append({"id": f"{script}-{number}", "text": words})
    return rows


def notes_of(tmp_path, counts, **settings):
    data = corpora.write_lines(tmp_path / "a.jsonl", documents(counts))
    method = {"method": "rules", "preset": (), **settings}
    result = curate(data, tmp_path / "out", method, overwrite=True)
    return [note for note in result.notes if "for want of" in note]


def test_scripts_are_told_by_their_letters():
    texts = Texts.of([*SENTENCES.values(), "12 + 3 = !", "", "Latin и ещё много кириллицы здесь"])
    found = [SCRIPTS[place] for place in scripts_of(texts)]
    assert found == [*SENTENCES, "no known", "no known", "Cyrillic"]
    assert scripts_of(Texts.of([])).dtype == np.int8


@pytest.mark.parametrize("script", [name for name in SENTENCES if name != "Latin"])
def test_what_fell_for_want_of_words_is_said_by_script(tmp_path, script):
    stop_words = ("num_gopher_stop_words<2",)
    (note,) = notes_of(tmp_path, {"Latin": 3, script: 4}, drop=stop_words)
    assert note.startswith(f"Of 4 documents in {script} script 4 (100%) went for want of English")
    assert "(num_gopher_stop_words < 2: 4)" in note
    assert note.endswith(
        "leave out num_gopher_stop_words < 2, which --drop or --override asks for."
    )


def test_each_rule_is_named_with_its_share(tmp_path):
    notes = notes_of(tmp_path, {"Latin": 2, "Cyrillic": 3, "Han": 2}, preset=("gopher",))
    assert len(notes) == 2
    assert "Cyrillic" in notes[0]
    assert "num_gopher_stop_words < 2: 3" in notes[0]
    assert re.search(r"Han script 2 \(100%\) .*num_words < 50: 2", notes[1])


def test_another_language_of_the_same_script_is_noted_where_it_is_a_share(tmp_path):
    drop = ("num_gopher_stop_words<2",)
    (note,) = notes_of(tmp_path, {"Latin": 2, "German": 2}, drop=drop)
    assert note.startswith("Of 4 documents in Latin script 2 (50%)")
    assert not notes_of(tmp_path, {"Latin": 19, "German": 1}, drop=drop)
    assert not notes_of(tmp_path, {"Latin": 2, "German": 2}, drop=("num_words<20000",))


def test_texts_that_stay_need_no_note(tmp_path):
    assert not notes_of(tmp_path, {"Latin": 2, "Cyrillic": 2}, drop=("digit_fraction>0.9",))


LETTERS = {
    "Thai": ("Thai", "กขคงจชซญดตถทธนบปผพภมยรลวสหอะาเแโ", "", " "),
    "Chinese": ("Han", "".join(map(chr, range(0x4E00, 0x5200))), "", "。"),
    "Japanese": ("Kana", "いろはにほへとちりぬるをわかよたれそつねならむうゐのおくやま", "", "。"),
    "Russian": ("Cyrillic", "абвгдежзиклмнопрстуфхцчшыьэюя", " ", ". "),
    "Arabic": ("Arabic", "ابتثجحخدذرزسشصضطظعغفقكلمنهوي", " ", "، "),
    "Hindi": ("Devanagari", "कखगघचछजटठडतथदधनपफबभमयरलवशसहािीुू", " ", "। "),
    "German": ("Latin", "abcdefghijklmnoprstuwzäöüß", " ", ". "),
}


def written_in(language, count=6):
    """Return documents of words that nobody says, in a language's letters and spaces."""
    _, letters, space, end = LETTERS[language]
    draw = np.random.Generator(np.random.Philox(5))
    known = ["".join(draw.choice(list(letters), draw.integers(3, 8))) for _ in range(80)]
    rows = []
    for number in range(count):
        lines = []
        for _ in range(6):
            words = draw.choice(known, 30).tolist()
            lines.append(space.join(words[:15]) + end + space.join(words[15:]) + end.strip())
        rows.append({"id": f"{language}-{number}", "text": "\n".join(lines)})
    return rows


@pytest.mark.parametrize("preset", ["gopher", "fineweb", "matrix-en", "map-cc"])
@pytest.mark.parametrize("language", LETTERS)
def test_the_mend_of_the_note_keeps_what_it_says(tmp_path, language, preset):
    data = corpora.write_lines(tmp_path / "a.jsonl", written_in(language))
    settings = {"preset": preset}
    result = curate(data, tmp_path / "before", "rules", **settings)
    notes = [note for note in result.notes if "for want of" in note]
    if not notes:
        assert result.measurement("kept").value > 0
        return
    (note,) = notes
    assert note.startswith(f"Of 6 documents in {LETTERS[language][0]} script 6 (100%) went")
    is_unspaced = language in ("Thai", "Chinese", "Japanese") and preset != "map-cc"
    assert ("no spaces between words" in note) == is_unspaced
    waived = re.search(r"--waive ([\w,]+)\)", note)[1].split(",")
    assert len(set(waived)) == len(waived)
    others = re.search(r"Even so (\d+) of them go", note)
    result = curate(data, tmp_path / "after", "rules", **settings, waive=waived)
    assert result.measurement("kept").value == 6 - int(others[1] if others else 0)
    assert not any("for want of" in note for note in result.notes)
    assert others is None or preset == "map-cc"
