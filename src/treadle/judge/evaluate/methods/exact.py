"""Questions whose answers are known to the letter."""

from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Standard
from treadle.core.ports import Answer, Asked
from treadle.core.result import Measurement, digest
from treadle.core.skills import is_skill, parse_skill, skill_digest, skill_items
from treadle.core.table.questions import (
    QUESTION_FORM,
    Question,
    question_in,
    read_lines,
    require_count,
)
from treadle.judge.evaluate.base import AnswerTask, Samples, Scores, TaskPrompts
from treadle.judge.evaluate.paired import compared, share


class Exact(AnswerTask):
    """Have the model answer, and count the answers that are the known ones to the letter.

    Answers are greedy. An answer ends at `stop`, so that a model that was not tuned to end may go
    on to a next question without harm; blanks are brought into one form before it is compared.
    Beside the share of right answers stand what always giving the commonest answer would reach, and
    the share of answers that `max_tokens` cut off. The file is JSONL with `prompt` and `answer`; or
    the data are a skill's items, such as skills:arithmetic (those of its test split), or
    skills:json/dev?seed=1&count=64.
    """

    name: ClassVar[str] = "exact"
    paper = Standard("Rajpurkar et al., SQuAD: 100,000+ Questions, 2016, section 6 (exact match).")

    num_questions: Annotated[int, Field(ge=1)] | None = None
    """Questions to ask, from the start of the file (default: all)."""
    max_tokens: Annotated[int, Field(ge=1)] = 32
    """Most tokens of an answer."""
    stop: str = "\n"
    """An answer ends before this; empty: nowhere but where the model ends it."""
    is_chat: bool = False
    """Put the model's chat template around each prompt."""
    ignores_case: bool = False
    """Take small and capital letters for the same."""
    ignores_space: bool = True
    """Take runs of blanks and line ends for one blank, and drop those at both ends."""

    def prepare(self, data: str) -> TaskPrompts:
        """Read the questions."""
        data, read, data_hash = _read(data)
        questions = require_count(read, self.num_questions, data)
        settings = self.model_dump(mode="json", exclude={"num_questions"})
        protocol = {
            "task": "exact",
            "data": data,
            "num_questions": len(questions),
            "data_sha256": data_hash,
            **settings,
        }
        hashed = {key: value for key, value in protocol.items() if key != "data"}
        asked = Asked(self.max_tokens, (self.stop,) if self.stop else (), self.is_chat)
        return TaskPrompts(
            [question.prompt for question in questions],
            asked,
            {**protocol, "hash": digest(hashed)[:16]},
            [self.normal(question.answer) for question in questions],
        )

    def normal(self, answer: str) -> str:
        """Return an answer in the form in which it is compared."""
        found = " ".join(answer.split()) if self.ignores_space else answer
        return found.casefold() if self.ignores_case else found

    def score(self, prepared: TaskPrompts, answers: list[Answer]) -> Scores:
        """Return the accuracy with its interval, the commonest answer's, and the share cut off."""
        known = prepared.state
        pairs = zip(answers, known, strict=True)
        right = [float(self.normal(answer.text) == wanted) for answer, wanted in pairs]
        commonest, count = Counter(known).most_common(1)[0]
        line = Measurement(
            name="accuracy_commonest",
            value=count / len(known),
            note=f"of always answering {commonest!r}",
        )
        cut = sum(not answer.is_whole for answer in answers) / len(answers)
        cut_off = Measurement(name="cut_off", value=cut, note="share of answers that did not end")
        return [share("accuracy", right), line, cut_off], {"accuracy": right}

    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return the accuracy difference to the baseline with McNemar's exact p-value."""
        return compared(samples, baseline, seed)


def _read(data: str) -> tuple[str, list[Question], str]:
    """Return the data's full name, its questions, and the hash of all of them."""
    if not is_skill(data):
        questions, text = read_lines(Path(data), question_in, QUESTION_FORM)
        return data, questions, digest(text)
    spec = parse_skill(data, "test")
    items = skill_items(spec)
    return str(spec), [Question(*item) for item in items], skill_digest(items)
