"""Multiple choice by likelihood."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from treadle.core.errors import DataError
from treadle.core.intervals import bootstrap_mean, wilson
from treadle.core.method import Standard
from treadle.core.result import Comparison, Measurement, digest
from treadle.judge.evaluate.base import Batch, Prepared, Samples, Task
from treadle.judge.evaluate.paired import mcnemar

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_BATCH_ROWS = 32


class _Question(NamedTuple):
    """One item as read."""

    query: str
    choices: list[str]
    gold: int


class _Row(NamedTuple):
    """Where one choice's tokens stand: batch, row, and the losses that belong to the choice."""

    question: int
    batch: int
    row: int
    first: int
    stop: int
    num_bytes: int


class Choice(Task):
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

    def prepare(self, data: str, tokenizer: "PreTrainedTokenizerBase") -> Prepared:
        """Read the questions and lay their choices out as token rows, sorted by length."""
        questions, text = _read(Path(data))
        if self.num_questions and len(questions) < self.num_questions:
            raise DataError(
                f"'{data}' has {len(questions)} questions, but {self.num_questions} were asked "
                f"for; give more, or lower num_questions."
            )
        questions = questions[: self.num_questions]
        encoded: list[tuple[int, list[int], int, int]] = []
        for number, question in enumerate(questions):
            for choice in question.choices:
                tokens, first = _encode(tokenizer, question.query, choice)
                encoded.append((number, tokens, first, len(choice.strip().encode())))
        batches, rows = _lay_out(encoded, tokenizer.eos_token_id or 0)
        protocol = {
            "task": "choice",
            "data": data,
            "num_questions": len(questions),
            "join": "space",
            "data_sha256": digest(text),
            "tokens_sha256": digest([entry[1:3] for entry in encoded]),
        }
        hashed = {key: value for key, value in protocol.items() if key != "data"}
        return Prepared(batches, {**protocol, "hash": digest(hashed)[:16]}, (questions, rows))

    def score(
        self, prepared: Prepared, losses: "list[torch.Tensor]"
    ) -> tuple[list[Measurement], Samples]:
        """Return raw and byte-normalised accuracy with intervals, and the random line."""
        questions, rows = prepared.state
        raw: list[list[float]] = [[] for _ in questions]
        normalised: list[list[float]] = [[] for _ in questions]
        for row in rows:
            loss = float(losses[row.batch][row.row, row.first : row.stop].double().sum())
            raw[row.question].append(loss)
            normalised[row.question].append(loss / max(1, row.num_bytes))
        samples = {
            "accuracy": _right(raw, questions),
            "accuracy_normalised": _right(normalised, questions),
        }
        measurements = []
        for name, right in samples.items():
            low, high = wilson(right)
            value = sum(right) / len(right)
            measurements.append(
                Measurement(name=name, value=value, low=low, high=high, better="higher")
            )
        random = sum(1 / len(question.choices) for question in questions) / len(questions)
        line = Measurement(name="accuracy_random", value=random, note="expected of a random guess")
        return [*measurements, line], samples

    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return the accuracy differences to the baseline with McNemar's exact p-value."""
        found = []
        for name, right in samples.items():
            before = baseline[name]
            differences = [a - b for a, b in zip(right, before, strict=True)]
            low, high = bootstrap_mean(differences, seed)
            p_value = mcnemar(right, before)
            found.append(
                Measurement(
                    name=f"{name}_difference",
                    value=math.fsum(differences) / len(differences),
                    low=low,
                    high=high,
                    better="higher",
                    comparison=Comparison(score=name, neutral=0.0),
                    note=f"McNemar p = {p_value:.3g}",
                )
            )
        return found


def _read(path: Path) -> tuple[list[_Question], str]:
    if not path.is_file():
        raise DataError(
            f"No task file at '{path}'; give a JSONL file with query, choices and gold."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 (byte {error.start}); convert it with iconv."
        ) from error
    questions = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            questions.append(_question(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"Line {number} of '{path}' is no question ({type(error).__name__}: {error}); "
                f'write {{"query": "...", "choices": ["...", "..."], "gold": 0}} on each line.'
            ) from error
    if not questions:
        raise DataError(f"'{path}' holds no questions; write one JSON object on each line.")
    return questions, text


def _question(row: dict[str, Any]) -> _Question:  # Any: JSON values
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"query = {query!r} is no text")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ValueError(f"choices = {choices!r} is no list of texts")
    if type(gold) is not int or len(choices) < 2 or not 0 <= gold < len(choices):
        raise ValueError(f"gold = {gold!r} of {len(choices)} choices")
    return _Question(query, choices, gold)


def _encode(tokenizer: "PreTrainedTokenizerBase", query: str, choice: str) -> tuple[list[int], int]:
    """Return the tokens of query and choice, and the index of the choice's first token.

    Both are tokenised together, so that the boundary falls where the tokenizer puts it; a token
    that spans it counts to the choice.
    """
    query = query.rstrip()
    text = f"{query} {choice.strip()}"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    first = next(index for index, (_, end) in enumerate(offsets) if end > len(query))
    return tokens, max(1, first)


def _lay_out(
    encoded: list[tuple[int, list[int], int, int]], padding: int
) -> tuple[list[Batch], list[_Row]]:
    """Return batches of similar length and, in the order of `encoded`, where each row went."""
    import torch

    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index][1]))
    batches: list[Batch] = []
    rows: dict[int, _Row] = {}
    for start in range(0, len(order), _BATCH_ROWS):
        members = order[start : start + _BATCH_ROWS]
        width = max(2, max(len(encoded[index][1]) for index in members))
        tokens = torch.full((len(members), width), padding)
        for place, index in enumerate(members):
            question, ids, first, num_bytes = encoded[index]
            tokens[place, : len(ids)] = torch.tensor(ids)
            rows[index] = _Row(question, len(batches), place, first - 1, len(ids) - 1, num_bytes)
        batches.append(Batch(tokens))
    return batches, [rows[index] for index in range(len(encoded))]


def _right(scores: list[list[float]], questions: list[_Question]) -> list[float]:
    return [
        float(min(range(len(row)), key=row.__getitem__) == question.gold)
        for row, question in zip(scores, questions, strict=True)
    ]
