"""From tokens to text as they come: whole characters only, and up to a stop string."""

from typing import TYPE_CHECKING

from treadle.runtime.request import Request

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["TextStream"]

_CONTEXT_TOKENS = 6
"""Prompt tokens decoded along, so that the first new token knows whether a space precedes it."""
_INCOMPLETE = "�"


class TextStream:
    """The text of one request's new tokens.

    Decodes a token together with the few before it, because tokenizers join bytes and spaces over
    tokens; holds back what may still change: characters whose bytes are incomplete, and an end
    that may be the start of a stop string.
    """

    def __init__(self, tokenizer: "Tokenizer", request: Request) -> None:
        self._tokenizer, self._request, self._params = tokenizer, request, request.params
        self._read = self._num_taken = request.num_prompt
        self._prefix = max(0, self._read - _CONTEXT_TOKENS)
        self.text = ""
        """All complete characters so far, cut at a stop string."""
        self.stop: str | None = None
        """The stop string that was met."""

    def follow(self, num_tokens: int) -> None:
        """Take in the request's tokens up to `num_tokens`, prompt included."""
        tokens = self._request.tokens
        for last in range(self._num_taken + 1, num_tokens + 1):
            before = self._decode(tokens[self._prefix : self._read])
            after = self._decode(tokens[self._prefix : last])
            if len(after) > len(before) and not after.endswith(_INCOMPLETE):
                self._extend(after[len(before) :], last - self._request.num_prompt)
                self._prefix, self._read = self._read, last
            self._num_taken = last

    def _decode(self, tokens: list[int]) -> str:
        skip = self._params.skip_special_tokens
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
        return text

    def _extend(self, new: str, num_new: int) -> None:
        if self.stop is not None:
            return
        start = len(self.text)
        self.text += new
        if num_new < self._params.min_tokens:
            return
        found = []
        for stop in self._params.stop:
            at = self.text.find(stop, max(0, start - len(stop) + 1))
            if at >= 0:
                found.append((at, stop))
        if found:
            at, self.stop = min(found)
            keep = len(self.stop) if self._params.include_stop_str_in_output else 0
            self.text = self.text[: at + keep]

    def finish(self) -> None:
        """Take what was held back as it is: no token will follow."""
        if self.stop is None and self._read < self._num_taken:
            tokens = self._request.tokens
            before = self._decode(tokens[self._prefix : self._read])
            self.text += self._decode(tokens[self._prefix : self._num_taken])[len(before) :]
            self._read = self._num_taken

    def show(self, is_finished: bool) -> str:
        """Return the text that was not shown yet and can no longer change."""
        end, begin = len(self.text), self._request.num_shown
        if not is_finished and self.stop is None:
            end -= self._num_held()
        self._request.num_shown = max(begin, end)
        return self.text[begin:end]

    def _num_held(self) -> int:
        """Return how many characters at the end may be the start of a stop string."""
        longest = 0
        for stop in self._params.stop:
            for length in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
