"""What single tokens stand for: their bytes, and how interfaces write those that are no text."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from treadle.runtime.request import TokenLogprobs

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer
    from treadle.model.tokens.plain_tokenizer import PlainTokenizer

__all__ = ["ServedVocabulary"]


@cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each sign of a byte-level tokenizer stands for (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


class ServedVocabulary:
    """Reads single tokens of a tokenizer, and remembers what it has read."""

    def __init__(self, tokenizer: "Tokenizer | PlainTokenizer") -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._is_byte_level = "ByteLevel" in str(getattr(backend, "decoder", ""))
        self._added = set(tokenizer.get_added_vocab().values())
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token stands for."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a padded row of the embedding
            return b""
        if token in self._added:
            return str(piece).encode()
        signs = _byte_of()
        if self._is_byte_level and all(sign in signs for sign in piece):
            return bytes(signs[sign] for sign in piece)
        if len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("▁", " ").encode()

    def text_of(self, token: int) -> str:
        """Return a token as text; bytes that are none as OpenAI writes them."""
        found = self.bytes_of(token)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)

    def lists(
        self,
        tokens: Sequence[int],
        entries: Iterable[TokenLogprobs | None],
        offsets: Sequence[int],
    ) -> dict[str, list[Any]]:  # Any: JSON values
        """Return log-probabilities in the form of completions: four lists of equal length.

        Args:
            tokens: What stands at each place.
            entries: Of each place: the chosen and the best tokens; None where nothing precedes.
            offsets: Of each token in the text, in characters.
        """
        texts = [self.text_of(token) for token in tokens]
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for token, text, entry in zip(tokens, texts, entries, strict=True):
            values.append(None if entry is None else entry[token])
            tops.append(None if entry is None else self._top(token, text, entry))
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": list(offsets),
        }

    def _top(self, token: int, text: str, entry: TokenLogprobs) -> dict[str, float]:
        """Return text -> log-probability; of two tokens of the same text, the likelier one's."""
        found: dict[str, float] = {}
        for other, value in entry.items():
            name = self.text_of(other)
            found[name] = max(value, found.get(name, value))
        return found

    def places(
        self, tokens: Sequence[int], entries: Sequence[TokenLogprobs], num_top: int
    ) -> list[dict[str, Any]]:  # Any: JSON values
        """Return log-probabilities in the form of chats: an object for each place."""
        found = []
        for token, entry in zip(tokens, entries, strict=True):
            best = sorted(entry, key=lambda other: -entry[other])[:num_top]
            tops = [self._place(other, entry[other]) for other in best]
            found.append({**self._place(token, entry[token]), "top_logprobs": tops})
        return found

    def _place(self, token: int, value: float) -> dict[str, Any]:  # Any: JSON values
        return {
            "token": self.text_of(token),
            "logprob": value,
            "bytes": list(self.bytes_of(token)),
        }
