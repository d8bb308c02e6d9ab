"""From tokens to text as they come: whole characters only, and up to a stop string."""

from typing import TYPE_CHECKING

from treadle.runtime.request import Request

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer
    from treadle.model.tokens.plain_tokenizer import PlainTokenizer

__all__ = ["TextStream", "offsets_in"]

_CONTEXT_TOKENS = 6
"""Prompt tokens decoded along, so that the first new token knows whether a space precedes it."""
_INCOMPLETE = "�"


class _Decoding:
    """Turns tokens into text one after another.

    Decodes a token together with the few before it, because tokenizers join bytes and spaces over
    tokens, and gives nothing while the bytes of a character are incomplete.
    """

    def __init__(
        self, tokenizer: "Tokenizer | PlainTokenizer", num_read: int, skips_special: bool
    ) -> None:
        self._tokenizer, self._skips_special = tokenizer, skips_special
        self.read = num_read
        """Tokens whose text was given."""
        self._prefix = max(0, num_read - _CONTEXT_TOKENS)
        self._held = ""
        """What the bytes that are held back look like."""
        self.num_before = 0
        """Characters of the last step's text that stand before its token's own."""

    def step(self, tokens: list[int], last: int) -> str:
        """Return what is certain of the text of the tokens up to `last`, and was not given."""
        new = self._new(tokens, last)
        if not new or new.endswith(_INCOMPLETE):
            self.num_before, self._held = 0, new
            return ""
        # Bytes before that stay what they were are no part of the character that ends here.
        self.num_before = _num_common(self._held, new)
        self._prefix, self.read, self._held = self.read, last, ""
        return new

    def rest(self, tokens: list[int], last: int) -> str:
        """Return what will not become more: all but bytes that are no whole character."""
        new = self._new(tokens, last)
        self.read = last
        whole = new.rstrip(_INCOMPLETE)
        if whole == new:
            return new
        # The sign itself is text where a model writes it on purpose.
        sign = self._tokenizer(_INCOMPLETE, add_special_tokens=False).input_ids
        return new if tokens[last - len(sign) : last] == list(sign) else whole

    def _new(self, tokens: list[int], last: int) -> str:
        before = self._decode(tokens[self._prefix : self.read])
        return self._decode(tokens[self._prefix : last])[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=self._skips_special, clean_up_tokenization_spaces=False
        )
        return text


def _num_common(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def offsets_in(tokenizer: "Tokenizer", tokens: list[int], skips_special: bool = True) -> list[int]:
    """Return for each token the place in their text of the character that it begins or goes on."""
    decoding = _Decoding(tokenizer, 0, skips_special)
    offsets, length = [], 0
    for last in range(1, len(tokens) + 1):
        new = decoding.step(tokens, last)
        offsets.append(length + decoding.num_before)
        length += len(new)
    return offsets


class TextStream:
    """The text of one request's new tokens.

    Holds back what may still change: characters whose bytes are incomplete, and an end that may be
    the start of a stop string.
    """

    def __init__(self, tokenizer: "Tokenizer | PlainTokenizer", request: Request) -> None:
        self._request, self._params = request, request.params
        self._num_taken = request.num_prompt
        skips = request.params.skip_special_tokens
        self._decoding = _Decoding(tokenizer, request.num_prompt, skips)
        self.text = ""
        """All complete characters so far, cut at a stop string."""
        self.offsets: list[int] = []
        """For each new token the place in the text of the character that it begins or goes on."""
        self.stop: str | None = None
        """The stop string that was met."""

    def follow(self, num_tokens: int) -> None:
        """Take in the request's tokens up to `num_tokens`, prompt included."""
        tokens = self._request.tokens
        for last in range(self._num_taken + 1, num_tokens + 1):
            new = self._decoding.step(tokens, last)
            self.offsets.append(len(self.text) + self._decoding.num_before)
            if new:
                self._extend(new, last - self._request.num_prompt)
            self._num_taken = last

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
        """Take what was held back, as no token will follow; of a cut character no byte is shown."""
        if self.stop is None and self._decoding.read < self._num_taken:
            self.text += self._decoding.rest(self._request.tokens, self._num_taken)

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
