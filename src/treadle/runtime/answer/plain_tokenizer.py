"""Text to tokens and back by the tokenizers library alone, as transformers' tokenizer does it.

transformers takes half a second to be imported, and torch with it a second and more; what a fast
tokenizer of transformers does to a text is done by the library below it. So the library's own form
of a tokenizer is noted, once it was seen to give the same, and read from then on; whoever wants
more than texts and tokens of a tokenizer gets transformers' own.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.cache import note, noted
from treadle.core.checkpoint.seen import WEIGHTS, seen_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

    from treadle.model.classes import Tokenizer

__all__ = ["PlainTokenizer", "known_tokenizer", "note_tokenizer"]

_KIND, _MOST, _FORM = "tokenizers", 32, 1
_TEXTS = (
    "",
    " Hello,  world! It's 1234567 o'clock.\n\n\tdef f(x):\r\n    return x ** 2  ",
    "Größe, \u5143\u6c17\u3067\u3059\u304b, \u0645\u0631\u062d\u0628\u0627",
    "\U0001f9f5\U0001f9f6 e\u0301 \ufffd\u200b \u00a0x\x00",
    "<s>[INST] a </s><|im_start|>user\n<|endoftext|><bos> <unk><pad> [CLS]##a",
)
"""What is compared before a form is noted: spaces, digits, scripts, bytes, special tokens."""
_OWN = ("__call__", "_encode_plus", "decode", "_decode", "encode", "set_truncation_and_padding")
"""Methods of transformers' fast tokenizers that hand texts on to the library below them."""


class _Read(NamedTuple):
    input_ids: list[int]


class PlainTokenizer:
    """A tokenizer that only reads and writes, and is called as transformers' tokenizers are."""

    def __init__(self, library: "Library") -> None:
        self._library = library

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = False) -> _Read:
        """Return the tokens of a text, as `input_ids`; its length is never warned of."""
        return _Read(self._library.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(
        self,
        tokens: list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Return the text of tokens; no space is ever removed from it."""
        return str(self._library.decode(tokens, skip_special_tokens=skip_special_tokens))


def known_tokenizer(path: Path) -> tuple[PlainTokenizer, dict[str, Any]] | None:  # Any: JSON values
    """Return the tokenizer of a folder or a GGUF file, and what was noted with it; None if nothing.

    Nothing but the files' contents, and the versions of transformers and tokenizers, says whether
    it is the same.
    """
    found = noted(_KIND, _key(path))
    if not isinstance(found, dict):
        return None
    from tokenizers import Tokenizer as Library

    return PlainTokenizer(Library.from_str(found["library"])), found["more"]


def note_tokenizer(path: Path, tokenizer: "Tokenizer", more: dict[str, Any]) -> None:
    """Note a tokenizer for the next time, if the library alone gives the same.

    Args:
        path: Its folder or GGUF file.
        tokenizer: As transformers loaded it from there.
        more: What `known_tokenizer` shall return beside it; JSON values.
    """
    from tokenizers import Tokenizer as Library

    if _is_plain(tokenizer):
        text = tokenizer.backend_tokenizer.to_str()
        plain = PlainTokenizer(Library.from_str(text))
        if all(_are_same(plain, tokenizer, one) for one in _TEXTS):
            note(_KIND, _key(path), {"library": text, "more": more}, _MOST)


def _key(path: Path) -> str:
    versions = [f"{package} {version(package)}" for package in ("transformers", "tokenizers")]
    content = seen_hash(path, leaves=WEIGHTS if path.is_dir() else ())
    return repr((_FORM, versions, content))


def _is_plain(tokenizer: "Tokenizer") -> bool:
    """Say whether transformers adds nothing to what the library does with a text."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.split_special_tokens:
        return False
    library, kind = tokenizer.backend_tokenizer, type(tokenizer)
    if library.truncation is not None or library.padding is not None:
        return False
    return all(getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in _OWN)


def _are_same(plain: PlainTokenizer, tokenizer: "Tokenizer", text: str) -> bool:
    """Say whether a text, and cuts of its tokens, are the same by both."""
    for adds in (True, False):
        tokens = list(tokenizer(text, add_special_tokens=adds, verbose=False).input_ids)
        if plain(text, adds).input_ids != tokens:
            return False
        cuts = [tokens[first:] for first in range(0, len(tokens), 5)]
        if not all(_is_read_alike(plain, tokenizer, cut) for cut in cuts):
            return False
    return True


def _is_read_alike(plain: PlainTokenizer, tokenizer: "Tokenizer", tokens: list[int]) -> bool:
    options: list[dict[str, bool]] = [{"skip_special_tokens": skips} for skips in (True, False)]
    as_it_is = {"clean_up_tokenization_spaces": False}
    return all(
        plain.decode(tokens, **own) == tokenizer.decode(tokens, **own, **as_it_is)
        for own in options
    )
