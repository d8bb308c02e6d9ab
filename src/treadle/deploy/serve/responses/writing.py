"""A response on its way: its items, and the events by which a client sees them grow."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

from treadle.deploy.http.asked.responses import AskedResponse
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.chat.pieces import ChatPiece, Plain

__all__ = ["ResponseWriter"]


class ResponseWriter:
    """Puts a response together, piece by piece."""

    def __init__(self, asked: AskedResponse, model: str) -> None:
        self.id = f"resp_{secrets.token_hex(24)}"
        self._asked, self._model = asked, model
        self._created = int(time.time())
        self.output: list[Plain] = []
        self._number = 0
        self._is_open = False
        """Whether the last item still grows."""

    def event(self, kind: str, **fields: Any) -> Plain:  # Any: JSON values
        """Return an event of a stream."""
        self._number += 1
        return {"type": f"response.{kind}", "sequence_number": self._number - 1, **fields}

    def begin(self) -> Iterator[Plain]:
        """Give the events before the first piece."""
        for kind in ("created", "in_progress"):
            yield self.event(kind, response=self.response("in_progress"))

    def take(self, piece: ChatPiece, logprobs: list[Plain]) -> Iterator[Plain]:
        """Take in a piece of the answer and give the events of it."""
        if piece.kind == "call" or not self._goes_on(piece):
            yield from self.close()
            yield from self._open(piece)
        place, item = len(self.output) - 1, self.output[-1]
        where: Plain = {"item_id": item["id"], "output_index": place}
        if piece.kind == "call":
            return
        if piece.kind == "arguments":
            item["arguments"] += piece.text
            yield self.event("function_call_arguments.delta", **where, delta=piece.text)
            return
        part = item["content"][0]
        part["text"] += piece.text
        where["content_index"] = 0
        if piece.kind == "thought":
            yield self.event("reasoning_text.delta", **where, delta=piece.text)
            return
        part["logprobs"] += logprobs
        yield self.event("output_text.delta", **where, delta=piece.text, logprobs=logprobs)

    def _goes_on(self, piece: ChatPiece) -> bool:
        kinds = {"text": "message", "thought": "reasoning", "arguments": "function_call"}
        return self._is_open and self.output[-1]["type"] == kinds[piece.kind]

    def _open(self, piece: ChatPiece) -> Iterator[Plain]:
        """Begin an item; without the part that its first piece brings."""
        item = _item(piece)
        self.output.append(item)
        self._is_open = True
        place = len(self.output) - 1
        shown = {**item, "content": []} if "content" in item else dict(item)
        yield self.event("output_item.added", output_index=place, item=shown)
        if "content" in item:
            part = {**item["content"][0]}
            yield self.event(
                "content_part.added",
                item_id=item["id"],
                output_index=place,
                content_index=0,
                part=part,
            )

    def close(self, status: str = "completed") -> Iterator[Plain]:
        """End the item that grows, and give the events of it."""
        if not self._is_open:
            return
        self._is_open = False
        place, item = len(self.output) - 1, self.output[-1]
        item["status"] = status
        where: Plain = {"item_id": item["id"], "output_index": place}
        if item["type"] == "function_call":
            item["arguments"] = item["arguments"] or "{}"
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield self.event("function_call_arguments.done", **where, **done)
        else:
            (part,) = item["content"]
            where["content_index"] = 0
            if item["type"] == "message":
                said = {"text": part["text"], "logprobs": part["logprobs"]}
                yield self.event("output_text.done", **where, **said)
            else:
                yield self.event("reasoning_text.done", **where, text=part["text"])
            yield self.event("content_part.done", **where, part=part)
        yield self.event("output_item.done", output_index=place, item=item)

    def end(
        self, finish_reason: str | None, usage: Plain, logprobs: list[Plain]
    ) -> Iterator[Plain]:
        """Give the last events; the very last one has the whole response.

        Args:
            finish_reason: Why the answer ended.
            usage: How many tokens it took, in the words of chats.
            logprobs: Of tokens behind the last text.
        """
        is_cut = finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        if not self.output:
            yield from self._open(ChatPiece("text", ""))
        if self._is_open and self.output[-1]["type"] == "message":
            self.output[-1]["content"][0]["logprobs"] += logprobs
        yield from self.close(status)
        yield self.event(status, response=self.response(status, usage))

    def failed(self, error: ApiError) -> Plain:
        """Return the event of an error."""
        found = self.response("failed")
        found["error"] = {"code": error.code, "message": error.message}
        return self.event("failed", response=found)

    def response(self, status: str, usage: Plain | None = None) -> Plain:
        """Return the response as it is."""
        asked = self._asked
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        said = asked.model_dump(
            by_alias=True, exclude_none=True, include={"tools", "tool_choice", "text", "reasoning"}
        )
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if usage else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": reason,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self._model,
            "output": [dict(item) for item in self.output],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": None, "summary": None, **said.get("reasoning", {})},
            "store": asked.store is not False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": {"type": "text"}, **said.get("text", {})},
            "tool_choice": said.get("tool_choice", "auto"),
            "tools": [{"strict": None, "parameters": {}, **tool} for tool in said.get("tools", [])],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": asked.user,
        }


def _item(piece: ChatPiece) -> Plain:
    """Return an item that begins."""
    token = secrets.token_hex(24)
    if piece.kind == "call":
        return {
            "type": "function_call",
            "id": f"fc_{token}",
            "call_id": piece.id,
            "name": piece.text,
            "arguments": "",
            "status": "in_progress",
        }
    if piece.kind == "thought":
        return {
            "type": "reasoning",
            "id": f"rs_{token}",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": ""}],
            "status": "in_progress",
        }
    part: Plain = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": f"msg_{token}",
        "role": "assistant",
        "content": [part],
        "status": "in_progress",
    }


def _usage(usage: Plain) -> Plain:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
    }
