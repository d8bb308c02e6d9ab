"""Where an answer begins to repeat itself."""

import random

import pytest

from treadle.runtime.answer.talk import RepeatWatch

SENTENCE = "The loom is a device that weaves threads into cloth, and it is old. "
INTRO = "What is a loom? I will say it. "


def fed(text: str, size: int) -> RepeatWatch:
    """Feed pieces until the watch says stop."""
    watch = RepeatWatch()
    for place in range(0, len(text), size):
        if watch.feed(text[place : place + size]):
            break
    return watch


@pytest.mark.parametrize("size", [1, 5, 40])
@pytest.mark.parametrize("unit", ["ha ", "0, ", SENTENCE, SENTENCE * 3 + "But not always.\n", "—"])
def test_a_run_that_goes_round_is_stopped_soon_and_told_once(unit, size):
    watch = fed(INTRO + unit * 2000, size)
    begins = len(INTRO) + max(240, 3 * len(unit))
    assert begins <= len(watch.text) <= begins + 24 + size
    late = RepeatWatch()
    late.feed(INTRO + unit * 2000)
    for told in (watch.once(), late.once()):  # where they end alike, the intro counts to the run
        assert (INTRO + unit).startswith(told)
        assert len(told) >= len(INTRO + unit) - 2


def by_definition(text: str) -> bool:
    """Say whether some end of a text, 240 characters at least, is three copies of something."""
    for length in range(240, len(text) + 1):
        end = text[-length:]
        if any(end.startswith(end[period:]) for period in range(1, length // 3 + 1)):
            return True
    return False


def test_it_is_what_its_definition_says():
    draw = random.Random(7)
    num_runs = 0
    for _ in range(60):
        unit = "".join(draw.choice("ab") for _ in range(draw.randint(40, 130)))
        text = "".join(draw.choice("ab") for _ in range(40)) + unit * draw.randint(2, 9)
        text = text[: 400 + draw.randint(0, 40)] + draw.choice(["", "", "c"])
        watch = RepeatWatch()
        expected = by_definition(text)
        assert watch.feed(text) is expected
        num_runs += expected
    assert 10 < num_runs < 55


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{n} times {m} is {n * m}.\n" for n in range(1, 10) for m in range(1, 10)),
        "| name | idea | source |\n|---|---|---|\n" + "| a | b | c |\n" * 12,
        SENTENCE * 2 + "That is all.",
        "def f(x):\n" + "    x += 1\n" * 15 + "    return x\n",
        "-" * 200,
        " ".join(str(number) for number in range(500)),
        "",
    ],
)
def test_tables_lists_and_refrains_are_left_alone(text):
    watch = fed(text, 7)
    assert watch.text == text
    assert watch.once() == text
