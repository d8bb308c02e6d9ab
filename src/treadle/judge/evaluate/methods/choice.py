"""Multiple choice by likelihood."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from treadle.core.method import Standard
from treadle.core.result import Measurement, digest
from treadle.core.table.questions import (
    CHOICE_FORM,
    ChoiceQuestion,
    choice_in,
    read_lines,
    require_count,
)
from treadle.judge.evaluate.base import LossTask, Rows, Samples, Scores
from treadle.judge.evaluate.paired import compared, share

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import Tokenizer


class _Span(NamedTuple):
    """The tokens at a row's end that are its choice."""

    question: int
    first: int
    stop: int
    num_bytes: int


class Choice(LossTask):
    """Answer multiple-choice questions with the choice that the model finds likeliest.

    The log-likelihood of each choice given the query decides: raw, and divided by the choice's
    UTF-8 bytes, which takes away the advantage of short answers. Ties go to the first choice. The
    random line is the mean of 1 / number of choices. The file is JSONL with `query`, `choices` and
    `gold` (an index).
    """

    name: ClassVar[str] = "choice"
    paper = Standard("Brown et al., Language Models are Few-Shot Learners, 2020, section 2.4.")

    num_questions: Annotated[int, Field(ge=1)] | None = None
    """Questions to ask, from the start of the file (default: all)."""
    bos: Literal["auto", "none", "each"] = "auto"
    """Start each query with the tokenizer's BOS token (Gemma needs it) or with its text; auto is as
    the tokenizer itself starts a text."""

    def prepare(self, data: str, tokenizer: "Tokenizer") -> Rows:
        """Read the questions and make a token row of each of their choices."""
        from treadle.model.text import puts_bos

        questions, text = read_lines(Path(data), choice_in, CHOICE_FORM)
        questions = require_count(questions, self.num_questions, data)
        start = [tokenizer.bos_token_id] if puts_bos(tokenizer, self.bos) else []
        rows, spans = [], []
        for number, question in enumerate(questions):
            for choice in question.choices:
                tokens, first = _encode(tokenizer, question.query, choice, start)
                num_bytes = len(choice.strip().encode())
                spans.append(_Span(number, first, len(tokens), num_bytes))
                rows.append(tokens)
        protocol = {
            "task": "choice",
            "data": data,
            "num_questions": len(questions),
            "join": "space",
            "data_sha256": digest(text),
            "tokens_sha256": digest(
                [[row, span.first] for row, span in zip(rows, spans, strict=True)]
            ),
        }
        hashed = {key: value for key, value in protocol.items() if key != "data"}
        # A query and choice of one token in all has nothing to predict, and a loss of zero.
        rows = [row if len(row) > 1 else [*row, 0] for row in rows]
        protocol |= {"hash": digest(hashed)[:16]}
        return Rows(rows, protocol, (questions, spans), [span.first for span in spans])

    def score(self, prepared: Rows, losses: "list[torch.Tensor]") -> Scores:
        """Return raw and byte-normalised accuracy with intervals, and the random line."""
        questions, spans = prepared.state
        raw: list[list[float]] = [[] for _ in questions]
        normalised: list[list[float]] = [[] for _ in questions]
        for span, row in zip(spans, losses, strict=True):
            loss = float(row[: span.stop - span.first].double().sum())
            raw[span.question].append(loss)
            normalised[span.question].append(loss / max(1, span.num_bytes))
        samples = {
            "accuracy": _right(raw, questions),
            "accuracy_normalised": _right(normalised, questions),
        }
        random = sum(1 / len(question.choices) for question in questions) / len(questions)
        line = Measurement(name="accuracy_random", value=random, note="expected of a random guess")
        return [*(share(name, right) for name, right in samples.items()), line], samples

    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return the accuracy differences to the baseline with McNemar's exact p-value."""
        return compared(samples, baseline, seed)


def _encode(
    tokenizer: "Tokenizer", query: str, choice: str, start: list[int]
) -> tuple[list[int], int]:
    """Return the tokens of start, query and choice, and the index of the choice's first token.

    Both are tokenised together, so that the boundary falls where the tokenizer puts it; a token
    that spans it counts to the choice.
    """
    query = query.rstrip()
    text = f"{query} {choice.strip()}"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    first = next(index for index, (_, end) in enumerate(offsets) if end > len(query))
    return [*start, *tokens], max(1, len(start) + first)


def _right(scores: list[list[float]], questions: list[ChoiceQuestion]) -> list[float]:
    return [
        float(min(range(len(row)), key=row.__getitem__) == question.gold)
        for row, question in zip(scores, questions, strict=True)
    ]
