"""Rows to learn from, as they lie in files: messages, prompts with answers, pairs, or texts."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from treadle.core.errors import DataError
from treadle.core.registry import near

__all__ = [
    "Conversation",
    "PreferredPair",
    "Prompted",
    "Row",
    "RowSource",
    "Text",
    "read_rows",
    "text_rows",
]

Message = Mapping[str, Any]  # Any: what a chat template reads
_PROMPTS = ("prompt", "question")
_SYSTEMS = ("system", "system_prompt")
_ANSWERS = ("answer", "completion", "response")
_KNOWN = frozenset(
    {*_PROMPTS, *_ANSWERS, *_SYSTEMS, "query", "choices", "gold", "chosen", "rejected"}
    | {"messages", "tools", "text", "id", "meta"}
)
"""Keys that are read, and those that treadle curate writes beside them."""
_FORMS = (
    '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, '
    '{"prompt": "...", "answer": "..."} or {"text": "..."}'
)
_CHOICE = '{"query": "...", "choices": ["...", "..."], "gold": 0}'
_PAIR = '{"prompt": "...", "chosen": "...", "rejected": "..."}'


class Prompted(NamedTuple):
    """A prompt and its answer."""

    where: str
    prompt: str
    answer: str
    system: str = ""
    """What stands before a chat."""


class Conversation(NamedTuple):
    """Messages, of which those of the assistant are answers."""

    where: str
    messages: tuple[Message, ...]
    tools: tuple[Message, ...] = ()
    """Descriptions of tools, for the template."""


class Text(NamedTuple):
    """A text that is an answer as a whole."""

    where: str
    text: str


class PreferredPair(NamedTuple):
    """Two answers to one prompt, of which one is preferred; each a whole row of its own."""

    where: str
    chosen: Prompted | Conversation
    rejected: Prompted | Conversation


Row = Prompted | Conversation | Text | PreferredPair


class RowSource(NamedTuple):
    """What was read."""

    rows: Sequence[Row]
    content_hash: str
    unused: tuple[str, ...] = ()
    """Keys of records that were not read."""


def read_rows(data: str, of_pairs: bool, split: Literal["train", "dev"] = "train") -> RowSource:
    """Return the rows of a file, of a folder of shards, or of a skill.

    Args:
        data: JSONL or Parquet, plain or as treadle curate writes it, or skills:NAME.
        of_pairs: Whether rows are pairs.
        split: Of a skill that names none.

    Raises:
        DataError: There is nothing, or a row is of another form; the message names it.
    """
    from treadle.core.skills import is_skill

    if is_skill(data):
        return _skill_rows(data, of_pairs, split)
    hashed, rows, keys = hashlib.sha256(), [], dict[str, None]()
    for where, record in _records(data):
        rows.append(_pair(where, record) if of_pairs else _row(where, record))
        keys |= dict.fromkeys(record)
        hashed.update(json.dumps(record, sort_keys=True, default=str).encode())
    if not rows:
        form = _PAIR if of_pairs else _FORMS
        raise DataError(f"'{data}' holds no rows; write one JSON object on each line, {form}.")
    unused = tuple(key for key in keys if key not in _KNOWN)
    return RowSource(rows, hashed.hexdigest(), unused)


def text_rows(source: str) -> RowSource:
    """Return a text as one row.

    Raises:
        DataError: It cannot be read.
    """
    from treadle.model.text import read_text

    text, _ = read_text(source)
    if not text.strip():
        raise DataError(f"'{source}' holds no text; give another one.")
    return RowSource([Text(source, text)], hashlib.sha256(text.encode()).hexdigest())


def _skill_rows(data: str, of_pairs: bool, split: Literal["train", "dev"]) -> RowSource:
    from treadle.core.skills import parse_skill, skill_digest, skill_items

    if of_pairs:
        raise DataError(
            f"'{data}' has one answer for each prompt, and pairs were expected; give a file of "
            f"{_PAIR}, or use sft."
        )
    spec = parse_skill(data, split)
    items = skill_items(spec)
    rows = [
        Prompted(f"item {number} of {data}", item.prompt, item.answer)
        for number, item in enumerate(items, 1)
    ]
    return RowSource(rows, skill_digest(items))


def _records(data: str) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: JSON values
    """Yield each record with the words that name it in a message."""
    path = Path(data)
    if not path.exists():
        raise DataError(
            f"No data at '{data}'; give a JSONL or Parquet file, a folder of them, or skills:NAME."
        )
    if path.is_file() and path.suffix.lower() in (".jsonl", ".json"):
        yield from _lines(path, path.read_bytes())
        return
    from treadle.core.table.files import find, kind_of

    for file in find(data, False).files:
        kind = kind_of(file)
        if kind == "parquet":
            yield from _table(file)
        elif kind in ("lines", "gzip", "zstd"):
            yield from _lines(file, _unpacked(file, kind))
        else:
            raise DataError(f"'{file}' is neither JSONL nor Parquet; write its rows as JSONL.")


def _unpacked(file: Path, kind: str) -> bytes:
    content = file.read_bytes()
    try:
        if kind == "gzip":
            return gzip.decompress(content)
        if kind == "zstd":
            import zstandard

            return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    except Exception as error:  # each package has its own
        raise DataError(f"'{file}' cannot be unpacked ({error}); write it again.") from error
    return content


def _lines(file: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: JSON values
    from treadle.core.mistaken import pointed

    if what := pointed(file):
        raise DataError(f"'{file}' is {what}.")
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of '{file}'"
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where.capitalize()} is no JSON ({error}); write one object on each line."
            ) from error
        yield where, _with_meta(where, record)


def _table(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: values of columns
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                where = f"row {number} of '{file}'"
                yield where, _with_meta(where, _without_gaps(record))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{file}' is no whole Parquet file ({error}); write it again.") from error


def _without_gaps(value: Any) -> Any:  # Any: values of columns
    """Return a value without the keys that a column of objects gives to those that lack them."""
    if isinstance(value, dict):
        return {key: _without_gaps(part) for key, part in value.items() if part is not None}
    return [_without_gaps(part) for part in value] if isinstance(value, list) else value


def _with_meta(where: str, record: object) -> dict[str, Any]:  # Any: JSON values
    """Return a record with what treadle curate keeps of one beside its text, in `meta`."""
    if not isinstance(record, dict):
        raise DataError(f"{where.capitalize()} is no object; write {_FORMS}.")
    meta = record.get("meta")
    if isinstance(meta, str):
        try:
            found = json.loads(meta)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return {**found, **record}
    return record


def _row(where: str, record: Mapping[str, Any]) -> Row:  # Any: JSON values
    if record.get("messages") is not None:
        said = _messages(where, "messages", record["messages"])
        return _conversation(where, said, record)
    prompt, answer = _first(record, _PROMPTS), _first(record, _ANSWERS)
    if prompt and answer:
        if isinstance(record[prompt], list):
            said = (*_messages(where, prompt, record[prompt]), *_said(where, record, answer))
            return _conversation(where, said, record)
        given = (_text(where, record, prompt), _text(where, record, answer))
        return Prompted(where, *given, _system(where, record))
    if "choices" in record and "gold" in record:
        return _chosen(where, record)
    if "chosen" in record and "rejected" in record:
        raise DataError(f"{where.capitalize()} is a pair; use dpo, or write {_FORMS}.")
    if record.get("text") is not None and not prompt and not answer:
        return Text(where, _text(where, record, "text"))
    raise DataError(f"{where.capitalize()} {_keys(record)}; write {_FORMS}.")


def _chosen(where: str, record: Mapping[str, Any]) -> Prompted:  # Any: JSON values
    """Return a question of `evaluate choice` with its right choice, joined as that task joins."""
    choices, gold = record["choices"], record["gold"]
    is_place = isinstance(choices, list) and isinstance(gold, int) and 0 <= gold < len(choices)
    if "query" not in record or not is_place or not isinstance(choices[gold], str):
        raise DataError(f"{where.capitalize()} {_keys(record)}; write {_CHOICE}.")
    query = _text(where, record, "query")
    return Prompted(where, query, f" {choices[gold]}")


def _pair(where: str, record: Mapping[str, Any]) -> PreferredPair:  # Any: JSON values
    prompt = _first(record, _PROMPTS)
    if record.get("chosen") is None or record.get("rejected") is None:
        raise DataError(f"{where.capitalize()} {_keys(record)}; write {_PAIR}.")
    before: tuple[Message, ...] | str = ""
    if prompt:
        is_list = isinstance(record[prompt], list)
        before = (
            _messages(where, prompt, record[prompt]) if is_list else _text(where, record, prompt)
        )
    sides = [_side(where, record, key, before) for key in ("chosen", "rejected")]
    if sides[0][1:] == sides[1][1:]:
        raise DataError(
            f"{where.capitalize()} has the same answer as chosen and as rejected, which prefers "
            f"nothing; leave it out."
        )
    return PreferredPair(where, *sides)


def _side(
    where: str, record: Mapping[str, Any], key: str, before: tuple[Message, ...] | str
) -> Prompted | Conversation:
    if isinstance(record[key], list):
        said = _messages(where, key, record[key])
        if any(one["role"] == "user" for one in said):  # the prompt is in there
            return _conversation(where, said, record)
        is_text = isinstance(before, str)
        asked = ({"role": "user", "content": before},) if is_text and before else before
        return _conversation(where, (*asked, *said), record)
    answer = _text(where, record, key)
    if isinstance(before, str):
        if not before:
            raise DataError(f"{where.capitalize()} has no prompt; write {_PAIR}.")
        return Prompted(where, before, answer, _system(where, record))
    return _conversation(where, (*before, {"role": "assistant", "content": answer}), record)


def _conversation(
    where: str, said: tuple[Message, ...], record: Mapping[str, Any]
) -> Conversation:  # Any: JSON values
    """Return messages, behind the system prompt that stands beside them."""
    system = _system(where, record)
    if system and said[0]["role"] != "system":
        said = ({"role": "system", "content": system}, *said)
    return Conversation(where, said, _tools(where, record.get("tools")))


def _system(where: str, record: Mapping[str, Any]) -> str:  # Any: JSON values
    key = _first(record, _SYSTEMS)
    return _text(where, record, key) if key else ""


def _said(where: str, record: Mapping[str, Any], key: str) -> tuple[Message, ...]:  # Any: JSON
    if isinstance(record[key], list):
        return _messages(where, key, record[key])
    return ({"role": "assistant", "content": _text(where, record, key)},)


def _messages(where: str, key: str, value: object) -> tuple[Message, ...]:
    from treadle.runtime.conversation import plain_messages

    if isinstance(value, str):  # a column of Parquet in which they stand as JSON
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value) or not value:
        raise DataError(
            f'{where.capitalize()}: {key} is no list of messages; write [{{"role": "user", '
            f'"content": "..."}}, ...].'
        )
    try:
        return tuple(plain_messages(value))
    except DataError as error:
        raise DataError(f"{where.capitalize()}: {error}") from error


def _tools(where: str, value: object) -> tuple[Message, ...]:
    """Return descriptions of tools, which may stand as JSON in a column of Parquet."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = 0
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(
            f"{where.capitalize()}: tools is no list of descriptions; write them as OpenAI's "
            f'interface has them: [{{"type": "function", "function": {{...}}}}].'
        )
    return tuple(value)


def _text(where: str, record: Mapping[str, Any], key: str) -> str:  # Any: JSON values
    value = record[key]
    if not isinstance(value, str):
        raise DataError(
            f"{where.capitalize()}: {key} is {type(value).__name__} {str(value)[:40]!r}, and a "
            f"text was expected; write it as one."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where.capitalize()}: character {error.start} of {key} is half of a surrogate pair, "
            f"which is no text; write it again."
        ) from error
    return value


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> str:  # Any: JSON values
    return next((key for key in keys if record.get(key) is not None), "")


def _keys(record: Mapping[str, Any]) -> str:  # Any: JSON values
    odd = next((key for key in record if key not in _KNOWN), "")
    hint = near(odd, list(_KNOWN)).partition(" Choose")[0] if odd else ""
    hint = f" ({hint})" if hint.startswith("Did") else ""
    return f"has the keys {', '.join(record) or 'of nothing'}{hint}"
