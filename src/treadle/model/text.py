"""Texts by name, cut into windows of tokens under a protocol that travels with every number."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from treadle.core.errors import DataError, SettingsError
from treadle.core.mistaken import mistaken, pointed
from treadle.core.result import digest
from treadle.core.seed import numpy_stream
from treadle.core.shapes import Int, Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Bos",
    "Protocol",
    "Windows",
    "puts_bos",
    "read_text",
    "require_template",
    "sampled_windows",
    "tokenizer_hash",
    "windows",
]

Bos = Literal["auto", "none", "each"]
"""Whether texts start with the tokenizer's BOS token: auto is as the tokenizer itself does it."""

_STDLIB = "stdlib:"
_SPLITS = ("calibration", "heldout")


class Protocol(BaseModel):
    """How a text became windows of tokens; perplexities compare only under equal hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    corpus_sha256: str
    join: str
    """How documents were joined: "file" as it is, or the string between them."""
    length_tokens: int
    stride_tokens: int
    bos: bool
    """Whether each window starts with the tokenizer's BOS token."""
    tokenizer_sha256: str
    num_windows: int
    num_tokens: int
    """Tokens that are predicted."""
    num_bytes: int
    """UTF-8 bytes of the predicted tokens' text; a split character counts where it begins."""

    @property
    def hash(self) -> str:
        """Return the sha256 of all fields but the corpus's name.

        The content counts, not where it lay.
        """
        return digest(self.model_dump(exclude={"corpus"}))[:16]


class Windows(NamedTuple):
    """Token windows of equal length and how they were made."""

    tokens: Int[Tensor, "windows seq"]
    protocol: Protocol


def read_text(source: str) -> tuple[str, str]:
    """Return the text of `source` and how it was joined.

    `source` is a text file, a JSONL file whose rows have a `text` field (joined by blank lines), or
    ``stdlib:calibration`` / ``stdlib:heldout``: the documentation topics of Python's standard
    library, split by topic.

    Raises:
        DataError: The file is missing, empty, no UTF-8, or a row has no text.
    """
    if source.startswith(_STDLIB):
        return _stdlib_topics(source.removeprefix(_STDLIB)), "\\n\\n"
    path = Path(source)
    if not path.is_file():
        raise DataError(
            f"No text at '{source}'; give a .txt or .jsonl file, or one of "
            f"{', '.join(_STDLIB + split for split in _SPLITS)}."
        )
    if what := pointed(path):
        raise DataError(f"'{path}' is {what}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = mistaken(path) or f"not UTF-8 (byte {error.start}); convert it with iconv"
        raise DataError(f"'{path}' is {what}.") from error
    if path.suffix == ".jsonl":
        return "\n\n".join(_rows(path, text)), "\\n\\n"
    return text, "file"


def _rows(path: Path, text: str) -> list[str]:
    found = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        try:
            content = json.loads(line)["text"]
            if not isinstance(content, str):
                raise TypeError(type(content).__name__)
            found.append(content)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"Line {number} of '{path}' has no field 'text' ({type(error).__name__}); write "
                f"one JSON object "
                f"with a 'text' string on each line."
            ) from error
    return found


def _stdlib_topics(split: str) -> str:
    """Join the topics of one split.

    A topic's split follows from the hash of its name; one in two is held out.
    """
    if split not in _SPLITS:
        raise DataError(
            f"No split '{split}' of the standard library's topics; choose one of "
            f"{', '.join(_SPLITS)}."
        )
    from pydoc_data.topics import topics

    chosen = [
        topics[name].strip()
        for name in sorted(topics)
        if _SPLITS[hashlib.sha256(name.encode()).digest()[0] % 2] == split
    ]
    return "\n\n".join(chosen)


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the sha256 of what the tokenizer computes: its vocabulary and a fixed probe text."""
    probe = "The quick brown fox: 12345 + \t\n\u00e9\u4e2d\U0001f600 def f(x): return x**2"
    return digest([sorted(tokenizer.get_vocab().items()), tokenizer.encode(probe)])[:16]


def puts_bos(tokenizer: "PreTrainedTokenizerBase", bos: Bos) -> bool:
    """Say whether a text is to start with BOS: models that were trained so need it (Gemma).

    Raises:
        SettingsError: `bos` is "each", but the tokenizer has no BOS token.
    """
    token = tokenizer.bos_token_id
    if bos == "auto":
        return token is not None and tokenizer("a").input_ids[:1] == [token]
    if bos == "each" and token is None:
        raise SettingsError(
            f"The tokenizer in '{tokenizer.name_or_path}' has no BOS token to start windows "
            f"with; use bos = 'none'."
        )
    return bos == "each"


def _cut(
    source: str, tokenizer: "PreTrainedTokenizerBase", length: int, bos: bool
) -> tuple[
    npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]
]:  # Any: numpy's shape and protocol fields
    text, join = read_text(source)
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 1]
    body = length - bos
    count = len(ids) // body
    if count == 0:
        raise DataError(
            f"'{source}' has {len(ids)} tokens, too few for one window of {length}; give more text "
            f"or a shorter window."
        )
    rows = ids[: count * body].reshape(count, body)
    if bos:
        rows = np.concatenate([np.full((count, 1), tokenizer.bos_token_id), rows], axis=1)
    # Bytes of the predicted part of each window: all but its first token (or all of it, after a
    # BOS).
    byte_at = np.concatenate([[0], np.cumsum(_num_bytes(text), dtype=np.int64)])
    last = ends[body - 1 : count * body : body]
    first = ends[0 : count * body : body] if not bos else np.concatenate([[0], last[:-1]])
    fields = {
        "corpus": source,
        "corpus_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "join": join,
        "length_tokens": length,
        "bos": bos,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
    }
    return rows, byte_at[last] - byte_at[first], fields


def _num_bytes(text: str) -> npt.NDArray[np.uint8]:
    """Return the number of UTF-8 bytes of each character."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return np.digitize(points, [0x80, 0x800, 0x10000]).astype(np.uint8) + np.uint8(1)


def _select(
    rows: npt.NDArray[Any], num_bytes: npt.NDArray[Any], fields: dict[str, Any], chosen: Any
) -> Windows:  # Any: numpy's shapes, protocol fields, an index
    import torch

    picked = rows[chosen]
    protocol = Protocol(
        **fields,
        stride_tokens=fields["length_tokens"] - fields["bos"],
        num_windows=len(picked),
        num_tokens=picked.shape[0] * (picked.shape[1] - 1),
        num_bytes=int(num_bytes[chosen].sum()),
    )
    return Windows(torch.from_numpy(np.ascontiguousarray(picked)), protocol)


def _want(source: str, have: int, want: int, length: int) -> None:
    if have < want:
        raise DataError(
            f"'{source}' has {have} windows of {length} tokens, but {want} were asked for; give "
            f"more text, "
            f"fewer windows or shorter ones."
        )


def windows(
    source: str,
    tokenizer: "PreTrainedTokenizerBase",
    num_windows: int | None,
    length: int,
    bos: Bos = "auto",
) -> Windows:
    """Cut `source` into non-overlapping windows and return the first `num_windows` (None: all).

    Raises:
        DataError: The text is too short.
        SettingsError: `bos` is "each", but the tokenizer has no BOS token.
    """
    rows, num_bytes, fields = _cut(source, tokenizer, length, puts_bos(tokenizer, bos))
    _want(source, len(rows), num_windows or 1, length)
    return _select(rows, num_bytes, fields, slice(num_windows))


def sampled_windows(
    source: str,
    tokenizer: "PreTrainedTokenizerBase",
    num_windows: int,
    length: int,
    seed: int,
    bos: Bos = "auto",
) -> Windows:
    """Cut `source` into non-overlapping windows and return `num_windows` of them, drawn by `seed`.

    Raises:
        DataError: The text is too short.
        SettingsError: `bos` is "each", but the tokenizer has no BOS token.
    """
    rows, num_bytes, fields = _cut(source, tokenizer, length, puts_bos(tokenizer, bos))
    _want(source, len(rows), num_windows, length)
    order = numpy_stream(seed, "calibration windows").permutation(len(rows))
    return _select(rows, num_bytes, fields, np.sort(order[:num_windows]))


def require_template(text: str) -> None:
    """Check that a chat template is one that transformers can read.

    Raises:
        SettingsError: It is no jinja text.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    message = {"role": "user", "content": "a"}
    try:
        empty.apply_chat_template([message], chat_template=text, tokenize=False)
    except Exception as error:  # a template may refuse this message: only its own grammar counts
        if type(error).__name__ == "TemplateSyntaxError":
            raise SettingsError(
                f"The chat template is no jinja text ({error}, line "
                f"{getattr(error, 'lineno', '?')}); mend it."
            ) from error
