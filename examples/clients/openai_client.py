"""Ask `treadle serve` with OpenAI's client: chats, streams, calls, forms, responses, errors.

Usage: pip install openai; python examples/clients/openai_client.py URL MODEL
"""

import sys
from typing import Literal

import openai
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


url, model = sys.argv[1:3]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
hello = {"role": "user", "content": "How is the sky over Oslo?"}
asked = {"model": model, "messages": [hello], "max_tokens": 24, "temperature": 0}
tool = openai.pydantic_function_tool(Look)
calling = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}

answer = client.chat.completions.create(**asked)
print("answer:", ascii(answer.choices[0].message.content))
pieces = client.chat.completions.create(**asked, stream=True)
whole = "".join(piece.choices[0].delta.content or "" for piece in pieces)
print("stream:", ascii(whole))
assert whole == answer.choices[0].message.content

said = client.chat.completions.parse(**{**asked, **calling, "max_tokens": 200}).choices[0].message
call = said.tool_calls[0]
print("call:", call.function.parsed_arguments)
with client.chat.completions.stream(**{**asked, **calling, "max_tokens": 200}) as stream:
    kinds = {event.type for event in stream}
    streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
assert "tool_calls.function.arguments.delta" in kinds
assert streamed.function.parsed_arguments == call.function.parsed_arguments
result = {"role": "tool", "tool_call_id": call.id, "content": "clear"}
talk = [hello, {**said.model_dump(), "reasoning_content": "It is Oslo."}, result]
after = client.chat.completions.create(**{**asked, "messages": talk}, tools=[tool])
print("after the result:", after.choices[0].finish_reason)

form = client.chat.completions.parse(**{**asked, "max_tokens": 200}, response_format=Look)
print("form:", form.choices[0].message.parsed)

first = client.responses.parse(model=model, input=[hello], text_format=Look, max_output_tokens=200)
print("response:", first.output_parsed)
function = {"type": "function", **tool["function"]}
second = client.responses.create(
    model=model, input="Look.", previous_response_id=first.id, tools=[function],
    tool_choice={"type": "function", "name": "Look"}, max_output_tokens=200,
)  # fmt: skip
call = second.output[-1]
print("its call:", Look.model_validate_json(call.arguments))
items = [hello, *second.output]
items.append({"type": "function_call_output", "call_id": call.call_id, "output": "clear"})
events = client.responses.create(model=model, input=items, max_output_tokens=24, stream=True)
print("its stream ends with:", [event.type for event in events][-1])

try:
    client.chat.completions.create(**{**asked, "model": "nobody"})
    raise SystemExit("An unknown model was not refused.")
except openai.NotFoundError as error:
    print("unknown model:", error.body["code"])
try:
    length = client.models.retrieve(model).max_model_len
    client.chat.completions.create(model=model, messages=[{**hello, "content": "word " * length}])
    raise SystemExit("A prompt that is too long was not refused.")
except openai.BadRequestError as error:
    print("too long:", error.code)
