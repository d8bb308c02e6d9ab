"""How a request is to be answered."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.keeping import Keeping, choose_keeping
from treadle.runtime.structured import StructuredOutputs
from treadle.runtime.typed import flag, items, number, require, text, whole

__all__ = ["KEEP_ALL", "SamplingParams"]

KEEP_ALL = "all"
"""What a request says that wants nothing to go."""
_PENALTY = 2.0
_WHOLE = {"n": 1, "min_tokens": 0, "top_k": -1, "prompt_logprobs_start": 1}
"""Field -> the least that it may be."""
_MOST_ANSWERS = 1024
_WHOLE_OR_NONE = {
    **{"max_tokens": 1, "logprobs": 0, "prompt_logprobs": 0, "seed": None},
    "beam_width": 1,
}
_NUMBERS = (
    *("temperature", "top_p", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_OF_BEAMS = (
    *("n", "max_tokens", "temperature", "ignore_eos", "stop_token_ids", "beam_width"),
    *("keep", "keep_budget"),
)
"""What counts beside a beam width."""
_FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when a request ends; names and meanings are vLLM's.

    Raises:
        SettingsError: A value is of another type or out of range, or two contradict each other.
    """

    n: int = 1
    """Answers to each prompt."""
    max_tokens: int | None = 16
    """New tokens at most; None: as many as the model's context allows."""
    min_tokens: int = 0
    """New tokens before the end of sequence or a stop may come."""
    temperature: float = 1.0
    """0 takes the most probable token."""
    top_k: int = 0
    """Choose among the k most probable tokens; 0 or -1: all."""
    top_p: float = 1.0
    """Choose among the most probable tokens that together reach this probability."""
    min_p: float = 0.0
    """Drop tokens less probable than this fraction of the most probable one."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    """Token -> what is added to its logit, -100 to 100."""
    logprobs: int | None = None
    """Report the logprobs of the chosen and so many best tokens, before penalties and filters."""
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens; all of them then run through the model."""
    prompt_logprobs_start: int = 1
    """First token of the prompt whose logprobs are asked; those before may come from the cache."""
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputs | None = None
    """The form that the answer must have; a mapping of its fields will do. Other tokens are struck
    out before penalties and filters count; the answer stops where nothing can follow."""
    keep: Eviction | str | Mapping[str, Any] | None = None  # Any: a policy's settings
    """Which entries of the cache stay for this request: an eviction policy, or 'all'; None: as the
    engine is set."""
    keep_budget: int | float | None = None
    """What `keep` leaves of each layer and KV head, on average: entries, or a fraction."""
    beam_width: int | None = None
    """Search for the most probable answers, so many of them at once; `n` of these come back, best
    first. The temperature is 0 then."""
    seed: int | None = None
    """Same seed and prompt, same answer, whatever runs beside it; None: the engine's seed and the
    request's id."""

    def __post_init__(self) -> None:
        """Check the values; numbers become Python's own, a single stop string a tuple."""
        for name, low in _WHOLE.items():
            self._set(name, whole(name, getattr(self, name), low))
        for name, least in _WHOLE_OR_NONE.items():
            if getattr(self, name) is not None:
                self._set(name, whole(name, getattr(self, name), least))
        plain = {name: number(name, getattr(self, name)) for name in _NUMBERS}
        self._check_ranges()
        for name, value in plain.items():
            self._set(name, value)
        for name in _FLAGS:
            self._set(name, flag(name, getattr(self, name)))
        require(self.n <= _MOST_ANSWERS, "n", self.n, f"at most {_MOST_ANSWERS}")
        if self.prompt_logprobs is None:
            start = self.prompt_logprobs_start
            require(start == 1, "prompt_logprobs_start", start, "prompt_logprobs beside it")
        self._set_lists()
        self._set_keeping()
        if self.beam_width is not None:
            self._check_beams(self.beam_width)
        self._check_contradictions()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _set_keeping(self) -> None:
        """Resolve the eviction policy, so that a misspelt name is refused here."""
        if self.keep == KEEP_ALL:
            require(self.keep_budget is None, "keep_budget", self.keep_budget, "none beside 'all'")
            return
        found = choose_keeping(self.keep, self.keep_budget)
        if found is not None:
            self._set("keep", found.method)
            self._set("keep_budget", found.budget)

    @property
    def keeping(self) -> Keeping | None:
        """What the request keeps of its cache, if it says so by a policy."""
        if self.keep is None or self.keep == KEEP_ALL:
            return None
        return choose_keeping(self.keep, self.keep_budget)

    def _set_lists(self) -> None:
        given = () if self.stop is None else self.stop
        stop = (given,) if isinstance(given, str) else items("stop", given, "strings")
        for string in stop:
            require(bool(text("stop", string)), "stop", stop, "strings that are not empty")
        self._set("stop", stop)
        ends = () if self.stop_token_ids is None else self.stop_token_ids
        tokens = items("stop_token_ids", ends, "token ids")
        self._set("stop_token_ids", tuple(whole("stop_token_ids", token) for token in tokens))
        bias, form = self.logit_bias or {}, self.structured_outputs
        require(isinstance(bias, Mapping), "logit_bias", bias, "a mapping of token ids to numbers")
        plain = {whole("a token of logit_bias", token): value for token, value in bias.items()}
        biases = {token: number(f"logit_bias[{token}]", plain[token]) for token in plain}
        for token, value in biases.items():
            require(-100 <= value <= 100, f"logit_bias[{token}]", value, "-100 to 100")
        self._set("logit_bias", biases)
        if isinstance(form, Mapping):
            self._set("structured_outputs", StructuredOutputs.from_dict(form))
        elif not isinstance(form, StructuredOutputs | None):
            expected = "StructuredOutputs, or a mapping such as {'regex': '(yes|no)'}"
            require(False, "structured_outputs", form, expected)

    def _check_ranges(self) -> None:
        require(self.temperature >= 0, "temperature", self.temperature, "at least 0")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 to 1")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            require(-_PENALTY <= value <= _PENALTY, name, value, "-2 to 2")
        repetition = self.repetition_penalty
        require(repetition > 0, "repetition_penalty", repetition, "above 0 (1 does nothing)")

    def _check_contradictions(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SettingsError(
                f"min_tokens={self.min_tokens} contradicts max_tokens={self.max_tokens}; raise "
                f"max_tokens or lower min_tokens."
            )
        if self.structured_outputs is not None:
            self._check_form()
        if self.temperature > 0:
            return
        if self.n > 1 and self.beam_width is None:
            raise SettingsError(
                f"n={self.n} with temperature=0 would give the same answer {self.n} times; raise "
                f"the temperature or set n=1."
            )
        filters = {"top_k": self.top_k > 0, "top_p": self.top_p < 1, "min_p": self.min_p > 0}
        for name, is_set in filters.items():
            if is_set:
                raise SettingsError(
                    f"{name}={getattr(self, name)} has no effect at temperature=0, which takes the "
                    f"most probable token; raise the temperature or leave {name} out."
                )

    def _check_beams(self, beam_width: int) -> None:
        """Refuse what does nothing in a beam search, which draws nothing."""
        require(self.n <= beam_width, "n", self.n, f"at most beam_width={beam_width}")
        plain = SamplingParams()
        if self.temperature not in (0, plain.temperature):
            require(False, "temperature", self.temperature, "0 beside beam_width")
        for item in fields(self):
            if item.name not in _OF_BEAMS and getattr(self, item.name) != getattr(plain, item.name):
                raise SettingsError(
                    f"{item.name}={getattr(self, item.name)!r} has no effect on a beam search; "
                    f"leave {item.name} or beam_width out."
                )
        self._set("temperature", 0.0)

    def _check_form(self) -> None:
        """Refuse what would let an answer go on behind its end."""
        for name, is_set in (("ignore_eos", self.ignore_eos), ("min_tokens", self.min_tokens > 0)):
            if is_set:
                raise SettingsError(
                    f"{name}={getattr(self, name)} contradicts structured_outputs, where the form "
                    f"says when an answer ends; leave {name} out."
                )

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return plain values, from which `from_dict` builds the same again."""
        form = self.structured_outputs
        keep = self.keep.settings() if isinstance(self.keep, Eviction) else self.keep
        plain = asdict(replace(self, keep=None, keep_budget=None))
        own = {"keep": keep, "keep_budget": self.keep_budget}
        return {**plain, **own, "structured_outputs": form and form.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SamplingParams":  # Any: JSON values
        """Build from plain values.

        Raises:
            SettingsError: A name is unknown, or a value is refused.
        """
        names = [item.name for item in fields(cls)]
        for name in values:
            if name not in names:
                raise SettingsError(f"No sampling parameter '{name}'. {near(name, names)}")
        plain = dict(values)
        bias = plain.get("logit_bias")
        if isinstance(bias, Mapping):  # JSON has no numbers as keys
            plain["logit_bias"] = {_token(key): value for key, value in bias.items()}
        return cls(**plain)


def _token(key: object) -> object:
    return int(key) if isinstance(key, str) and key.isdecimal() else key
