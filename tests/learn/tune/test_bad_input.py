"""What cannot be done is refused before anything is written, and the message says what to do."""

import shutil

import numpy as np
import pytest

from learn.tune.cases import PAIRS, QUESTIONS, SHORT, written
from treadle.core.checkpoint import CheckpointReader, copy_checkpoint, read_manifest
from treadle.core.errors import DataError, SettingsError, UnsupportedModelError
from treadle.learn.tune import tune
from treadle.model.load import load_tokenizer
from treadle.shrink.prune import prune
from treadle.shrink.quantize import quantize


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("sft", {}, "Neither --data nor --text is given"),
        ("sft", {"data": "d", "text": "t"}, "Both --data and --text are given"),
        ("dpo", {"text": "t"}, "pairs of answers, which no --text has"),
        ("sft", {"data": "d", "steps": 3, "epochs": 1.0}, "Both steps and epochs"),
        ("sft", {"data": "d", "teacher": "t"}, "asks no teacher"),
        ("distill", {"data": "d"}, "add --teacher MODEL"),
        ("sft", {"data": "d", "heldout": "h", "heldout_fraction": 0.1}, "Both heldout and"),
        ("sft", {"text": "t", "heldout_fraction": 0.1}, "no effect on a text"),
        ("sft", {"data": "d", "evaluate_every": 3}, "nothing is held out"),
        ("sft", {"text": "t", "chat": True}, "A text has no prompts"),
        ("dpo", {"data": "d", "shuffle_answers": True}, "cannot be shuffled"),
        ("sft", {"data": "d", "keep_zeros": True, "learn": "lora"}, "no effect on an adapter"),
        ("sfd", {"data": "d"}, "Did you mean 'sft'"),
        ("sft", {"data": "d", "rank": 3}, "no setting 'rank'"),
    ],
)
def test_settings_that_contradict_or_do_nothing(method, settings, says, llama, tmp_path):
    with pytest.raises(SettingsError, match=says):
        tune(llama, tmp_path / "out", method, **settings)
    assert not (tmp_path / "out").exists()


def test_data_that_does_not_fit_the_model(llama, tiny_model, tmp_path):
    data = written(tmp_path / "rows.jsonl", [*QUESTIONS, {"prompt": "x" * 500, "answer": "y"}])
    with pytest.raises(DataError, match=r"1 rows have more than 128 tokens \(line 13 of"):
        tune(llama, tmp_path / "out", "sft", data=data, **SHORT)
    result = tune(llama, tmp_path / "out", "sft", data=data, too_long="drop", **SHORT)
    assert "1 rows were dropped, as they are too long." in result.notes
    with pytest.raises(SettingsError, match="positions"):
        tune(tiny_model("gpt2"), tmp_path / "o", "sft", data=data, max_tokens=4000, **SHORT)


def test_a_teacher_of_another_vocabulary(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "teacher")
    tokenizer = load_tokenizer(tmp_path / "teacher")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "teacher")
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    with pytest.raises(DataError, match=r"another vocabulary .*'<new>' is 320 there and None here"):
        tune(llama, tmp_path / "o", "distill", data=data, teacher=str(tmp_path / "teacher"))


def test_more_likeliest_tokens_than_there_are(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    with pytest.raises(DataError, match="top = 320, and the teacher's vocabulary has 320"):
        tune(llama, tmp_path / "o", "distill", data=data, teacher=str(llama), top=320)


def test_an_output_that_is_there(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for learn in ("all", "lora"):
        with pytest.raises(SettingsError, match="already exists"):
            tune(llama, tmp_path / "out", "sft", data=data, learn=learn, **SHORT)
        with pytest.raises(SettingsError, match="not overwritten"):
            tune(llama, tmp_path / "out", "sft", data=data, learn=learn, overwrite=True, **SHORT)
    with pytest.raises(SettingsError, match="the model's own folder"):
        tune(llama, llama, "sft", data=data, overwrite=True, **SHORT)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_zeros_of_a_pruned_model_stay_through_every_tuning(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    prune(llama, tmp_path / "pruned", "magnitude", pattern="2:4")
    tune(tmp_path / "pruned", tmp_path / "once", "sft", data=data, **SHORT)
    tune(tmp_path / "once", tmp_path / "twice", "sft", data=data, **SHORT)
    tune(tmp_path / "pruned", tmp_path / "free", "sft", data=data, keep_zeros=False, **SHORT)
    zeros = {}
    for name in ("pruned", "twice", "free"):
        with CheckpointReader(tmp_path / name) as reader:
            weight = np.asarray(reader.array("model.layers.0.mlp.up_proj.weight"))
            zeros[name] = weight == 0
    assert np.array_equal(zeros["pruned"], zeros["twice"])
    assert zeros["free"].mean() < 0.01
    manifest = read_manifest(tmp_path / "once")
    assert manifest.provenance.settings["keep_zeros"] is True


def test_zeros_that_are_not_there_cannot_be_kept(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    with pytest.raises(SettingsError, match="has nothing to keep"):
        tune(llama, tmp_path / "out", "sft", data=data, keep_zeros=True, **SHORT)
    prune(llama, tmp_path / "narrow", "magnitude", pattern="neurons", sparsity=0.5)
    tune(tmp_path / "narrow", tmp_path / "out", "sft", data=data, **SHORT)  # none are left


def test_codes_of_few_bits_do_not_learn_but_factors_and_norms_beside_them_do(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    quantize(llama, tmp_path / "q", "rtn", bits=8, group=16)
    with pytest.raises(UnsupportedModelError, match="use --learn lora or --learn norms"):
        tune(tmp_path / "q", tmp_path / "out", "sft", data=data, **SHORT)
    for learn in ("lora", "norms"):
        tune(tmp_path / "q", tmp_path / learn, "sft", data=data, learn=learn, **SHORT)


def test_pairs_are_held_out_and_one_pair_cannot_be(llama, tmp_path):
    one = written(tmp_path / "one.jsonl", PAIRS[:1])
    with pytest.raises(DataError, match=r"All 1 rows would be held out"):
        tune(llama, tmp_path / "o", "dpo", data=one, heldout_fraction=1.0, **SHORT)
    tune(llama, tmp_path / "o", "dpo", data=one, **SHORT)


def test_what_is_held_out_is_not_what_is_learned_and_no_input_lies_in_the_output(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    with pytest.raises(DataError, match="the very rows that are learned"):
        tune(llama, tmp_path / "out", "sft", data=data, heldout=data, **SHORT)
    prune(llama, tmp_path / "out", "magnitude")
    inside = written(tmp_path / "out" / "rows.jsonl", QUESTIONS)
    with pytest.raises(SettingsError, match="lies in the output"):
        tune(llama, tmp_path / "out", "sft", data=inside, overwrite=True, **SHORT)
    skills = {"data": "skills:arithmetic", "heldout": "skills:arithmetic"}
    result = tune(llama, tmp_path / "skilled", "sft", **skills, steps=1, rows=2)
    assert result.measurement("heldout_loss").value > 0  # of the split dev


def test_what_is_measured_is_what_is_written_and_lost_changes_are_told(llama, tmp_path):
    copy_checkpoint(llama, tmp_path / "half", dtype="float16")
    data = written(tmp_path / "pairs.jsonl", PAIRS)
    held = written(tmp_path / "held.jsonl", PAIRS[:3])
    found = {}
    for dtype in (None, "float32"):
        settings = {"steps": 4, "rows": 4, "learning_rate": 1e-6, "dtype": dtype}
        out = tmp_path / str(dtype)
        run = tune(tmp_path / "half", out, "dpo", data=data, heldout=held, **settings)
        found[dtype] = run
        with CheckpointReader(out) as reader:
            assert {info.dtype for info in reader.tensors.values()} == {"F32" if dtype else "F16"}
    lost = [note for note in found[None].notes if "--dtype float32" in note]
    assert len(lost) == 1
    assert not [note for note in found["float32"].notes if "--dtype float32" in note]
    margins = [found[dtype].measurement("heldout_margin").value for dtype in (None, "float32")]
    assert abs(margins[0]) != abs(margins[1])
