"""Conversations by a chat template, as transformers writes them, without it.

What is more than JSON, messages that show their reasoning, and templates that do more than plain
jinja are left to transformers.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["PlainTemplate", "template_note"]

_REASONING = frozenset({"reasoning_content", "thinking", "reasoning"})
"""Keys of messages that transformers copies under each other's names."""
_SCALARS = (str, int, float, bool, type(None))
_OWN = ("apply_chat_template", "get_chat_template", "special_tokens_map")
_USER = {"role": "user", "content": " What is a <treadle>? & 'why'\n"}
_TALKS = (
    [_USER],
    [{"role": "system", "content": "Be brief."}, _USER],
    [_USER, {"role": "assistant", "content": "A \u201cpedal\u201d. "}, _USER | {"name": "you"}],
)
"""What is compared before a template is noted."""


class PlainTemplate:
    """A chat template.

    Args:
        noted: What `template_note` returned.

    Attributes:
        noted: The same.
        text: The template; None where the tokenizer has none.
        arguments: What transformers' `apply_chat_template` takes for itself.
    """

    def __init__(self, noted: dict[str, Any]) -> None:  # Any: JSON values
        self.noted = noted
        self.text: str | None = noted["template"]
        self.arguments: list[str] = noted["arguments"]
        self._special: dict[str, Any] = noted["special"]
        self._compiled: Any = None  # Any: a template of jinja

    def render(self, messages: Sequence[Mapping[str, Any]], **given: Any) -> str | None:
        """Return a conversation; None where transformers is to be asked.

        Args:
            messages: The conversation.
            given: What else the template sees, by its names.

        It raises what the template raises, as transformers does.
        """
        if self.text is None or not messages or not _is_plain(messages, given):
            return None
        from jinja2.exceptions import SecurityError, TemplateSyntaxError

        plain = [{k: v for k, v in one.items() if v is not None} for one in messages]
        seen = {"tools": None, "documents": None, **self._special, **given}
        try:
            if self._compiled is None:
                self._compiled = _compiled(self.text)
            return str(self._compiled.render(messages=plain, **seen))
        except (SecurityError, TemplateSyntaxError):  # transformers' sandbox is another one
            return None


def template_note(tokenizer: "Tokenizer") -> dict[str, Any] | None:  # Any: JSON values
    """Return a tokenizer's chat template as JSON, if a `PlainTemplate` of it writes the same."""
    from transformers import PreTrainedTokenizerBase

    kind, template = type(tokenizer), tokenizer.chat_template
    if not all(getattr(kind, name) is getattr(PreTrainedTokenizerBase, name) for name in _OWN):
        return None
    arguments = [*inspect.signature(kind.apply_chat_template).parameters]
    special = dict(tokenizer.special_tokens_map)
    noted = {"template": template, "special": special, "arguments": arguments}
    if not isinstance(template, str | None) or not _is_json(noted):
        return None
    plain = PlainTemplate(noted)
    if template is None:
        return noted
    found = [_outcome(plain.render, talk) for talk in _TALKS]
    asked = [_outcome(partial(tokenizer.apply_chat_template, tokenize=False), t) for t in _TALKS]
    return noted if found == asked else None


def _outcome(write: Callable[..., Any], talk: list[dict[str, str]]) -> tuple[str, str]:
    """Return what a conversation becomes, or how it is refused."""
    try:
        return "written", str(write(talk, add_generation_prompt=True))
    except Exception as error:  # a template raises what it likes
        return type(error).__name__, str(error)


def _is_plain(messages: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> bool:
    if any(not isinstance(one, dict) or _REASONING & set(one) for one in messages):
        return False
    return "messages" not in given and _is_json([list(messages), dict(given)])


def _is_json(value: Any) -> bool:  # Any: whatever a template is to see
    """Say whether a value is of JSON's very types, all through."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and _is_json(list(value.values()))
    return all(map(_is_json, value)) if type(value) is list else type(value) in _SCALARS


def _compiled(text: str) -> Any:  # Any: a template of jinja
    """Compile a template in a sandbox: it comes from whoever made the model."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.filters["tojson"] = _as_json
    sandbox.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "dict": _Dictionaries(),
        "namespace": _names(),
    }
    return sandbox.from_string(text)


def _as_json(
    value: Any,  # Any: of a template
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON whose signs mean nothing in HTML: jinja's own filter escapes them."""
    options: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> str:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


class _Dictionaries:
    """Makes dictionaries as `dict` does, without being that class."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:  # Any: of a template
        return dict(*pairs, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:  # Any: of a template
        return dict.fromkeys(*given)


def _names() -> type:
    """Return jinja's namespace, but for names that lead into Python's inside."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class PlainNames(Namespace):
        def __init__(*given: Any, **named: Any) -> None:  # Any: of a template
            self, *rest = given
            attributes = dict(*rest, **named)
            for name in attributes:
                _check(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:  # Any: of a template
            _check(name)
            Namespace.__setitem__(self, name, value)

    def _check(name: object) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"Found the name '{name}' in a namespace; leave the '_' out.")

    return PlainNames
