"""Reach 24 with four numbers: a tree of thoughts whose branches a rule judges.

Usage: python examples/game_of_24.py [MODEL] [--quick] [NUMBER NUMBER NUMBER NUMBER]
"""

import re
import sys
from fractions import Fraction
from itertools import permutations

from treadle.runtime import LLM

PROMPT = """\
Use each number once to reach 24.
Input: 4 4 6 8
4 + 8 = 12
6 - 4 = 2
2 * 12 = 24
Input: 2 9 10 12
12 * 2 = 24
10 - 9 = 1
24 * 1 = 24
Input: 1 1 4 6
1 - 1 = 0
4 * 6 = 24
0 + 24 = 24
Input: {numbers}
"""
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
WORDS = [word for word in sys.argv[1:] if not word.startswith("-")]
NUMBERS = [int(word) for word in WORDS if word.isdecimal()] or [3, 4, 6, 9]
MODEL = next((word for word in WORDS if not word.isdecimal()), "packaged:smollm2")
SIZE = (
    {"thoughts": 3, "width": 2, "thought_tokens": 6}
    if "--quick" in sys.argv
    else {"thoughts": 16, "width": 4, "thought_tokens": 24}
)


def results(a: Fraction, b: Fraction) -> dict[str, Fraction]:
    found = {"+": a + b, "-": a - b, "*": a * b}
    return found | ({"/": a / b} if b else {})


def can_reach(left: list[Fraction]) -> bool:
    if len(left) == 1:
        return left[0] == 24
    return any(
        can_reach([value, *rest])
        for a, b, *rest in permutations(left)
        for value in results(a, b).values()
    )


def worth(text: str) -> float:
    """One for each step that is right; a half more while 24 can still be reached."""
    left, right = [Fraction(number) for number in NUMBERS], 0
    for line in text.strip().splitlines():
        step = STEP.fullmatch(line.strip())
        if step is None:
            return right
        a, operation, b, value = Fraction(step[1]), step[2], Fraction(step[3]), Fraction(step[4])
        if results(a, b).get(operation) != value or not {a, b} <= set(left):
            return right
        left.remove(a)
        if b not in left:
            return right
        left.remove(b)
        left, right = [*left, value], right + 1
    return right + 0.5 * can_reach(left)


llm = LLM(MODEL, max_num_seqs=64)
thinking = {"method": "tree_of_thoughts", "depth": len(NUMBERS) - 1, "is_distinct": False, **SIZE}
prompt = PROMPT.format(numbers=" ".join(map(str, NUMBERS)))
if "--quick" in sys.argv:  # a tiny model's context is short
    prompt = prompt[-40:]
found = llm.search(prompt, thinking, scorer=worth, max_tokens=96, seed=1)
as_many = SIZE["thoughts"] * (1 + 2 * SIZE["width"]) // 3  # whole answers of three thoughts each
alone = llm.search(
    prompt,
    {"method": "best_of", "n": as_many, "temperature": 0.7, "is_distinct": False, "stop": ["In"]},
    scorer=worth,
    max_tokens=96,
    seed=1,
)
for name, tree in (("tree of thoughts", found), (f"best of {as_many} answers", alone)):
    score = 0 if tree.best is None else tree.best.score
    print(f"{name}: the best is worth {score} of 3.5, one by chance {tree.mean_score or 0:.2f}")
    print(f"  {tree.num_computed_tokens} tokens ran, {tree.num_alone_tokens} without sharing")
print("Answer:", *(found.best.text.strip().splitlines() if found.best else []), sep="\n  ")
