"""Conversations of plain texts by a chat template, as transformers writes them, without it.

What is more than texts (tools, reasoning), and whatever a template fails at, is left to
transformers: its answer, and its error, are those that count.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

    from treadle.model.classes import Tokenizer

__all__ = ["PlainTemplate", "template_note"]

_REASONING = frozenset({"reasoning_content", "thinking", "reasoning"})
"""Keys of messages that transformers copies under each other's names."""
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
    """

    def __init__(self, noted: dict[str, Any]) -> None:  # Any: JSON values
        self._text: str = noted["template"]
        self._special: dict[str, Any] = noted["special"]
        self._compiled: Template | None = None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:  # Any: JSON values
        """Return a conversation up to where the model answers; None where transformers is asked."""
        plain = [{k: v for k, v in one.items() if v is not None} for one in messages]
        if not plain or not all(_is_plain(message) for message in plain):
            return None
        try:
            if self._compiled is None:
                self._compiled = _compiled(self._text)
            given = {"messages": plain, "tools": None, "documents": None}
            return self._compiled.render(**given, add_generation_prompt=True, **self._special)
        except Exception:  # a template raises what it likes; transformers says it in its own words
            return None


def template_note(tokenizer: "Tokenizer") -> dict[str, Any] | None:  # Any: JSON values
    """Return a tokenizer's chat template as JSON, if a `PlainTemplate` of it writes the same."""
    from transformers import PreTrainedTokenizerBase

    kind, template = type(tokenizer), tokenizer.chat_template
    if not all(getattr(kind, name) is getattr(PreTrainedTokenizerBase, name) for name in _OWN):
        return None
    special = dict(tokenizer.special_tokens_map)
    noted = {"template": template, "special": special}
    try:
        if type(template) is not str or json.loads(json.dumps(noted)) != noted:
            return None
    except TypeError:  # a special token that is more than a text
        return None
    plain = PlainTemplate(noted)
    written = [(plain.render(talk), talk) for talk in _TALKS]
    is_same = all(text in (None, _asked(tokenizer, talk)) for text, talk in written)
    return noted if is_same and written[0][0] is not None else None


def _asked(tokenizer: "Tokenizer", talk: list[dict[str, str]]) -> str:
    try:
        text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    except Exception:  # a template raises what it likes
        return "(refused)"
    return str(text)


def _is_plain(message: Mapping[str, Any]) -> bool:  # Any: JSON values
    return not _REASONING & set(message) and all(type(v) is str for v in message.values())


def _compiled(text: str) -> "Template":
    """Compile a template in a sandbox: it comes from whoever made the model."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    sandbox.filters["tojson"] = _as_json
    sandbox.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "dict": lambda *pairs, **named: dict(*pairs, **named),
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
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def _names() -> type:
    """Return jinja's namespace, but for names that lead into Python's inside."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class Names(Namespace):
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

    return Names
