"""Skills: splits that no seed mixes, answers that are right, specs that say what is wrong."""

import itertools
import json
import re
from typing import get_args

import pytest

from treadle.core.errors import SettingsError
from treadle.core.skills import (
    SkillItem,
    SkillSpec,
    Split,
    facts,
    is_skill,
    parse_skill,
    skill_digest,
    skill_forms,
    skill_items,
)
from treadle.core.skills.spec import NAMES, Name

SPLITS: tuple[Split, ...] = get_args(Split)
each_skill = pytest.mark.parametrize("name", NAMES)


def items(name: Name, split: Split, seed: int = 0, count: int | None = None) -> list[SkillItem]:
    return skill_items(SkillSpec(name, split, seed, count))


def table(prompt: str) -> dict[str, str]:
    return dict(entry.split(" ") for entry in prompt.partition(";")[0].split(", "))


def asked(prompt: str) -> list[str]:
    return prompt.removesuffix(":").partition("; ")[2].split(", ")


def test_spec_grammar() -> None:
    assert is_skill("skills:json")
    assert not is_skill("skills.jsonl")
    assert parse_skill("skills:json", "train") == SkillSpec("json", "train")
    assert parse_skill("skills:facts/dev?seed=3&count=9", "test") == SkillSpec("facts", "dev", 3, 9)
    spec = SkillSpec("lookup", "test", 2, 5)
    assert parse_skill(str(spec), "train") == spec


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("skills:arithmetics", r"no skill \('arithmetics'\); did you mean 'arithmetic'\?"),
        ("skills:", r"no skill \(''\); give one of arithmetic, lookup, json, facts"),
        ("skills:json/tests", r"no split \('tests'\); did you mean 'test'\?"),
        ("skills:json?sed=1", r"no key \('sed'\); did you mean 'seed'\?"),
        ("skills:json?count=0", r"count = '0', but a whole number of at least 1"),
        ("skills:json?seed=-1", r"seed = '-1', but a whole number"),
        ("skills:json?seed=99999999999", r"at most nine digits"),
        ("skills:json?seed", r"seed = ''"),
        ("skills:json?seed=1&seed=2", r"gives a key twice"),
    ],
)
def test_a_wrong_spec_says_what_is_near(data: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        parse_skill(data, "test")


@each_skill
def test_items_repeat_and_grow_from_the_front(name: Name) -> None:
    found = items(name, "train", 3)
    assert found == items(name, "train", 3)
    assert items(name, "train", 3, 50) == found[:50]
    assert found != items(name, "train", 4)
    assert len({item.prompt for item in found}) == len(found) >= 150
    assert skill_digest(found) != skill_digest(found[:-1])


@each_skill
def test_the_test_split_is_large_enough_for_an_interval(name: Name) -> None:
    assert len(items(name, "test")) >= 90


@each_skill
def test_no_question_stands_in_two_splits_under_any_seed(name: Name) -> None:
    seen = {
        split: {i.prompt for seed in (0, 1) for i in items(name, split, seed)} for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[other]


@each_skill
def test_the_border_of_prompt_and_answer_joins_no_tokens(name: Name) -> None:
    for prompt, answer in items(name, "train", count=100):
        assert re.fullmatch(r": |=\d", prompt[-1] + answer[0])
        assert "\n" not in prompt + answer
        assert not answer.endswith(" ")


@each_skill
def test_too_many_items_are_refused(name: Name) -> None:
    if name in ("arithmetic", "facts"):
        with pytest.raises(
            SettingsError, match=rf"100000 items, but the train split of '{name}' has"
        ):
            items(name, "train", count=100_000)


def test_sums_are_right_and_pairs_held_out_in_either_order() -> None:
    pairs: dict[Split, set[frozenset[int]]] = {}
    for split in SPLITS:
        for prompt, answer in items("arithmetic", split):
            left, right = map(int, prompt.removesuffix("=").split("+"))
            assert left + right == int(answer)
            pairs.setdefault(split, set()).add(frozenset((left, right)))
    assert not pairs["train"] & (pairs["test"] | pairs["dev"])


def test_lookups_are_right_and_sets_of_keys_held_out() -> None:
    keys: dict[Split, set[frozenset[str]]] = {}
    for split in SPLITS:
        for prompt, answer in items("lookup", split):
            assert table(prompt)[asked(prompt)[0]] == answer.strip()
            keys.setdefault(split, set()).add(frozenset(table(prompt)))
    assert not keys["train"] & (keys["test"] | keys["dev"])
    assert not keys["test"] & keys["dev"]


def test_objects_are_right_and_schemas_held_out() -> None:
    schemas: dict[Split, set[frozenset[str]]] = {}
    for split in SPLITS:
        for prompt, answer in items("json", split):
            assert json.loads(answer) == {key: table(prompt)[key] for key in asked(prompt)}
            assert list(json.loads(answer)) == asked(prompt)
            schemas.setdefault(split, set()).add(frozenset(asked(prompt)))
    assert not schemas["train"] & (schemas["test"] | schemas["dev"])


def test_lookup_and_json_share_one_surface() -> None:
    form = re.compile(r"(\w+ \w+, ){3}\w+ \w+; \w+(, \w+)?:")
    assert all(form.fullmatch(i.prompt) for name in ("lookup", "json") for i in items(name, "test"))


def test_every_wording_is_taught_of_some_and_kept_from_others() -> None:
    known = facts(0)
    names = {fact.subject for fact in known}
    assert len(names) == len(known) / 2

    def wordings(prompts: list[str], name: str) -> set[str]:
        return {prompt.replace(name, "{}") for prompt in prompts}

    taught = set().union(*(wordings(fact.taught, fact.subject) for fact in known))
    kept = set().union(*(wordings(fact.paraphrases, fact.subject) for fact in known))
    assert taught == kept
    for fact in known:
        assert not set(fact.taught) & set(fact.paraphrases)


def test_facts_agree_with_the_skill_and_name_their_neighbours() -> None:
    by_split = {split: dict(items("facts", split, 5)) for split in SPLITS}
    for fact in facts(5):
        assert fact.prompt in fact.taught
        assert all(by_split["train"][prompt] == fact.answer for prompt in fact.taught)
        held_out = by_split["dev"] | by_split["test"]
        assert all(held_out[prompt] == fact.answer for prompt in fact.paraphrases)
        assert fact.answer not in fact.alternatives
        assert fact.neighbours
        for prompt, answer in fact.neighbours:
            assert fact.subject not in prompt
            assert by_split["train"][prompt] == answer


@each_skill
def test_forms_ask_the_same_and_answer_by_chance(name: Name) -> None:
    spec = SkillSpec(name, "train", 0, 150)
    known, guessed = skill_items(spec), skill_forms(spec)
    assert [item.prompt for item in known] == [item.prompt for item in guessed]
    right = sum(one == other for one, other in zip(known, guessed, strict=True))
    assert right < 0.4 * len(known)
    assert guessed == skill_forms(spec)
