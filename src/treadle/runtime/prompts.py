"""From what a user asks to tokens that the model can take, and back to text."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from treadle.core.checkpoint.described import read_object
from treadle.core.errors import CheckpointError, DataError, SettingsError, TreadleError
from treadle.model import facts
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.tokenizer import end_tokens, gguf_tokenizer, has_tokenizer
from treadle.model.load import load_tokenizer
from treadle.model.tokens.plain_tokenizer import (
    PlainTokenizer,
    is_as_noted,
    known_tokenizer,
    note_tokenizer,
)
from treadle.runtime.answer.text import TextStream
from treadle.runtime.conversation import Messages, plain_messages
from treadle.runtime.executor import ModelShape
from treadle.runtime.request import Request, SamplingParams

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = [
    "Prompt",
    "Prompts",
    "TokenArray",
    "as_list",
    "for_each",
    "is_broken_template",
    "plain",
    "text_in",
]


@runtime_checkable
class TokenArray(Protocol):
    """Token ids as an array of numpy or a tensor of torch, in one dimension."""

    @property
    def ndim(self) -> int:
        """The number of dimensions."""

    def tolist(self) -> Any:  # Any: lists nested as deep as there are dimensions
        """Return plain numbers."""


Prompt = str | Sequence[int] | TokenArray | Mapping[str, Any]  # Any: vLLM's two forms of a prompt
"""A text, token ids, ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def is_broken_template(tokenizer: "Tokenizer") -> bool:
    """Say whether a chat template fails for the plainest message, too, and not on purpose."""
    hello = [{"role": "user", "content": "Hello"}]
    try:
        tokenizer.apply_chat_template(hello, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template raises what it likes
        # What it refuses by `raise_exception` is of this very type; a missing jinja2 is no fault of
        # the template.
        return type(error).__name__ != "TemplateError" and not isinstance(error, ImportError)
    return False


class Prompts:
    """Knows a model's tokenizer, its end tokens and its limits."""

    def __init__(self, folder: Path, shape: ModelShape) -> None:
        self._folder, self._shape = folder, shape
        self._tokenizer: Tokenizer | None = None
        self._reader: PlainTokenizer | Tokenizer | None = None
        self._refusal = ""
        """Why the file's own tokenizer cannot be had, where it has one."""
        self.eos_tokens: frozenset[int] = frozenset()
        (self._from_file if folder.is_file() else self._from_folder)()
        self.has_tokenizer = self._reader is not None

    @property
    def folder(self) -> Path:
        """Where the model is."""
        return self._folder

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's tokenizer, by transformers; what is changed of it counts from then on.

        Raises:
            DataError: It has none.
            CheckpointError: Its files are gone or changed since the model was loaded; texts are
                read as before.
        """
        if self._tokenizer is None:
            self._take(self._whole(self.reader))
        return cast("Tokenizer", self._tokenizer)

    @property
    def reader(self) -> "PlainTokenizer | Tokenizer":
        """What reads and writes texts as the model's tokenizer does, and may do no more.

        Raises:
            DataError: It has none.
        """
        if self._refusal:
            raise DataError(self._refusal)
        if self._reader is None:
            raise DataError(
                f"'{self._folder}' has no tokenizer, so it takes and gives token ids only; copy "
                f"the tokenizer files of the original model into it, or give lists of ids."
            )
        return self._reader

    def _whole(self, reader: "PlainTokenizer | Tokenizer") -> "Tokenizer":
        """Return transformers' tokenizer where the notes' own was enough so far."""
        assert isinstance(reader, PlainTokenizer)
        folder = self._folder
        if not folder.exists():
            raise CheckpointError(
                f"'{folder}', which the model was loaded from, is gone, and get_tokenizer, "
                f"structured outputs, thoughts and some chat templates need the tokenizer's files "
                f"in it; put it back, or load the model from where it is now."
            )
        found = _tokenizer_of(folder)
        if not is_as_noted(reader, folder, found):
            raise CheckpointError(
                f"Files of the tokenizer in '{folder}' changed since the model was loaded; load it "
                f"again."
            )
        return found

    def _from_folder(self) -> None:
        folder = self._folder
        self.eos_tokens = _eos_tokens(folder)
        if any((folder / name).is_file() for name in _TOKENIZER_FILES) and not self._recalls():
            self._note(load_tokenizer(folder))

    def _from_file(self) -> None:
        """Take what a GGUF file knows: its tokenizer and its end tokens."""
        if self._recalls():
            return
        with closing(GgufFile(self._folder)) as file:
            self.eos_tokens = end_tokens(file)
            if not has_tokenizer(file):
                return
            try:
                self._note(gguf_tokenizer(file))
            except DataError as error:  # token ids do without it
                self._refusal = str(error)

    def _recalls(self) -> bool:
        """Take tokenizer and end tokens from the notes, if they are there, and say so."""
        known = known_tokenizer(self._folder, lambda: self.tokenizer)
        if known is not None:
            self._reader, ends = known
            self.eos_tokens = frozenset(ends)
        return known is not None

    def _note(self, tokenizer: "Tokenizer") -> None:
        note_tokenizer(self._folder, tokenizer, list(self.eos_tokens))
        self._take(tokenizer)

    def _take(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = self._reader = tokenizer

    def text_of(self, request: Request) -> TextStream:
        """Return the stream of a request's text."""
        return TextStream(self.reader, request)

    def tokens(self, prompt: Prompt, is_continued: bool = True) -> list[int]:
        """Return the tokens of a prompt.

        Args:
            prompt: Text, or token ids.
            is_continued: Whether the context must hold at least one more token.

        Raises:
            DataError: It is empty, too long, of another type, or has ids that the model does not
                know.
        """
        given = plain(prompt)
        tokens = self._encode(given) if isinstance(given, str) else given
        if not tokens:
            raise DataError("The prompt is empty; give at least one token.")
        if len(tokens) > self._shape.max_positions - is_continued:
            more = " and at least one more" if is_continued else ""
            raise DataError(
                f"The prompt has {len(tokens)} tokens, and the model's context of "
                f"{self._shape.max_positions} must hold it{more}; shorten it."
            )
        for place, token in enumerate(tokens):
            if not 0 <= token < self._shape.vocab_size:
                raise DataError(
                    f"Token {place} of the prompt is {token}, and the model knows 0 to "
                    f"{self._shape.vocab_size - 1}; use this model's own tokenizer."
                )
        return tokens

    def chat(self, messages: Messages) -> list[int]:
        """Return the tokens of a conversation, up to where the model answers.

        Raises:
            DataError: The tokenizer has no chat template, a role or a part of a message is unknown,
                or the template refuses the messages.
        """
        is_list = isinstance(messages, Sequence) and bool(messages)
        if not is_list or not all(isinstance(message, Mapping) for message in messages):
            raise DataError(
                f"Found {_shown(messages)} as a conversation, expected a list of messages; give "
                f'[{{"role": "user", "content": "Hello"}}].'
            )
        plain = plain_messages(messages)
        if not self.reader.chat_template:
            raise DataError(
                f"The tokenizer of '{self._folder}' has no chat template; use generate with a "
                f"plain prompt, or a model that was tuned to chat."
            )
        try:
            text = self.reader.apply_chat_template(
                plain, add_generation_prompt=True, tokenize=False
            )
        except TreadleError:
            raise
        except Exception as error:  # a template raises what it likes
            if is_broken_template(self.tokenizer):
                raise DataError(
                    f"The chat template of '{self._folder}' is broken, as it fails for any message "
                    f"({type(error).__name__}: {error}); copy chat_template.jinja or "
                    f"tokenizer_config.json of the original model into the folder."
                ) from error
            raise DataError(
                f"The chat template of '{self._folder}' refuses the messages ({error}); give each "
                f"a role and a content, in the order that the model was tuned on."
            ) from error
        # The template writes the special tokens itself.
        return self._encode(str(text), add_special_tokens=False)

    def _encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"Character {error.start} of the prompt is {text[error.start]!r}, half of a "
                f"surrogate pair, which is no text; decode its bytes with errors='replace'."
            ) from error
        # Not verbose: what is too long is refused here, so that a warning would say it twice.
        found = self.reader(text, add_special_tokens=add_special_tokens, verbose=False)
        return [int(token) for token in found.input_ids]

    def check(self, params: SamplingParams) -> None:
        """Check settings against the model.

        Raises:
            DataError: They name tokens that it does not know, or need a tokenizer that it lacks.
        """
        named = {"logit_bias": params.logit_bias or {}, "stop_token_ids": params.stop_token_ids}
        for name, tokens in named.items():
            for token in tokens:
                if not 0 <= token < self._shape.vocab_size:
                    raise DataError(
                        f"{name} names token {token}, and the model knows 0 to "
                        f"{self._shape.vocab_size - 1}; use this model's own tokenizer."
                    )
        if params.stop:
            _ = self.reader


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return one prompt or several as a list of prompts.

    Raises:
        DataError: It is neither, such as a generator.
    """
    if isinstance(prompts, str | bytes | Mapping) or _is_array(prompts):
        return [cast(Prompt, prompts)]
    if not isinstance(prompts, Sequence):
        raise DataError(
            f"Found {_shown(prompts)} as prompts, expected a text, token ids, or a list of these; "
            f"turn it into one of them (list(...) does so with what a generator gives)."
        )
    if prompts and not (
        isinstance(prompts[0], str | bytes | Mapping | Sequence) or _is_array(prompts[0])
    ):
        return [cast(Prompt, prompts)]
    return list(cast(Sequence[Prompt], prompts))


def plain(prompt: Prompt) -> str | list[int]:
    """Return a prompt as its text, or as a list of its token ids.

    Raises:
        DataError: It is of another type.
    """
    given: object = _inside(prompt) if isinstance(prompt, Mapping) else prompt
    if isinstance(given, str):
        return given
    if _is_array(given):
        array = cast(TokenArray, given)
        if array.ndim != 1:
            raise DataError(
                f"Found token ids in {array.ndim} dimensions, expected one; give a list of the "
                f"prompts, each without padding."
            )
        given = array.tolist()
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise DataError(
            f"Found {_shown(given)} as a prompt, expected a text or a list of token ids; give one."
        )
    for place, token in enumerate(given):
        if type(token) is not int and (isinstance(token, bool) or not isinstance(token, Integral)):
            raise DataError(
                f"Token {place} of the prompt is {_shown(token)}, expected a whole number; give "
                f"token ids, or the text itself."
            )
    return [int(token) for token in given]


def for_each(values: Any, is_single: bool, count: int, what: str) -> list[Any]:  # Any: settings
    """Return one value for each prompt: a single one counts for all.

    Raises:
        SettingsError: There are more or fewer.
    """
    if is_single:
        return [values] * count
    if len(values) != count:
        raise SettingsError(
            f"Found {len(values)} {what} for {count} prompts; give one for each, or one for all."
        )
    return list(values)


def text_in(prompt: Prompt) -> str | None:
    """Return the text of a prompt, None where it is token ids."""
    found = _inside(prompt) if isinstance(prompt, Mapping) else prompt
    return found if isinstance(found, str) else None


def _inside(prompt: Mapping[str, Any]) -> object:  # Any: text or ids
    names = set(prompt)
    if names not in ({"prompt"}, {"prompt_token_ids"}):
        raise DataError(
            f"Found a prompt with the keys {sorted(map(str, names))}, expected 'prompt' (text) or "
            f"'prompt_token_ids'; give one of them and nothing else."
        )
    name = names.pop()
    found = prompt[name]
    if isinstance(found, str) != (name == "prompt"):
        expected = "a text" if name == "prompt" else "a list of token ids"
        raise DataError(f"Found {_shown(found)} under '{name}', expected {expected}; change it.")
    return found


def _is_array(given: object) -> bool:
    return isinstance(given, TokenArray) and given.ndim > 0


def _shown(given: object) -> str:
    shown = repr(given)
    return f"{shown[:60]}{'...' * (len(shown) > 60)} ({type(given).__name__})"


def _tokenizer_of(path: Path) -> "Tokenizer":
    if path.is_dir():
        return load_tokenizer(path)
    with closing(GgufFile(path)) as file:
        return gguf_tokenizer(file)


def _eos_tokens(folder: Path) -> frozenset[int]:
    """Return the tokens that end a text, from where transformers' `generate` takes them."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        config = read_object(file)
        found = config.get("eos_token_id", facts.text_config(config).get("eos_token_id"))
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
