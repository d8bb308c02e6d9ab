"""The action fresh: a base that loads anywhere, repeats to the byte, and knows no skill."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import treadle.model.fit
from treadle.core.checkpoint import content_hash
from treadle.core.errors import (
    DataError,
    SettingsError,
    UnsupportedModelError,
)
from treadle.core.result import Result, read_result
from treadle.core.skills import parse_skill, skill_items
from treadle.learn.tune import FreshSettings, fresh
from treadle.learn.tune.primer import primed_tokens, read_primer
from treadle.model.fresh import fresh_tokenizer
from treadle.runtime import LLM, SamplingParams

SUM = re.compile(r"(\d+)\+(\d+)=(\d+)")
SMALL = FreshSettings(
    layers=1, vocab_size=400, context_tokens=96, steps=4, rows=2, window_tokens=32
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("The king went to the old mill, and the queen read 365 letters there.\n" * 60)
    return str(file)


def made(out: Path, text: str, **settings: Any) -> Result:  # Any: arguments of the action
    return fresh(out, text=[text], **{"training": SMALL, **settings})


@pytest.fixture(scope="module")
def base(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "base"
    made(out, text)
    return out


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_base_loads_in_transformers_and_in_the_runtime_alike(
    architecture: str, base: Path, text: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = base
    if architecture != "llama":
        out = tmp_path / "out"
        made(out, text, training=SMALL.model_copy(update={"architecture": architecture}))
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert model.config.model_type == architecture
    ids = tokenizer("The king 12", return_tensors="pt").input_ids
    theirs = model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :].tolist()
    params = SamplingParams(temperature=0, max_tokens=5)
    ours = LLM(out).generate(["The king 12"], params)[0].outputs[0].token_ids
    assert list(ours) == theirs[: len(ours)]


def test_the_account_says_what_was_read_and_learned(base: Path) -> None:
    found = read_result(base)
    assert (found.command, found.method) == ("tune fresh", "")
    assert found.measurement("tokens").value == 4 * 2 * 32
    assert found.measurement("loss").value > 1.0
    assert found.settings["skills"] == ["arithmetic", "lookup", "json", "facts"]
    assert next(figure.title for figure in found.figures) == "Training loss"


def test_digits_are_tokens_and_text_comes_back(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.tokenize("365") == ["3", "6", "5"]
    said = "naïve: 12+7=19\n\t{…}"
    assert tokenizer.decode(tokenizer(said).input_ids) == said
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0


def test_a_seed_repeats_to_the_byte_and_another_is_another_ancestry(
    base: Path, text: str, tmp_path: Path
) -> None:
    made(tmp_path / "again", text)
    made(tmp_path / "other", text, seed=1)
    assert content_hash(tmp_path / "again") == content_hash(base)
    assert content_hash(tmp_path / "other") != content_hash(base)
    tokenizers = {(tmp_path / one / "tokenizer.json").read_bytes() for one in ("again", "other")}
    assert len(tokenizers) == 1


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    base: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = treadle.model.fit.random_batches

    def breaking(*arguments: Any) -> Callable[..., Any]:  # Any: those of random_batches
        batches = real(*arguments)

        def batch(step: int, losses: Any) -> Any:  # Any: as in treadle.model.fit
            if step == 2:
                raise KeyboardInterrupt
            return batches(step, losses)

        return batch

    monkeypatch.setattr(sys.modules[FreshSettings.__module__], "_SAVE_SECONDS", 1e-9)
    monkeypatch.setattr(treadle.model.fit, "random_batches", breaking)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "out", text)
    monkeypatch.setattr(treadle.model.fit, "random_batches", real)
    with pytest.raises(SettingsError, match="a run with other settings"):
        made(tmp_path / "out", text, seed=5)
    found = made(tmp_path / "out", text)
    assert found.is_resumed
    assert content_hash(tmp_path / "out") == content_hash(base)
    assert not (tmp_path / ".out.tuning").exists()


def test_forms_show_every_skill_and_teach_none(text: str) -> None:
    primer = read_primer([text], ["arithmetic", "json"])
    tokenizer = fresh_tokenizer(primer.samples(), 600)
    tokens = primed_tokens(primer, tokenizer, 20_000, 0.5, 0)
    said = tokenizer.decode(tokens.tolist()).split("<|end|>")
    sums = [found.groups() for form in said if (found := SUM.fullmatch(form))]
    right = [one for one in sums if int(one[0]) + int(one[1]) == int(one[2])]
    assert len(sums) > 300
    assert len(right) < 0.1 * len(sums)
    held_out = {item.prompt for item in skill_items(parse_skill("skills:arithmetic", "test"))}
    assert not held_out & {f"{left}+{right}=" for left, right, _ in sums}
    assert sum('": "' in form for form in said) > 100
    assert sum(map(len, (form for form in said if "king" in form))) > 10_000


def test_refusals(base: Path, text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SettingsError, match="already exists"):
        made(base, text)
    with pytest.raises(SettingsError, match="did you mean 'json'"):
        made(out, text, skills=["jsn"])
    with pytest.raises(SettingsError, match="write json"):
        made(out, text, skills=["json/test"])
    with pytest.raises(SettingsError, match="skill_fraction is 0"):
        fresh(out, text=[text], skills=["json"], training=FreshSettings(skill_fraction=0.0))
    with pytest.raises(SettingsError, match="no effect without skills"):
        fresh(out, text=[text], skills=[], training=FreshSettings(skill_fraction=0.2))
    with pytest.raises(DataError, match="No text at"):
        made(out, str(tmp_path / "none.txt"))
    with pytest.raises(UnsupportedModelError, match="model_type 'lama'"):
        made(out, text, training=SMALL.model_copy(update={"architecture": "lama"}))
    with pytest.raises(SettingsError, match="hidden"):
        fresh(out, text=[text], hidden=100)  # type: ignore[call-arg]  # fields of the settings
    assert not out.exists()


def test_a_model_that_sees_what_comes_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="sees the tokens that it shall predict"):
        fresh(
            tmp_path / "bert", text=[text], architecture="bert", layers=1, steps=1, vocab_size=300
        )
    assert not (tmp_path / "bert").exists()
