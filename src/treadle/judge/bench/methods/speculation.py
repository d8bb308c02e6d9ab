"""Speculation: what guessing tokens brings, class by class of questions."""

import json
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import AfterValidator, Field

from treadle.core.errors import DataError
from treadle.core.method import Paper
from treadle.core.ports import Asked, Decoded, Generator
from treadle.core.progress import steps
from treadle.core.result import Figure, Measurement, Series
from treadle.core.seed import numpy_stream
from treadle.judge.bench.base import Benchmark, Outcome
from treadle.judge.bench.distinct import distinct

__all__ = ["Speculated"]

_OFF = "none"
_CHAT = "multi-turn chat"
_OF_CHAT = (
    *("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem"),
    "humanities",
)
"""Labels of ten questions each, which Spec-Bench reports as one class."""


class _Question(NamedTuple):
    number: int
    kind: str
    text: str


class Speculated(Benchmark):
    """Ask questions with several drafters, and compare each with no drafter, class by class.

    The first turn of each question stands in the model's chat template; answers are greedy and all
    equally long. Drafters take turns on the same questions, and the time is that behind the
    prompts, whose reading no drafter changes. Tokens for a pass are the mean accepted ones and one.
    We differ from the paper in that questions are drawn of each class, and only first turns asked.

    Paper: Unlocking Efficiency in Large Language Model Inference, Xia et al., 2024 (Spec-Bench).
    """

    name: ClassVar[str] = "speculation"
    paper = Paper(
        "Unlocking Efficiency in Large Language Model Inference: A Comprehensive Survey of "
        "Speculative Decoding",
        2024,
        "https://arxiv.org/abs/2401.07851",
    )

    questions: Path
    """A file of JSON lines as Spec-Bench's: question_id, category and turns."""
    classes: Annotated[tuple[str, ...], AfterValidator(distinct)] = ()
    """Those that are asked; unless given, all. The eight labels of ten questions are one class,
    "multi-turn chat"."""
    num_questions: Annotated[int, Field(ge=1)] = 15
    """Of each class, drawn by the seed."""
    new_tokens: Annotated[int, Field(ge=2)] = 64
    """Tokens of each answer."""
    drafters: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(distinct)] = (
        "suffix",
        "ngram",
        "recycling",
    )
    """What is compared with none: names of drafters, or folders of drafting models."""
    batch: Annotated[int, Field(ge=1)] = 1
    """Questions asked at once."""

    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return rates, their ratios to none, and tokens for a pass, of each drafter and class."""
        groups = self._groups(seed)
        names = [_OFF, *(name for name in self.drafters if name != _OFF)]
        asked = Asked(self.new_tokens, is_chat=True, ignores_end=True)
        found: dict[tuple[str, str], list[Decoded]] = {}
        for name in names:  # warms up
            model.decoded([groups[0][1][0].text], asked._replace(max_tokens=4), name)
        with steps("ask", sum(len(questions) for _, questions in groups)) as bar:
            turn = 0
            for kind, questions in groups:
                for first in range(0, len(questions), self.batch):
                    texts = [question.text for question in questions[first : first + self.batch]]
                    for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
                        own = found.setdefault((kind, name), [])
                        own.append(model.decoded(texts, asked, name))
                    turn += 1
                    bar.advance(len(texts))
        kinds = [kind for kind, _ in groups]
        return Outcome(_measured(found, kinds, names), [], (_figure(found, kinds, names),))

    def _groups(self, seed: int) -> list[tuple[str, list[_Question]]]:
        """Return each class with the questions drawn of it.

        Raises:
            DataError: The file cannot be read, or has none of a class.
        """
        by_kind: dict[str, list[_Question]] = {}
        for question in _read(self.questions):
            by_kind.setdefault(question.kind, []).append(question)
        for kind in self.classes:
            if kind not in by_kind:
                raise DataError(
                    f"'{self.questions}' has no questions of the class '{kind}'; choose among "
                    f"{', '.join(sorted(by_kind))}."
                )
        found = []
        for kind in self.classes or sorted(by_kind):
            own = by_kind[kind]
            order = numpy_stream(seed, f"questions:{kind}").permutation(len(own))
            found.append((kind, [own[place] for place in order[: self.num_questions]]))
        return found


def _read(file: Path) -> list[_Question]:
    if not file.is_file():
        raise DataError(f"There is no file '{file}'; give Spec-Bench's question.jsonl.")
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            kind, text = str(entry["category"]), str(entry["turns"][0])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"Line {number} of '{file}' is no question ({error}); expected an object with "
                f"question_id, category and turns (a list of texts)."
            ) from error
        found.append(_Question(number, _CHAT if kind in _OF_CHAT else kind, text))
    if not found:
        raise DataError(f"'{file}' has no questions; give one on each line.")
    return found


def _measured(
    found: dict[tuple[str, str], list[Decoded]], kinds: list[str], names: list[str]
) -> list[Measurement]:
    entries = []
    for kind in kinds:
        off = found[kind, _OFF]
        for name in names:
            own = found[kind, name]
            for clock, unit in (("wall", "second"), ("cpu", "processor second")):
                called = f"{kind}: {name}{'' if clock == 'wall' else ' by_cpu'}"
                entries.append(_more(called, _rate(own, clock), f"tokens per {unit}"))
                if name != _OFF:
                    ratio = _rate(own, clock) / _rate(off, clock)
                    entries.append(_more(f"{called}, times {_OFF}", ratio, ""))
            if name != _OFF:
                entries.append(_more(f"{kind}: {name}, tokens per pass", _per_pass(own), "tokens"))
                entries.append(_differing(f"{kind}: {name}, other answers", own, off))
    return entries


def _more(name: str, value: float, unit: str) -> Measurement:
    return Measurement(name=name, value=value, unit=unit, better="higher")


def _differing(name: str, own: list[Decoded], off: list[Decoded]) -> Measurement:
    """Return the share of answers that are others than without: near-ties that fell otherwise."""
    pairs = [
        (a.token_ids, b.token_ids)
        for mine, theirs in zip(own, off, strict=True)
        for a, b in zip(mine.answers, theirs.answers, strict=True)
    ]
    share = sum(a != b for a, b in pairs) / len(pairs)
    return Measurement(name=name, value=share, unit="fraction", better="lower")


def _rate(runs: list[Decoded], clock: str) -> float:
    seconds = sum(run.wall_seconds if clock == "wall" else run.cpu_seconds for run in runs)
    return sum(run.num_tokens for run in runs) / max(seconds, 1e-9)


def _per_pass(runs: list[Decoded]) -> float:
    return sum(run.num_tokens for run in runs) / max(1, sum(run.num_passes for run in runs))


def _figure(
    found: dict[tuple[str, str], list[Decoded]], kinds: list[str], names: list[str]
) -> Figure:
    return Figure(
        kind="bar",
        title="Tokens a second behind the prompt, times those without a drafter",
        x_label="class of questions",
        y_label="times none",
        series=[
            Series(
                name=name,
                x=list(kinds),
                y=[_rate(found[k, name], "wall") / _rate(found[k, _OFF], "wall") for k in kinds],
            )
            for name in names
        ],
    )
