"""Samples: a question about what stands before it, in any language, and never of held-out text."""

import re

import numpy as np
import pytest

from treadle.core.errors import DataError
from treadle.model.load import load_tokenizer
from treadle.shrink.sparsify.samples import KINDS, Sample, draw_sample, passages_of

LENGTH = 256


@pytest.fixture(scope="module")
def tokenizer(llama):
    return load_tokenizer(llama)


@pytest.fixture(scope="module")
def parts(tokenizer):
    sentences = [
        f"In year {n} the {'red fox' if n % 2 else 'old crow'} went home. " for n in range(400)
    ]
    return passages_of("".join(sentences), tokenizer, 0.25)


def sample_of(parts, kind: str, seed: int = 0) -> Sample:
    return draw_sample(parts[0], list(KINDS).index(kind), LENGTH, seed, "learned")


def split(sample: Sample, tokenizer) -> tuple[str, str]:
    prompt, answer = np.split(sample.tokens, [sample.num_prompt])
    return tokenizer.decode(prompt), tokenizer.decode(answer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_kind_fills_its_room(kind: str, seed: int, parts) -> None:
    sample = sample_of(parts, kind, seed)
    assert sample.kind == kind
    assert 0.6 * LENGTH < len(sample.tokens) <= LENGTH
    assert 0 < sample.num_prompt < len(sample.tokens)
    again = sample_of(parts, kind, seed)
    assert again.tokens.tolist() == sample.tokens.tolist()
    assert sample_of(parts, kind, seed + 9).tokens.tolist() != sample.tokens.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_answer_stands_in_the_context(seed: int, parts, tokenizer) -> None:
    prompt, answer = split(sample_of(parts, "passkey", seed), tokenizer)
    [number] = re.findall(r"\d{5}", answer)
    assert f"The pass key is {number}. Remember it." in prompt
    prompt, answer = split(sample_of(parts, "key_value", seed), tokenizer)
    asked = prompt.rpartition("\n")[2]
    assert f"\n{asked}{answer}" in prompt
    for kind in ("quote", "stretch", "next_sentence"):
        prompt, answer = split(sample_of(parts, kind, seed), tokenizer)
        assert answer in prompt, kind


def test_the_next_sentence_is_the_one_that_comes_next(parts, tokenizer) -> None:
    for seed in range(4):
        prompt, answer = split(sample_of(parts, "next_sentence", seed), tokenizer)
        after = prompt.rpartition("\nAfter: ")[2].partition("\nFollows: ")[0]
        assert after + answer in prompt or answer[:20] in prompt


def test_a_continuation_goes_on_in_the_text(parts, tokenizer) -> None:
    sample = sample_of(parts, "continuation")
    whole = tokenizer.decode(parts[0].tokens)
    assert tokenizer.decode(sample.tokens) in whole


def test_held_out_samples_are_of_other_text(parts, tokenizer) -> None:
    learned, held = (
        {
            number
            for n in range(6)
            for number in years(draw_sample(part, n, LENGTH, 0, share), tokenizer)
        }
        for part, share in zip(parts, ("learned", "held"), strict=True)
    )
    assert learned
    assert held
    assert not learned & held


def years(sample: Sample, tokenizer) -> set[str]:
    return set(re.findall(r"year (\d+) ", tokenizer.decode(sample.tokens)))


def test_text_without_words_or_latin_letters_will_do(tokenizer) -> None:
    text = "".join(f"第{n}年，狐狸回家了。" for n in range(300))
    learned, _ = passages_of(text, tokenizer, 0.2)
    assert len(learned.sentences) > 200
    for number in range(len(KINDS)):
        sample = draw_sample(learned, number, LENGTH, 0, "learned")
        assert len(sample.tokens) > sample.num_prompt


def test_a_short_text_is_refused_with_what_was_found(tokenizer) -> None:
    learned, held = passages_of("One. Two. Three. Four. Five. Six. " * 30, tokenizer, 0.1)
    with pytest.raises(DataError, match=r"held part of the text has \d+ tokens.*give more text"):
        draw_sample(held, 0, LENGTH, 0, "held")
    with pytest.raises(DataError, match="raise --sample-tokens"):
        draw_sample(learned, list(KINDS).index("passkey"), 24, 0, "learned")
