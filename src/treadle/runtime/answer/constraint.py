"""Which tokens may come next, where the form of an answer is given; computed by llguidance."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError, TreadleError
from treadle.runtime.structured import FormError, StructuredOutputs

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["Constraint", "Grammars"]

_NUM_KEPT = 64
"""Compiled forms that an engine keeps; one takes some hundred kilobytes."""
_EXCERPT = re.compile(r"\n\s*\d+ \| ")
_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
"""What llguidance adds to a reason: where in the grammar, which it shows."""
_BLANKS = r"[ \n]?"
"""Between the parts of JSON. Weak models answer an unbounded run of blanks with one."""

Mask = npt.NDArray[np.bool_]


class Constraint:
    """How far one answer has come in its form."""

    def __init__(self, matcher: Any, structured: StructuredOutputs, vocab_size: int) -> None:
        # Any: an LLMatcher
        self._matcher, self._structured = matcher, structured
        self._vocab_size, self._num_taken = vocab_size, 0

    def follow(self, outputs: Sequence[int]) -> None:
        """Take in the new ones of an answer's tokens.

        Raises:
            DataError: The form does not allow them.
        """
        new = list(outputs[self._num_taken :])
        if new and not self._matcher.consume_tokens(new):
            self._refuse(f"the tokens {new} of the answer do not fit it")
        self._num_taken = len(outputs)

    def allowed(self) -> Mask:
        """Return which tokens [vocab] may come next; end tokens where the answer may end.

        Raises:
            DataError: None may, because the model's vocabulary lacks what the form asks for.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little", count=8 * len(bits)).view(np.bool_)
        found = np.zeros(self._vocab_size, np.bool_)
        count = min(self._vocab_size, len(mask))
        found[:count] = mask[:count]
        if not found.any() or self._matcher.is_error():
            self._refuse("no token of the model can continue the answer")
        return found

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` may follow the answer, one after the other."""
        return int(self._matcher.validate_tokens(list(tokens)))

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def _refuse(self, what: str) -> None:
        reason = self._matcher.get_error()
        raise DataError(
            f"The form {self._structured.to_dict()} cannot be kept: {what}"
            f"{f' ({_first_line(reason)})' if reason else ''}; simplify the form, or use this "
            f"model's own tokenizer."
        )


class Grammars:
    """Compiles forms for one tokenizer and keeps the latest ones."""

    def __init__(self, tokenizer: "Tokenizer", end_tokens: frozenset[int], vocab_size: int) -> None:
        self._tokenizer, self._end_tokens = tokenizer, end_tokens
        self._vocab_size = vocab_size
        self._words: Any = None  # Any: an LLTokenizer
        self._compiled: OrderedDict[str, Any] = OrderedDict()  # Any: LLMatchers
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def constraint(self, structured: StructuredOutputs) -> Constraint:
        """Return the form of an answer that starts.

        Raises:
            SettingsError: llguidance refuses the form, or is not installed.
        """
        key = json.dumps(structured.to_dict())
        with self._lock:
            matcher = self._compiled.get(key)
        if matcher is None:
            matcher = self._compile(structured)  # takes seconds at worst: others need not wait
        with self._lock:
            self._compiled[key] = matcher
            self._compiled.move_to_end(key)
            if len(self._compiled) > _NUM_KEPT:
                self._compiled.popitem(last=False)
            own = matcher.deep_copy()
        return Constraint(own, structured, self._vocab_size)

    def _compile(self, structured: StructuredOutputs) -> Any:  # Any: an LLMatcher
        library = _library()
        with self._reading:
            if self._words is None:
                self._words = self._read_tokenizer()
        try:
            grammar = _grammar(library, structured)
            matcher = library.LLMatcher(self._words, grammar, log_level=0)
        except ValueError as error:
            raise _refused(structured, str(error)) from error
        if matcher.is_error():
            raise _refused(structured, matcher.get_error())
        return matcher

    def _read_tokenizer(self) -> Any:  # Any: an LLTokenizer
        from llguidance.hf import from_tokenizer

        tokenizer = self._tokenizer
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        size = max(self._vocab_size, len(tokenizer))
        try:
            return from_tokenizer(
                tokenizer, n_vocab=size, eos_token=sorted(self._end_tokens) or own or None
            )
        except ValueError as error:
            raise SettingsError(
                f"structured_outputs cannot read the tokenizer {type(tokenizer).__name__} "
                f"({_first_line(str(error))}); give the model a fast one (tokenizer.json)."
            ) from error


def _library() -> Any:  # Any: the module
    try:
        import llguidance
    except ImportError as error:
        raise SettingsError(
            "structured_outputs needs the package llguidance, which is not installed; run "
            "pip install 'treadle[structured]'."
        ) from error
    return llguidance


def _grammar(library: Any, structured: StructuredOutputs) -> str:  # Any: the module
    """Return a form in llguidance's own language; it is checked when it is compiled."""
    if structured.json is not None:
        given = structured.json
        schema = json.loads(given) if isinstance(given, str) else dict(given)
        return str(
            library.LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_pattern": _BLANKS}
            )
        )
    if structured.choice is not None:
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in structured.choice)
        return str(library.LLMatcher.grammar_from_lark(f"start: {texts}"))
    if structured.regex is not None:
        return str(library.LLMatcher.grammar_from_regex(structured.regex))
    return str(library.grammar_from("grammar", structured.grammar))


def _refused(structured: StructuredOutputs, reason: str) -> TreadleError:
    ((name, value),) = structured.to_dict().items()
    line = _first_line(reason)
    return FormError(
        f"structured_outputs.{name}={value!r} cannot be compiled: {line}; change what it names.",
        _PLACE.sub("", _first_line(_EXCERPT.split(reason, maxsplit=1)[0])),
    )


def _first_line(text: str) -> str:
    """Return a library's reason on one line."""
    return " ".join(text.split())
