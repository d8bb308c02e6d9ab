"""Ask `treadle serve` with Anthropic's client: messages, streams, a tool runner, counts, errors.

Usage: pip install anthropic; python examples/clients/anthropic_client.py URL MODEL
"""

import sys
from typing import Literal

import anthropic
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


@anthropic.beta_tool
def nearest(place: Literal["Oslo", "Lima"]) -> str:
    """Say which place is nearest to another.

    Args:
        place: The other one.
    """
    print("the tool runner called nearest:", place)
    return "Bergen"


url, model = sys.argv[1:3]
client = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=120)
hello = {"role": "user", "content": "How is the sky over Oslo?"}
tool = {"name": "look", "description": "Look up.", "input_schema": Look.model_json_schema()}
asked = {"model": model, "messages": [hello], "max_tokens": 24}
calling = {**asked, "tools": [tool], "tool_choice": {"type": "tool", "name": "look"}}
calling["max_tokens"] = 200

answer = client.messages.create(**asked, system="Be short.")
print("answer:", [block.type for block in answer.content], answer.usage.output_tokens, "tokens")
count = client.messages.count_tokens(model=model, messages=[hello], system="Be short.")
cached = answer.usage.cache_read_input_tokens
assert count.input_tokens == answer.usage.input_tokens + cached
print("counted:", count.input_tokens)
with client.messages.stream(**asked) as stream:
    print("stream:", ascii("".join(stream.text_stream)))

said = client.messages.create(**calling)
use = said.content[-1]
print("call:", Look.model_validate(use.input))
with client.messages.stream(**calling) as stream:
    kinds = {event.type for event in stream}
    Look.model_validate(stream.get_final_message().content[-1].input)
assert "input_json" in kinds
result = {"type": "tool_result", "tool_use_id": use.id, "content": "clear"}
turns = [{"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
after = client.messages.create(**{**asked, "messages": [hello, *turns]}, tools=[tool])
print("after the result:", after.stop_reason)

form = client.messages.parse(**{**asked, "max_tokens": 200}, output_format=Look)
print("form:", form.parsed_output)

runner = client.beta.messages.tool_runner(
    **{**asked, "max_tokens": 100}, tools=[nearest], max_iterations=2,
    tool_choice={"type": "any", "disable_parallel_tool_use": True},
)  # fmt: skip
print("the tool runner:", [message.stop_reason for message in runner])

print("models:", [found.display_name for found in client.models.list()])
try:
    client.messages.create(**{**asked, "model": "nobody"})
    raise SystemExit("An unknown model was not refused.")
except anthropic.NotFoundError as error:
    print("unknown model:", error.body["error"]["type"])
try:
    client.messages.create(**{**asked, "messages": [{**hello, "content": "word " * 40_000}]})
    raise SystemExit("A prompt that is too long was not refused.")
except anthropic.BadRequestError as error:
    print("too long:", error.body["error"]["message"][:70])
