"""Recall: texts told again from their parts, scores one by one, limits, and through the verb."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_models import to_gguf
from judge.evaluate.runs import measure
from runtime.adapters import write_adapter
from treadle.cli import main
from treadle.core.errors import DataError, SettingsError
from treadle.core.intervals import wilson
from treadle.core.result import read_result
from treadle.core.seed import numpy_stream
from treadle.judge.evaluate.budgets import FULL, Cache, Recalled
from treadle.judge.evaluate.methods.recall import Recall
from treadle.judge.evaluate.needles import KINDS, codec_of, context, pieces_of
from treadle.model.load import load_tokenizer
from treadle.model.text import read_text
from treadle.runtime import LLM, SamplingParams

TASK = {"method": "recall", "context_tokens": 192, "num_questions": 2, "num_needles": 2}
CHUNK = 96
"""More than what follows a text, and a divisor of its length."""
SINKS = {"method": "sinks", "chunk_tokens": CHUNK}
ENGINE = {"keep": SINKS, "keep_budget": 0.25, "kv_dtype": "fp32"}


@pytest.fixture(scope="module")
def model(tiny_model) -> Path:
    return tiny_model("llama", max_position_embeddings=512)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """The first lines of the text that is read where none is given."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(read_text("stdlib:heldout")[0][:6000])
    return str(file)


@pytest.fixture(scope="module")
def codec(model):
    return codec_of(load_tokenizer(model))


@pytest.fixture(scope="module")
def pieces(codec, text):
    return pieces_of(read_text(text)[0], codec)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    count=st.integers(1, 5),
    extra=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_reference_a_text_is_its_filler_with_one_needle_in_each_part(
    model, codec, pieces, kind, count, extra, seed
) -> None:
    """Taking the needles and headings out again leaves a stretch of the real text."""
    length = 60 * count + extra
    made = context(kind, pieces, codec, length, count, numpy_stream(seed, "needles"))
    assert len(made.tokens) == length
    assert len(made.needles) == min(count, KINDS[kind].most_needles)
    rest = list(made.tokens)
    for number, needle in enumerate(made.needles, 1):
        for text in (needle.line, KINDS[kind].heading and f"\nDocument {number}\n"):
            part = codec.encode(text) if text else []
            starts = [at for at in range(len(rest)) if part and rest[at : at + len(part)] == part]
            assert len(starts) == bool(part)
            rest = rest[: starts[0]] + rest[starts[0] + len(part) :] if starts else rest
    whole = [token for piece in pieces for token in piece]
    twice = np.array(whole + whole[: len(rest)])
    windows = np.lib.stride_tricks.sliding_window_view(twice, len(rest)) if rest else twice
    assert not rest or (windows == np.array(rest)).all(axis=1).any()


@pytest.mark.parametrize("mode", ["hidden", "shown"])
def test_reference_each_question_by_itself(model, tmp_path, mode, text) -> None:
    """The scores are those of requests that are made one by one, by hand."""
    task = {**TASK, "question": mode, "kinds": ["keys", "documents"], "num_questions": 1}
    result = measure(model, tmp_path / "out", text, task, **ENGINE)
    asks = Recall.model_validate({k: v for k, v in task.items() if k != "method"}).prepare(
        text, load_tokenizer(model)
    )
    llm = LLM(model, keep=SINKS, keep_budget=48, kv_dtype="fp32")
    full = LLM(model, kv_dtype="fp32")
    right, losses, whole = [], [], []
    for prompt, answer, posed in zip(asks.prompts, asks.answers, asks.state, strict=True):
        params = SamplingParams(temperature=0, max_tokens=asks.max_tokens, stop=["\n", "."])
        said = llm.generate([prompt], params)[0].outputs[0].text
        right.append(float(said.strip() == posed.answer))
        losses.append(-float(llm.log_probs([prompt + answer], [len(prompt)])[0].mean()))
        whole.append(-float(full.log_probs([prompt + answer], [len(prompt)])[0].mean()))
    assert result.samples[f"accuracy_{mode}"] == right
    assert result.samples[f"nll_{mode}"] == pytest.approx(losses, abs=1e-4)
    assert result.measurement(f"full_nll_{mode}").value == pytest.approx(np.mean(whole), abs=1e-4)
    beside = result.measurement(f"nll_{mode}_beside_full")
    assert beside.value == pytest.approx(np.mean(losses) - np.mean(whole), abs=1e-4)
    assert beside.low <= beside.value <= beside.high
    assert beside.value != 0, "entries went"


def test_reference_what_goes_before_the_question_ends_where_it_begins(model, text) -> None:
    """Hidden: only text. Shown: the question, too; then the cue alone follows."""
    tokenizer = load_tokenizer(model)
    asked = "Who is the keeper of"
    for mode in ("hidden", "shown"):
        task = Recall(
            context_tokens=192, num_questions=3, num_needles=2, question=mode, kinds=("documents",)
        )
        asks = task.prepare(text, tokenizer)
        for prompt, answer in zip(asks.prompts, asks.answers, strict=True):
            before, after = (
                tokenizer.decode(part) for part in (prompt[:192], [*prompt[192:], *answer])
            )
            assert (asked in after, asked in before) == (mode == "hidden", mode == "shown")
            fact = after.rpartition("\n")[2]
            assert fact in before, "the answer stands in the text"


def test_limits_a_budget_of_everything_is_the_full_cache(model, tmp_path, text) -> None:
    task = {**TASK, "question": "both", "kinds": ["keys"]}
    result = measure(model, tmp_path / "out", text, task, **ENGINE | {"keep_budget": 1.0})
    for mode in ("hidden", "shown"):
        assert result.measurement(f"nll_{mode}_beside_full").value == pytest.approx(0, abs=1e-5)
        found = [result.measurement(f"{p}accuracy_{mode}").value for p in ("", "full_")]
        assert found[0] == found[1]
    assert result.measurement("kept_bytes").value == result.measurement("full_kept_bytes").value


def test_limits_without_a_policy_the_full_cache_is_asked(model, tmp_path, text) -> None:
    result = measure(model, tmp_path / "out", text, TASK | {"kinds": ["passkey"]}, kv_dtype="fp32")
    assert result.measurement("kept_bytes").value == 192 * 4 * (2 * 16 * 4 + 4)
    pages = result.measurement("peak_bytes").value / (16 * 4 * (2 * 16 * 4 + 4))
    assert 192 / 16 <= pages <= 192 / 16 + 4, "whole pages of the text and what follows it"
    assert result.samples.keys() == {"accuracy_hidden", "nll_hidden"}
    assert len(result.tables[0].rows) == 1
    guess = result.measurement("accuracy_guess_hidden").value
    assert guess == pytest.approx(1 / (10 * 9 * 8 * 7 * 6))


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"context_tokens": 480}, r"the model has 512 positions; lower --context-tokens by"),
        ({"context_tokens": 60}, "needles of kind .documents. take .* lower num_needles"),
        ({"keeps": ["sinks"]}, "keeps has no effect without budgets; add --budgets"),
        ({"budgets": [0.5]}, "budgets has no effect without keeps; add --keeps"),
        ({"chunk_tokens": 8}, "chunk_tokens has no effect without keeps"),
    ],
)
def test_limits_what_has_no_effect_or_no_room_is_refused(model, tmp_path, task, says, text) -> None:
    with pytest.raises(SettingsError, match=says):
        measure(model, tmp_path / "out", text, {**TASK, "num_questions": 1, **task})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({**SINKS, "local": 8}, "local = 8 of 'sinks' has no effect: recall sets it .* leave it"),
        ({**SINKS, "chunk_tokens": 32}, "'sinks' lets entries go after every 32 tokens, and would"),
    ],
)
def test_limits_entries_go_where_the_question_begins_and_nowhere_behind(
    model, tmp_path, keep, says, text
) -> None:
    with pytest.raises(SettingsError, match=says):
        measure(model, tmp_path / "out", text, TASK, keep=keep, keep_budget=0.5)


def test_limits_entries_go_although_no_chunk_has_ended(model, tmp_path, text) -> None:
    task = TASK | {"context_tokens": 150, "kinds": ["keys"], "num_questions": 1}
    late = {"method": "sinks", "chunk_tokens": 256}
    result = measure(model, tmp_path / "out", text, task, keep=late, keep_budget=40)
    (heat,) = [figure for figure in result.figures if figure.kind == "heatmap"]
    assert [row.y for row in heat.series] == [[40.0, 40.0]] * 2


def test_limits_a_text_without_lines_and_one_that_is_no_file(model, tmp_path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="needles hide in is empty; give some lines"):
        measure(model, tmp_path / "out", str(tmp_path / "empty.txt"), TASK)
    with pytest.raises(DataError, match="No text at"):
        measure(model, tmp_path / "out", str(tmp_path / "none.txt"), TASK)


def test_meaning_right_answers_are_told_from_wrong_ones_and_cost_their_bytes(model, text) -> None:
    """Of two caches, the one that knows the answers scores 1, the one that guesses scores 0."""
    task = Recall(context_tokens=192, num_questions=4, num_needles=2, kinds=("keys",))
    asks = task.prepare(text, load_tokenizer(model))
    answers = [posed.answer for posed in asks.state]
    full = Recalled(
        Cache(FULL, None, None), [f" {a} " for a in answers], [0.1] * 4, [[192.0]], 192 * 68, 20000
    )
    other = [answers[0], *(f"{a}s" for a in answers[1:])]
    small = Recalled(
        Cache("sinks", None, 0.25), other, [0.1, 2.1, 3.1, 2.1], [[48.0]], 48 * 68, 9000
    )
    judged = task.score(asks, [full, small])
    value = {entry.name: entry for entry in judged.measurements}
    assert judged.samples["accuracy_hidden"] == [1, 0, 0, 0]
    assert value["full_accuracy_hidden"].value == 1
    assert (value["accuracy_hidden"].low, value["accuracy_hidden"].high) == wilson([1, 0, 0, 0])
    assert value["accuracy_hidden_beside_full"].value == -0.75
    assert value["nll_hidden_beside_full"].value == pytest.approx(1.75)
    assert value["kept_bytes"].value == 48 * 68
    line = judged.figures[0].series[0]
    assert (line.name, line.x, line.y) == ("sinks", [48 * 68, 192 * 68], [0.25, 1.0])
    assert judged.tables[0].losses == ["sinks 0.25, hidden, all"]
    heat = judged.figures[-1]
    assert (heat.kind, heat.series[0].y) == ("heatmap", [48.0])


def test_several_policies_at_several_budgets_stand_on_one_curve(model, tmp_path) -> None:
    words = ["evaluate", "recall", str(model), str(tmp_path / "out"), "--context-tokens", "192"]
    words += ["--num-questions", "1", "--num-needles", "2", "--kinds", "keys"]
    words += ["--keeps", "sinks", "random", "--budgets", "0.5", "24", "--chunk-tokens", str(CHUNK)]
    assert main(words) == 0
    result = read_result(tmp_path / "out")
    curve = result.figures[0]
    assert [line.name for line in curve.series] == ["sinks", "random"]
    full = result.measurement("kept_bytes").value
    assert curve.series[0].x == [full * 24 / 192, full / 2, full]
    assert [row[0].value for row in result.tables[0].rows] == [
        *("full", "sinks 0.5", "sinks 24", "random 0.5", "random 24"),
    ]
    heats = [figure for figure in result.figures if figure.kind == "heatmap"]
    assert len(heats) == 2
    assert [row.y for row in heats[0].series] == [[24.0, 24.0]] * 2
    assert len({value for row in heats[1].series for value in row.y}) > 1, "heads differ by chance"


@pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")
@pytest.mark.parametrize("form", ["phi", "int8", "int4", "adapter", "gguf", "other language"])
def test_conformance_executors_caches_adapters_files_and_languages(
    form, model, tiny_model, tmp_path, text
) -> None:
    asked, data, settings = model, text, dict(ENGINE)
    if form == "phi":  # which the native step does not compute
        asked = tiny_model("phi", max_position_embeddings=512)
    elif form in ("int8", "int4"):
        settings["kv_dtype"] = form
    elif form == "adapter":
        settings["adapter"] = write_adapter(tmp_path / "adapter", model, size=0.1)
    elif form == "gguf":
        asked = tmp_path / "model.gguf"
        to_gguf(model, asked)
    else:
        data = str(tmp_path / "text.txt")
        Path(data).write_text("Der Hund lief über die Straße.\n今日は良い天気です。\n" * 40)
    task = TASK | {"kinds": ["keys"], "num_questions": 1}
    result = measure(asked, tmp_path / "out", data, task, **settings)
    assert result.measurement("nll_hidden").value > 0
    for name in ("kept_bytes", "peak_bytes"):
        assert 0 < result.measurement(name).value < result.measurement(f"full_{name}").value
    peak = result.measurement("peak_bytes").value
    assert peak >= result.measurement("kept_bytes").value, "entries are there until they go"
    json.loads((tmp_path / "out" / "result.json").read_text())


def test_results_of_two_policies_pair_and_other_texts_do_not(model, tmp_path, text) -> None:
    task = TASK | {"kinds": ["keys"], "num_questions": 1}
    first = measure(model, tmp_path / "sinks", text, task, **ENGINE)
    random = ENGINE | {"keep": {"method": "random", "chunk_tokens": CHUNK}}
    second = measure(model, tmp_path / "random", text, task, **random, baseline=tmp_path / "sinks")
    assert second.protocol == first.protocol
    assert second.is_control
    assert not first.is_control
    gap = np.mean(second.samples["nll_hidden"]) - np.mean(first.samples["nll_hidden"])
    assert second.measurement("nll_hidden_difference").value == pytest.approx(gap)
    several = {"keeps": ["sinks"], "budgets": [0.5], "chunk_tokens": CHUNK}
    with pytest.raises(SettingsError, match="compared with one cache, and 2 are asked through"):
        measure(
            *(model, tmp_path / "several", text, task | several),
            **ENGINE,
            baseline=tmp_path / "sinks",
        )
    with pytest.raises(SettingsError, match="they differ in text_seed, tokens_sha256"):
        measure(
            *(model, tmp_path / "other", text, task | {"text_seed": 1}),
            **ENGINE,
            baseline=tmp_path / "sinks",
        )
