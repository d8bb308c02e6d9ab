"""From what a client asks to what the runtime takes."""

import json
from collections.abc import Mapping
from typing import Any

from treadle.deploy.http.asked import AskedGeneration
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.references import flaw_in
from treadle.runtime.request import SamplingParams
from treadle.runtime.structured import StructuredOutputs

__all__ = ["sampling_params"]

_SAME = (
    *("n", "temperature", "top_p", "top_k", "min_p", "seed", "min_tokens", "stop"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "stop_token_ids"),
    *("ignore_eos", "skip_special_tokens", "include_stop_str_in_output"),
)
"""Parameters that the runtime knows under the same name."""
_FILTERS = ("top_p", "top_k", "min_p")
_COLDEST = 1e-5
"""Below it logits overflow; vLLM takes the most probable token there, too."""


def sampling_params(
    asked: AskedGeneration,
    max_tokens: int,
    *,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    form: StructuredOutputs | None = None,
    shows_special_tokens: bool = False,
) -> SamplingParams:
    """Return how an answer is to be generated.

    Args:
        asked: The body.
        max_tokens: New tokens at most.
        logprobs: Of the chosen and so many best tokens.
        prompt_logprobs: The same of the prompt's tokens.
        form: Of the answer, where something else than `structured_outputs` asks for it.
        shows_special_tokens: Whether the text has them unless the client says otherwise.

    Raises:
        ApiError: Two forms are asked for, or stream_options without a stream.
        SettingsError: Two settings contradict each other.
    """
    given: dict[str, Any] = {  # Any: values of several types
        name: value for name in _SAME if (value := getattr(asked, name)) is not None
    }
    if given.get("temperature", 1) < _COLDEST:  # the most probable token is always among those
        given["temperature"] = 0
        given = {name: value for name, value in given.items() if name not in _FILTERS}
    if shows_special_tokens:
        given.setdefault("skip_special_tokens", False)
    return SamplingParams(
        **given,
        max_tokens=max_tokens,
        logit_bias=_bias(asked.logit_bias or {}),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        structured_outputs=_form(asked, form),
    )


def _form(asked: AskedGeneration, form: StructuredOutputs | None) -> StructuredOutputs | None:
    own = asked.structured_outputs
    if own is None:
        return form
    if form is not None:
        raise ApiError(
            400,
            "Found structured_outputs beside another form of the answer (response_format or "
            "tool_choice), expected one; leave the other out.",
            "contradiction",
            "structured_outputs",
        )
    found = StructuredOutputs.from_dict(own.model_dump(by_alias=True, exclude_none=True))
    schema = json.loads(own.json_) if isinstance(own.json_, str) else own.json_
    flaw = None if schema is None else flaw_in(schema)
    if flaw is not None:
        raise ApiError(
            400,
            f"The schema at structured_outputs.json cannot be kept: {flaw}; change what it names.",
            "invalid_schema",
            "structured_outputs",
        )
    return found


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError as error:
        raise ApiError(
            400,
            f"logit_bias names a token that is no number ({error}); give token ids as keys.",
            "invalid_value",
            "logit_bias",
        ) from error
