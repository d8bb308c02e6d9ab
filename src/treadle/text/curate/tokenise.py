"""Texts as tokens: a Hugging Face tokenizer, or plain bytes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError
from treadle.core.pack import token_dtype
from treadle.native.text import Texts
from treadle.text.curate.base import Columns, Documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BYTES", "Tokenise", "tokenise"]

BYTES = "bytes"
"""The tokenizer whose tokens are the bytes of UTF-8; its end of a document is 256."""
Encode = Callable[[Texts], list[npt.NDArray[np.generic]]]


class Tokenise(NamedTuple):
    """Measures documents by their tokens; an end token follows each document."""

    encode: Encode
    vocab_size: int
    end_token: int
    content_hash: str

    def measure(self, documents: Documents) -> Columns:
        """Return the tokens of all documents, and how many each has."""
        dtype = token_dtype(self.vocab_size)
        end = np.array([self.end_token], dtype)
        encoded = [one.astype(dtype) for one in self.encode(documents.texts)]
        flat = [piece for one in encoded for piece in (one, end)]
        return {
            "tokens": np.concatenate([np.zeros(0, dtype), *flat]),
            "num_tokens": np.array([len(one) + 1 for one in encoded], np.int64),
        }


def tokenise(tokenizer: str, end_token: str | None) -> Tokenise:
    """Return what turns texts into tokens.

    Raises:
        DataError: The tokenizer cannot be read.
        SettingsError: No token ends a document, or the one named is unknown.
    """
    if tokenizer == BYTES:
        if end_token is not None:
            raise SettingsError(f"The tokenizer '{BYTES}' has its own end; leave --end-token out.")
        content_hash = hashlib.sha256(BYTES.encode()).hexdigest()
        return Tokenise(_bytes_of, 257, 256, content_hash)
    file = Path(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise DataError(
            f"No tokenizer at '{tokenizer}'; give a folder with tokenizer.json, that file, or "
            f"'{BYTES}'."
        )
    return _of_file(file, end_token)


def _bytes_of(texts: Texts) -> list[npt.NDArray[np.generic]]:
    return [texts.data[a:b] for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)]


def _of_file(file: Path, end_token: str | None) -> Tokenise:
    from tokenizers import Tokenizer

    content = file.read_bytes()
    try:
        loaded = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises plain ones
        raise DataError(f"'{file}' is no tokenizer ({error}); fetch it again.") from error
    loaded.no_truncation()
    loaded.no_padding()
    name = end_token or _end_of(file.parent)
    number = None if name is None else loaded.token_to_id(name)
    if number is None:
        what = f"no token '{name}'" if name else "no end token in tokenizer_config.json"
        raise SettingsError(
            f"'{file.parent}' has {what}; name the token that ends a document with --end-token."
        )

    # A token may be added behind the vocabulary's last, and then numbers beyond its size exist.
    vocab_size = max(loaded.get_vocab(with_added_tokens=True).values()) + 1
    return Tokenise(_Encoder(loaded), vocab_size, number, hashlib.sha256(content).hexdigest())


class _Encoder:
    """A tokenizer at work; no closure, so that it can be sent to another process."""

    def __init__(self, loaded: "Tokenizer") -> None:
        self._loaded = loaded

    def __call__(self, texts: Texts) -> list[npt.NDArray[np.generic]]:
        strings = [texts.text(number) for number in range(len(texts))]
        found = self._loaded.encode_batch_fast(strings, add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in found]


def _end_of(folder: Path) -> str | None:
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    found: Any = json.loads(config.read_text()).get("eos_token")  # Any: a string, or an object
    return found.get("content") if isinstance(found, dict) else found
