"""Ask `treadle serve` through litellm: three of its providers, its bridges, its errors.

Usage: pip install litellm; python examples/clients/litellm_client.py URL MODEL
"""

import asyncio
import os
import sys
from typing import Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it asks GitHub for prices otherwise

import litellm
from pydantic import BaseModel, ConfigDict


class Place(BaseModel):
    """Where to look."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Oslo", "Lima"]


class Look(BaseModel):
    """Look at the sky of a place."""

    model_config = ConfigDict(extra="forbid")
    place: Place
    by: Literal["day", "night"]


def read(provider: str, text: str) -> Look | str:
    """Return a model's JSON; as text where litellm sends a schema that is open to more."""
    return Look.model_validate_json(text) if provider == "openai" else ascii(text[:40])


url, model = sys.argv[1:3]
litellm.suppress_debug_info = True
hello = {"role": "user", "content": "How is the sky over Oslo?"}
schema = Look.model_json_schema()
tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
named = {"type": "function", "function": {"name": "look"}}

for provider, base in (("openai", f"{url}/v1"), ("hosted_vllm", f"{url}/v1"), ("anthropic", url)):
    asked = {"model": f"{provider}/{model}", "api_base": base, "api_key": "any", "max_tokens": 200}
    answer = litellm.completion(messages=[hello], **{**asked, "max_tokens": 16})
    print(f"{provider}: answer of {answer.usage.completion_tokens} tokens")
    said = litellm.completion(messages=[hello], tools=[tool], tool_choice=named, **asked)
    message = said.choices[0].message
    call = message.tool_calls[0]
    print(f"{provider}: call", read(provider, call.function.arguments))
    result = {"role": "tool", "tool_call_id": call.id, "content": "clear"}
    talk = [hello, message.model_dump(), result]
    after = litellm.completion(messages=talk, tools=[tool], **{**asked, "max_tokens": 16})
    print(f"{provider}: after the result", after.choices[0].finish_reason)
    pieces = litellm.completion(
        messages=[hello], tools=[tool], tool_choice=named, stream=True, **asked
    )
    streamed = litellm.stream_chunk_builder(list(pieces)).choices[0].message.tool_calls[0]
    print(f"{provider}: streamed call", read(provider, streamed.function.arguments))
    form = litellm.completion(messages=[hello], response_format=Look, **asked)
    print(f"{provider}: form", read(provider, form.choices[0].message.content))
    try:
        litellm.completion(messages=[{**hello, "content": "word " * 40_000}], **asked)
        raise SystemExit("A prompt that is too long was not refused.")
    except litellm.ContextWindowExceededError:
        print(f"{provider}: too long, and litellm knows it")
    try:
        litellm.completion(messages=[hello], **{**asked, "model": f"{provider}/nobody"})
        raise SystemExit("An unknown model was not refused.")
    except litellm.NotFoundError:
        print(f"{provider}: unknown model")

asked = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "any"}
first = litellm.responses(input="Hello.", max_output_tokens=16, **asked)
second = litellm.responses(
    input="And?", previous_response_id=first.id, max_output_tokens=16, **asked
)
print("responses:", second.status)


async def bridge() -> None:
    """Ask in Anthropic's words through OpenAI's interface."""
    message = await litellm.anthropic_messages(
        messages=[hello], max_tokens=200, tools=[{"name": "look", "input_schema": schema}],
        tool_choice={"type": "tool", "name": "look"}, **asked,
    )  # fmt: skip
    print("anthropic_messages:", Look.model_validate(message["content"][-1]["input"]))


asyncio.run(bridge())
