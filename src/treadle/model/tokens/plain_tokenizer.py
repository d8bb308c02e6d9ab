"""Text to tokens and back by the tokenizers library alone, as transformers' tokenizer does it.

transformers takes half a second to be imported, and torch with it a second and more; what a fast
tokenizer of transformers does to a text is done by the library below it. So the library's own form
of a tokenizer is noted, once it was seen to give the same, and read from then on; whoever wants
more than texts, tokens and conversations of a tokenizer gets transformers' own.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.cache import note, noted
from treadle.core.checkpoint.seen import WEIGHTS, seen_hash
from treadle.model.tokens.plain_template import PlainTemplate, template_note

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

    from treadle.model.classes import Tokenizer

__all__ = ["PlainTokenizer", "chat_arguments", "is_as_noted", "known_tokenizer", "note_tokenizer"]

_KIND, _MOST, _FORM = "tokenizers", 32, 1
_TEMPLATES = "additional_chat_templates"
"""The one folder inside a model's that transformers reads something of a tokenizer from."""
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
    """A tokenizer that reads and writes, and is called as transformers' tokenizers are.

    Args:
        library: The tokenizer below.
        template: Of conversations; None where transformers is always asked.
        whole: Returns transformers' tokenizer.
        key: Of the files that it was noted by.
    """

    def __init__(
        self,
        library: "Library",
        template: PlainTemplate | None = None,
        whole: "Callable[[], Tokenizer] | None" = None,
        key: str | None = None,
    ) -> None:
        self.backend_tokenizer, self.key = library, key
        self._template, self._whole = template, whole

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = False) -> _Read:
        """Return the tokens of a text, as `input_ids`; its length is never warned of."""
        return _Read(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(
        self,
        tokens: Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Return the text of tokens; no space is ever removed from it."""
        found = self.backend_tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return str(found)

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """Return the piece that a token is, if it is one."""
        found: str | None = self.backend_tokenizer.id_to_token(token)
        return found

    def get_added_vocab(self) -> dict[str, int]:
        """Return the tokens that text is searched for before it is split."""
        added = self.backend_tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items())}

    def is_of(self, tokenizer: "Tokenizer") -> bool:
        """Say whether this is all that there is to a tokenizer, its template included."""
        return (
            _is_plain(tokenizer)
            and self._template is not None
            and template_note(tokenizer) == self._template.noted
            and self.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        )

    @property
    def chat_template(self) -> Any:  # Any: text, several by name, None
        """The template of conversations."""
        return self._asked().chat_template if self._template is None else self._template.text

    @property
    def chat_arguments(self) -> list[str]:
        """What transformers' `apply_chat_template` takes for itself."""
        return self._template.arguments if self._template else chat_arguments(self._asked())

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        **given: Any,  # Any: JSON values that the template sees
    ) -> str:
        """Return the text of a conversation.

        It raises what transformers raises, or the template.
        """
        text = None
        if self._template is not None and not (continue_final_message or tokenize):
            options = {"add_generation_prompt": add_generation_prompt, **given}
            text = self._template.render(messages, **options)
        if text is not None:
            return text
        return str(
            self._asked().apply_chat_template(
                list(messages),
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=tokenize,
                **given,
            )
        )

    def _asked(self) -> "Tokenizer":
        assert self._whole is not None
        return self._whole()


def chat_arguments(tokenizer: "Tokenizer | PlainTokenizer") -> list[str]:
    """Return the names that transformers' `apply_chat_template` takes for itself."""
    if isinstance(tokenizer, PlainTokenizer):
        return tokenizer.chat_arguments
    return [*inspect.signature(type(tokenizer).apply_chat_template).parameters]


def known_tokenizer(
    path: Path, whole: "Callable[[], Tokenizer]"
) -> tuple[PlainTokenizer, Any] | None:  # Any: a JSON value
    """Return the tokenizer of a folder or a GGUF file, and what was noted with it; None if nothing.

    Nothing but the files' contents, and the versions of transformers and tokenizers, says whether
    it is the same.

    Args:
        path: The folder or file.
        whole: Returns transformers' tokenizer, for what is more than texts and tokens.
    """
    key = _key(path)
    found = noted(_KIND, key)
    if not isinstance(found, dict):
        return None
    from tokenizers import Tokenizer as Library

    template = None if found["chat"] is None else PlainTemplate(found["chat"])
    return PlainTokenizer(Library.from_str(found["library"]), template, whole, key), found["more"]


def is_as_noted(plain: PlainTokenizer, path: Path, tokenizer: "Tokenizer") -> bool:
    """Say whether what transformers loaded after `known_tokenizer` is the same tokenizer.

    It is where no file changed since, or none that tells in it, such as a README.

    Args:
        plain: As it was known.
        path: Its folder or GGUF file.
        tokenizer: As transformers loaded it from there.
    """
    return plain.key == _key(path) or plain.is_of(tokenizer)


def note_tokenizer(path: Path, tokenizer: "Tokenizer", more: Any = None) -> None:
    """Note a tokenizer for the next time, if the library alone gives the same.

    Args:
        path: Its folder or GGUF file.
        tokenizer: As transformers loaded it from there.
        more: What `known_tokenizer` shall return beside it; a JSON value.
    """
    from tokenizers import Tokenizer as Library

    if _is_plain(tokenizer):
        text = tokenizer.backend_tokenizer.to_str()
        plain = PlainTokenizer(Library.from_str(text))
        if all(_are_same(plain, tokenizer, one) for one in _TEXTS):
            noted = {"library": text, "chat": template_note(tokenizer), "more": more}
            note(_KIND, _key(path), noted, _MOST)


def _key(path: Path) -> str:
    versions = [f"{package} {version(package)}" for package in ("transformers", "tokenizers")]
    content = seen_hash(path, leaves=WEIGHTS if path.is_dir() else ())
    if (path / _TEMPLATES).is_dir():
        content.append([_TEMPLATES, repr(seen_hash(path / _TEMPLATES))])
    return repr((_FORM, versions, content))


def _is_plain(tokenizer: "Tokenizer") -> bool:
    """Say whether transformers adds nothing to what the library does with a text."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.split_special_tokens:
        return False
    library, kind = tokenizer.backend_tokenizer, type(tokenizer)
    if library.truncation is not None or library.padding is not None or _cleans(tokenizer):
        return False
    return all(getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in _OWN)


def _cleans(tokenizer: "Tokenizer") -> bool:
    """Say whether transformers removes spaces from a text where nobody says that it must not."""
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    is_spared = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    is_wished = bool(tokenizer.clean_up_tokenization_spaces)
    return is_wished and not (is_spared and not getattr(tokenizer, forced, False))


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
