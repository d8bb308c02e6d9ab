"""An engine's settings as one frozen object: keywords of `LLM`, flags of `serve`."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, InstanceOf, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from treadle.core.errors import SettingsError
from treadle.core.registry import Registry, near
from treadle.core.settings import Settings
from treadle.core.sizes import Bytes
from treadle.runtime.admit.base import Admission
from treadle.runtime.admit.tables import ADMISSIONS
from treadle.runtime.draft.base import Drafter
from treadle.runtime.draft.tables import DRAFTERS
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.tables import EVICTIONS

__all__ = ["AdmissionChoice", "AtLeastOne", "EngineSettings", "show_as_keywords"]


def _plain(value: Any) -> Any:  # Any: whatever was given
    """Make numpy's numbers Python's own."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _number(value: Any) -> Any:  # Any: whatever was given
    """Refuse what is no number: a text of digits is none."""
    if isinstance(value, bool) or not isinstance(value, Real | None):
        raise PydanticCustomError("float_type", "Input should be a number")
    return _plain(value)


def _path_as_text(value: Any) -> Any:  # Any: whatever was given
    """Return a path as the text that a user would write."""
    return str(value) if isinstance(value, Path) else value


Chosen = Mapping[str, Any]  # Any: a method's settings, under the key `method` its name
Whole = Annotated[int, Field(strict=True), BeforeValidator(_plain)]
AtLeastOne = Annotated[int, Field(strict=True, ge=1), BeforeValidator(_plain)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0), BeforeValidator(_plain)]
AdmissionChoice = Annotated[str | InstanceOf[Admission] | Chosen, ADMISSIONS]
DrafterChoice = Annotated[
    str | InstanceOf[Drafter] | Chosen, DRAFTERS, BeforeValidator(_path_as_text)
]
Flag = Annotated[bool, Field(strict=True)]


def _require_drafter(given: Any) -> None:  # Any: whatever was given
    """Refuse what is neither a drafter nor a model, so far as this can be seen without loading it.

    Raises:
        SettingsError: It is none.
    """
    if given == "":
        raise SettingsError(
            "Found speculate='', expected a drafter or a folder; give 'none' for none."
        )
    DRAFTERS.resolve(given)
    is_name = isinstance(given, str) and not any(sign in given for sign in "/\\:.")
    if is_name and given not in DRAFTERS and not Path(given).exists():
        raise SettingsError(
            f"No drafter '{given}', and no folder of this name. {near(given, DRAFTERS.table)} Or "
            f"give the folder of a drafting model."
        )


class EngineSettings(Settings):
    """How an engine holds a model and its cache, and how it shares both out among requests."""

    cache_bytes: Annotated[Bytes, Field(strict=True, ge=1), BeforeValidator(_plain)] | None = None
    """Of keys and values; unless given, what `max_num_seqs` texts of full length take, but at most
    a quarter of the free memory."""
    page_size: AtLeastOne = 16
    """Tokens of a page."""
    max_num_seqs: AtLeastOne | None = None
    """Requests in a batch; unless given 64, or fewer where a step has fewer tokens."""
    max_num_batched_tokens: AtLeastOne = 256
    """Tokens of a step: an urgent request may have to wait for one."""
    kv_dtype: Literal["fp32", "fp16", "int8", "int4"] = "fp16"
    """How keys and values are stored: fp32 rounds nothing, int8 and int4 have one scale for each
    vector."""
    policy: AdmissionChoice = "fcfs"
    """Who comes first: fcfs, priority, fair (among clients), fair_priority (the lowest priority
    number, then fair), or prefix (the longest cached start)."""
    preemption: Literal["recompute", "swap"] = "recompute"
    """How a request that made room for others comes back: computed again, or from a copy."""
    enable_prefix_caching: Flag = True
    """Whether equal starts of texts are computed once."""
    watermark_fraction: Number = 0.01
    """Of the cache, kept free when a request is admitted beside others."""
    ageing_seconds: Number = 10.0
    """Wait after which the prefix policy lets a request in before others."""
    rows_beside_urgent: Annotated[Whole, Field(ge=0)] | None = 2
    """Tokens of a step that all requests of lower priority get together beside a more urgent one
    (policies priority and fair_priority): bounds how much they slow it down; None for no bound."""
    rows_beside_less_served: AtLeastOne | None = 4
    """Tokens of a step that all clients that were served more get together beside one that was
    served less (policies fair and fair_priority); None for no bound."""
    seed: Whole = 0
    """Of requests without a seed of their own."""
    weights: str = "auto"
    """How matrices are held by the native step: fp32, fp16, q8, q4_0 or q4_1; auto keeps the codes
    of a quantised model as they are, and holds others in fp32. Activations meet weights of 8 and 4
    bits rounded to 8 bits, which single tokens show (0.09 nats on SmolLM2) and means do not."""
    num_threads: AtLeastOne | None = None
    """Threads of the native step; unless given, the physical cores."""
    device: str = "cpu"
    """The cpu, or a CUDA device (experimental)."""
    trust_remote_code: Flag = False
    """Run code that a checkpoint brings along."""
    keep: Annotated[str | InstanceOf[Eviction] | Chosen | None, EVICTIONS] = None
    """Which entries of the cache stay, in each layer and KV head: the name of an eviction policy;
    unless given, all of them."""
    keep_budget: Annotated[int | float, BeforeValidator(_number)] | None = None
    """What `keep` leaves of each layer and KV head, on average: a whole number of entries, or a
    fraction of the text (0.25)."""

    speculate: DrafterChoice = "none"
    """What guesses tokens that a step then verifies, so that it may bring several: the name of a
    drafter (suffix, ngram, recycling), the folder of a smaller model, or none. Answers stay the
    same (up to rounding behind trees of guesses: recycling), and guesses run only where they are
    measured to pay."""

    tree_attention: Literal["auto", "flatten", "cascade", "node", "node_chunk", "path", "dense"] = (
        "auto"
    )
    """How texts that share pages attend: auto takes what this machine was measured to do fastest of
    those that give the same numbers to the last bit (flatten, cascade, path); the others are for
    comparison."""

    @model_validator(mode="after")
    def _policies_exist(self) -> Self:
        """Resolve the policies, so that a misspelt name is refused before a model is loaded."""
        from treadle.runtime.admit.queue import choose_admission
        from treadle.runtime.evict.keeping import choose_keeping

        choose_admission(self.policy, self.ageing_seconds)
        choose_keeping(self.keep, self.keep_budget)
        _require_drafter(self.speculate)
        return self

    def changes(self) -> dict[str, Any]:  # Any: JSON values
        """Return what differs from the defaults; policies with all of their settings."""
        found: dict[str, Any] = {}  # Any: JSON values
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                table = next((one for one in field.metadata if isinstance(one, Registry)), None)
                found[name] = value if table is None else table.resolve(value).settings()
        return found

    def changed(self, fields: Mapping[str, Any]) -> "EngineSettings":  # Any: validated here
        """Return the same settings but for `fields`, checked.

        Raises:
            SettingsError: There is no such setting, or a value is refused.
        """
        names = list(type(self).model_fields)
        for name in fields:
            if name not in names:
                raise SettingsError(f"No setting '{name}' of an engine. {near(name, names)}")
        given = {name: getattr(self, name) for name in self.model_fields_set}
        try:
            return type(self).model_validate({**given, **fields})
        except ValidationError as error:
            raise _refusal(error.errors()[0]) from error


_EXPECTED: dict[str, Callable[[dict[str, Any]], str]] = {  # Any: pydantic's context of an error
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "True or False",
    "string_type": lambda _: "a text",
    "greater_than_equal": lambda context: f"at least {context['ge']:g}",
}
"""pydantic's word for a mistake -> what was expected, in the words of `typed`."""


_NO_CHOICE = ("string_type", "is_instance_of", "mapping_type")


def _refusal(error: ErrorDetails) -> SettingsError:
    """Return what to tell a caller of a value that is refused."""
    context = error.get("ctx", {})
    if error["loc"][:1] == ("speculate",) and error["type"] in _NO_CHOICE:
        return SettingsError(
            f"Found speculate={error['input']!r}, expected a drafter's name, a mapping of the key "
            f"'method' and its settings, or the folder of a drafting model; give 'none' for none."
        )
    if isinstance(context.get("error"), SettingsError):
        found: SettingsError = context["error"]
        return found
    name, value = str(error["loc"][0]), error["input"]
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        if isinstance(value, str):
            return SettingsError(f"No {name} '{value}'. {near(value, choices)}")
        return SettingsError(f"Found {name}={value!r}, expected a text; change {name}.")
    if error["type"] == "size":
        return SettingsError(f"Found {name}={value!r}. {error['msg']}")
    words = _EXPECTED.get(error["type"])
    expected = error["msg"] if words is None else words(context)
    return SettingsError(f"Found {name}={value!r}, expected {expected}; change {name}.")


def show_as_keywords(
    kind: type[Settings],
    function: Callable[..., Any],  # Any: takes them as its last, catch-all parameter
) -> None:
    """Let help and editors show settings as the keywords that they are."""
    known = inspect.signature(function)
    named = [p for p in known.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    (rest,) = known.parameters.keys() - {p.name for p in named}
    entries = []
    for name, field in kind.model_fields.items():
        annotation, keyword = _bare(field.annotation), inspect.Parameter.KEYWORD_ONLY
        named.append(inspect.Parameter(name, keyword, default=field.default, annotation=annotation))
        text = f"{name}: {field.description}"
        entries.append(textwrap.fill(text, 100, initial_indent=" " * 4, subsequent_indent=" " * 8))
    function.__signature__ = known.replace(parameters=named)  # type: ignore[attr-defined]
    # Their entries take the place of the catch-all's.
    before, _, after = (inspect.getdoc(function) or "").partition(f"    {rest}: ")
    function.__doc__ = "\n".join([before.rstrip(), *entries, "", after.partition("\n\n")[2]])


def _bare(annotation: Any) -> Any:  # Any: types
    """Return a type without what validates it."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(_bare, get_args(annotation)))]  # noqa: UP007  # of a tuple
    return annotation
