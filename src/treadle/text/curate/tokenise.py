"""Texts as tokens: a Hugging Face tokenizer, or plain bytes."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError
from treadle.core.pack import token_dtype
from treadle.native.text import Texts
from treadle.text.curate.base import Columns, Documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BYTES", "SpecialTokens", "Tokenise", "tokenise"]

BYTES = "bytes"
"""The tokenizer whose tokens are the bytes of UTF-8; its end of a document is 256."""
SpecialTokens = Literal["text", "control"]
"""What a special token such as </s> is where a document writes it."""
_PACKAGED = "packaged:"
Encode = Callable[[Texts], list[npt.NDArray[np.generic]]]


class Tokenise(NamedTuple):
    """Measures documents by their tokens; an end token follows each document."""

    encode: Encode
    vocab_size: int
    end_token: int
    content_hash: str
    special: dict[str, int]
    """Special tokens as they are written, and their numbers."""

    def measure(self, documents: Documents) -> Columns:
        """Return the tokens of all documents, how many each has, and how many special ones.

        `num_special` counts where a text writes one, `num_control` those among its tokens.
        """
        dtype = token_dtype(self.vocab_size)
        end = np.array([self.end_token], dtype)
        encoded = [one.astype(dtype) for one in self.encode(documents.texts)]
        flat = [piece for one in encoded for piece in (one, end)]
        return {
            "tokens": np.concatenate([np.zeros(0, dtype), *flat]),
            "num_tokens": np.array([len(one) + 1 for one in encoded], np.int64),
            "num_special": self._num_written(documents.texts),
            "num_control": self._num_among(encoded),
        }

    def _num_written(self, texts: Texts) -> npt.NDArray[np.int64]:
        if not self.special:
            return np.zeros(len(texts), np.int64)
        longest_first = sorted(self.special, key=len, reverse=True)
        written = re.compile("|".join(map(re.escape, longest_first)))
        counts = [len(written.findall(texts.text(number))) for number in range(len(texts))]
        return np.array(counts, np.int64)

    def _num_among(self, encoded: list[npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
        is_special = np.zeros(self.vocab_size, np.bool_)
        is_special[list(self.special.values())] = True
        return np.array([int(is_special[one].sum()) for one in encoded], np.int64)


def tokenise(
    tokenizer: str, end_token: str | None, special_tokens: SpecialTokens = "text"
) -> Tokenise:
    """Return what turns texts into tokens.

    Raises:
        DataError: The tokenizer cannot be read.
        SettingsError: No token ends a document, or the one named is unknown.
    """
    if tokenizer == BYTES:
        if end_token is not None:
            raise SettingsError(f"The tokenizer '{BYTES}' has its own end; leave --end-token out.")
        content_hash = hashlib.sha256(BYTES.encode()).hexdigest()
        if special_tokens != "text":
            raise SettingsError(
                f"The tokenizer '{BYTES}' has no special tokens; leave --special-tokens out."
            )
        return Tokenise(_bytes_of, 257, 256, content_hash, {})
    file = _place_of(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise DataError(
            f"No tokenizer at '{tokenizer}'; give a folder with tokenizer.json, that file, "
            f"'packaged:smollm2', or '{BYTES}'."
        )
    return _of_file(file, end_token, special_tokens)


def _place_of(tokenizer: str) -> Path:
    if not tokenizer.startswith(_PACKAGED):
        return Path(tokenizer)
    from treadle.model.pretrained import packaged

    return packaged(tokenizer.removeprefix(_PACKAGED))


def _bytes_of(texts: Texts) -> list[npt.NDArray[np.generic]]:
    return [texts.data[a:b] for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)]


def _of_file(file: Path, end_token: str | None, special_tokens: SpecialTokens) -> Tokenise:
    content = file.read_bytes()
    loaded = _loaded(content, file)
    name = end_token or _end_of(file.parent)
    number = None if name is None else loaded.token_to_id(name)
    if name is None or number is None:
        what = f"no token '{name}'" if name else "no end token in tokenizer_config.json"
        raise SettingsError(
            f"'{file.parent}' has {what}; name the token that ends a document with --end-token."
        )
    added = loaded.get_added_tokens_decoder()
    special = {one.content: n for n, one in added.items() if one.special} | {name: number}
    if number in added and not added[number].special:
        _make_special(loaded, name)
    # A token may be added behind the vocabulary's last, and then numbers beyond its size exist.
    vocab_size = max(loaded.get_vocab(with_added_tokens=True).values()) + 1
    encoder = _Encoder(loaded, special_tokens == "text")
    return Tokenise(encoder, vocab_size, number, hashlib.sha256(content).hexdigest(), special)


def _loaded(content: bytes, file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises plain ones
        raise DataError(f"'{file}' is no tokenizer ({error}); fetch it again.") from error
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _make_special(loaded: "Tokenizer", name: str) -> None:
    """Mark what ends documents as special, which not every tokenizer does: else texts forge it."""
    from tokenizers import AddedToken

    loaded.add_special_tokens([AddedToken(name, special=True, normalized=False)])


class _Encoder:
    """A tokenizer at work; no closure, so that it can be sent to another process."""

    def __init__(self, loaded: "Tokenizer", is_plain: bool) -> None:
        self._loaded, self._is_plain = loaded, is_plain

    def __call__(self, texts: Texts) -> list[npt.NDArray[np.generic]]:
        strings = [texts.text(number) for number in range(len(texts))]
        self._loaded.encode_special_tokens = self._is_plain  # another process does not get it
        found = self._loaded.encode_batch_fast(strings, add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in found]


def _end_of(folder: Path) -> str | None:
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    try:
        read = json.loads(config.read_bytes())
        found: Any = read.get("eos_token")  # Any: a string, or an object
        name = found.get("content") if isinstance(found, dict) else found
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"'{config}' is no tokenizer's config ({error}); fetch it again, or name the token "
            f"that ends a document with --end-token."
        ) from error
    return name if isinstance(name, str) else None
