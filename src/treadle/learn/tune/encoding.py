"""Rows as tokens, and which of them are answers: only these have a loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError
from treadle.learn.tune.rows import Conversation, Message, PreferredPair, Prompted, Row, Text
from treadle.model.text import puts_bos

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["Encoder", "TaughtDocument"]

Tokens = npt.NDArray[np.int64]


class TaughtDocument(NamedTuple):
    """A row as tokens."""

    where: str
    tokens: Tokens
    is_answer: npt.NDArray[np.bool_]
    """Of each token; the first one is predicted by nothing, and never an answer."""
    answer_bytes: int
    """UTF-8 bytes of the answers' text."""

    @property
    def num_answers(self) -> int:
        """How many tokens have a loss."""
        return int(self.is_answer.sum())

    def cut(self, num_tokens: int) -> "TaughtDocument":
        """Return its first tokens."""
        share = float(self.is_answer[:num_tokens].sum() / max(1, self.num_answers))
        return TaughtDocument(
            self.where,
            self.tokens[:num_tokens],
            self.is_answer[:num_tokens],
            round(self.answer_bytes * share),
        )


class Encoder:
    """Makes documents of rows.

    Args:
        tokenizer: The model's.
        is_chat: Whether prompts are what a user says: then the chat template stands around them.
    """

    def __init__(self, tokenizer: "Tokenizer", is_chat: bool) -> None:
        self._tokenizer, self._is_chat = tokenizer, is_chat
        self.end: int | None = tokenizer.eos_token_id
        """The token that ends an answer; a chat template has its own."""
        begins = puts_bos(tokenizer, "auto")
        self.begin: int | None = tokenizer.bos_token_id if begins else None
        """The token with which texts begin, if the tokenizer writes one."""
        self.notes: dict[str, None] = {}
        """What is to be said of the template."""

    def documents(self, row: Row) -> list[TaughtDocument]:
        """Return a row's documents: mostly one, and two of a pair.

        A conversation has one for each answer where its template shows earlier answers otherwise
        once later ones stand behind them.

        Raises:
            DataError: It has no answer, or the template no place for one.
        """
        if isinstance(row, PreferredPair):
            return [self._preferred(row.chosen), self._preferred(row.rejected)]
        if isinstance(row, Text):
            return [self._text(row)]
        if isinstance(row, Conversation):
            return self._conversation(row)
        if self._is_chat:
            asked: Message = {"role": "user", "content": row.prompt}
            said: Message = {"role": "assistant", "content": row.answer}
            first = ({"role": "system", "content": row.system},) if row.system else ()
            return self._conversation(Conversation(row.where, (*first, asked, said)))
        if row.system:
            raise DataError(
                f"{row.where.capitalize()} has a system prompt, for which plain prompts have no "
                f"place; pass --chat, or write it into the prompt."
            )
        return [self._prompted(row)]

    def _preferred(self, side: Prompted | Conversation) -> TaughtDocument:
        """Return one side of a pair, of which the last answer is compared."""
        if isinstance(side, Prompted):
            return self.documents(side)[0]
        if side.messages[-1]["role"] != "assistant":
            raise DataError(
                f"{side.where.capitalize()} ends with a message of '{side.messages[-1]['role']}', "
                f"and an answer of the assistant was expected; add it."
            )
        last = len(side.messages) - 1
        return self._spans(side, [last], [self._answer(side, last)])

    def _ids(self, text: str, special: bool) -> list[int]:
        found = self._tokenizer(text, add_special_tokens=special, verbose=False)
        return [int(token) for token in found.input_ids]

    def _start(self, text: str) -> list[int]:
        """Return the tokens of a text as the runtime reads it, without what ends it."""
        ids = self._ids(text, special=True)
        return ids[:-1] if self.end is not None and len(ids) > 1 and ids[-1] == self.end else ids

    def _text(self, row: Text) -> TaughtDocument:
        tokens = self._start(row.text)
        ended = tokens if self.end is None else [*tokens, self.end]
        if len(ended) < 2:
            raise DataError(
                f"{row.where.capitalize()} has a text of {len(tokens)} tokens, which predicts "
                f"nothing; leave it out."
            )
        is_answer = np.ones(len(ended), dtype=np.bool_)
        is_answer[0] = False
        return _document(row.where, ended, is_answer, row.text)

    def _prompted(self, row: Prompted) -> TaughtDocument:
        before = self._start(row.prompt)
        if not before:
            raise DataError(
                f"{row.where.capitalize()} has an empty prompt, and the tokenizer begins with no "
                f"token of its own; give a prompt, or write the answer as a text."
            )
        if not row.answer.strip():
            raise DataError(f"{row.where.capitalize()} has an empty answer; leave it out.")
        whole = self._start(row.prompt + row.answer)
        if whole[: len(before)] != before:  # a token lies across the border
            apart = [*before, *self._ids(row.answer, special=False)]
            if self._tokenizer.decode(apart) == self._tokenizer.decode(whole):
                whole = apart
        begin = _common(before, whole)
        if begin == len(whole):
            raise DataError(
                f"{row.where.capitalize()} has an answer that adds no token to its prompt; change "
                f"it, or leave it out."
            )
        ended = whole if self.end is None else [*whole, self.end]
        is_answer = np.zeros(len(ended), dtype=np.bool_)
        is_answer[max(1, begin) :] = True
        return _document(row.where, ended, is_answer, row.answer)

    def _conversation(self, row: Conversation) -> list[TaughtDocument]:
        places = [n for n, one in enumerate(row.messages) if one["role"] == "assistant"]
        if not places:
            raise DataError(
                f"{row.where.capitalize()} has no message of the assistant, so that there is "
                f"nothing to learn; add one, or leave it out."
            )
        whole = self._rendered(row, len(row.messages))
        answers = [self._answer(row, place) for place in places]
        if all(whole.startswith(before + said) for before, said in answers):
            return [self._spans(row, places, answers)]
        return [self._spans(row, [n], [one]) for n, one in zip(places, answers, strict=True)]

    def _answer(self, row: Conversation, place: int) -> tuple[str, str]:
        """Return what the template writes before an answer, and what of it is the answer."""
        content = str(row.messages[place].get("content") or "")
        if not content.strip() and not row.messages[place].get("tool_calls"):
            raise DataError(
                f"{row.where.capitalize()}: messages[{place}] is an empty answer; leave it out."
            )
        after = self._rendered(row, place + 1)
        before = self._rendered(row, place, asks=True) if place else ""
        if not place or not after.startswith(before):
            asked, before = before, self._until(row, place)
            if asked:
                self._note_otherwise(asked[_common(asked, before) :])
        said = after[len(before) :].rstrip()  # what stands behind the end of a turn is not said
        if not said or not _shows(said, content):
            raise DataError(
                f"{row.where.capitalize()}: the model's chat template has no place for "
                f"messages[{place}], the assistant's {content[:40]!r}; mend the template, or give "
                f"prompts and answers without --chat."
            )
        if "<think>" in content and "<think>" not in said:
            self.notes["The model's chat template drops thoughts of answers: none are learned."] = (
                None
            )
        if said.endswith(content.rstrip()) and content.strip():
            self.notes[
                "The model's chat template writes nothing behind an answer, so that answers do not "
                "learn to end."
            ] = None
        return before, said

    def _note_otherwise(self, asked: str) -> None:
        """Note that the model is asked in other words than answers are taught behind."""
        self.notes[
            f"The model's chat template asks for an answer with {asked!r}, and does not write that "
            f"before the answers that are learned."
        ] = None

    def _until(self, row: Conversation, place: int) -> str:
        """Return what the template writes before the content of an answer, whatever it is."""
        found = []
        for content in ("xq", "zj"):
            other = {"role": "assistant", "content": content}
            messages = (*row.messages[:place], other)
            found.append(self._rendered(row._replace(messages=messages), place + 1))
        return found[0][: _common(*found)]

    def _rendered(self, row: Conversation, num_messages: int, asks: bool = False) -> str:
        """Return the first messages as the template writes them, up to an answer if it `asks`."""
        where = row.where.capitalize()
        if not self._tokenizer.chat_template:
            raise DataError(
                f"{where} is a conversation, and the model's tokenizer has no chat template; copy "
                f"one into the model's folder, or give prompts and answers."
            )
        if not num_messages:
            return ""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(one) for one in row.messages[:num_messages]],
                    tools=[dict(one) for one in row.tools] or None,
                    add_generation_prompt=asks,
                    tokenize=False,
                )
            )
        except Exception as error:  # a template raises what it likes
            raise DataError(
                f"{where} is refused by the model's chat template ({error}); give messages with "
                f"roles in the order that it takes."
            ) from error

    def _spans(
        self, row: Conversation, places: list[int], answers: list[tuple[str, str]]
    ) -> TaughtDocument:
        """Return a rendered text, of which some runs of characters are answers."""
        spans = [(len(before), len(before) + len(said)) for before, said in answers]
        whole = "".join(answers[-1])
        if self._tokenizer.is_fast:
            found: Any = self._tokenizer(  # Any: a mapping of lists
                whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            tokens = list(found["input_ids"])
            offsets = np.asarray(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
            is_answer = np.zeros(len(tokens), dtype=np.bool_)
            for start, stop in spans:
                is_answer |= (offsets[:, 1] > start) & (offsets[:, 0] < stop)
        else:
            tokens, marks, done = [], [], 0
            for start, stop in spans:
                for piece, is_said in ((whole[done:start], False), (whole[start:stop], True)):
                    ids = self._ids(piece, special=False)
                    tokens += ids
                    marks += [is_said] * len(ids)
                done = stop
            is_answer = np.array(marks, dtype=np.bool_)
        is_answer[:1] = False
        if not is_answer.any():
            raise DataError(
                f"{row.where.capitalize()} has an answer that is empty after the chat template; "
                f"change it, or leave it out."
            )
        contents = [str(row.messages[place].get("content") or "") for place in places]
        return _document(row.where, tokens, is_answer, "".join(contents))


def _document(
    where: str, tokens: list[int], is_answer: npt.NDArray[np.bool_], answer: str
) -> TaughtDocument:
    return TaughtDocument(
        where, np.asarray(tokens, dtype=np.int64), is_answer, len(answer.encode())
    )


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:  # Any: tokens or characters
    """Return how long both are the same."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _shows(said: str, content: str) -> bool:
    """Whether a template kept an answer; some drop thoughts, or blanks at the ends of lines."""
    last = content.rpartition("</think>")[2].split()
    return not last or last[-1] in said
