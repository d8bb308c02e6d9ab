"""Ask `treadle serve` through langchain-openai: both interfaces, tools, structured output.

Usage: pip install langchain-openai; python examples/clients/langchain_openai_client.py URL MODEL
"""

import sys
from typing import Literal

import openai
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
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


@tool(args_schema=Look)
def look(place: Place, by: str) -> str:
    """Look at the sky of a place."""
    return f"clear over {place.city} by {by}"


url, model = sys.argv[1:3]
hello = HumanMessage("How is the sky over Oslo?")
for name, settings in (("chats", {}), ("responses", {"use_responses_api": True})):
    shared = {"base_url": f"{url}/v1", "api_key": "any", "max_retries": 0, **settings}
    short = ChatOpenAI(model=model, max_tokens=16, **shared)
    chat = ChatOpenAI(model=model, max_tokens=200, **shared)
    print(f"{name}: answer of", short.invoke([hello]).usage_metadata["output_tokens"], "tokens")
    print(f"{name}: stream of", len(list(short.stream([hello]))), "pieces")
    bound = chat.bind_tools([look], tool_choice="look", parallel_tool_calls=False, strict=True)
    said = bound.invoke([hello])
    (call,) = said.tool_calls
    result = look.invoke(call)
    print(f"{name}: call {call['args']}, result {result.content!r}")
    short.bind_tools([look]).invoke([hello, said, result])
    pieces = list(bound.stream([hello]))
    grown = sum(pieces[1:], pieces[0])
    Look.model_validate(grown.tool_calls[0]["args"])
    assert len(pieces) > 3, "arguments come piece by piece"
    for method in ("json_schema", "function_calling"):
        found = chat.with_structured_output(Look, method=method, strict=True).invoke([hello])
        print(f"{name}: {method}", found)
    try:
        ChatOpenAI(model="nobody", **shared).invoke([hello])
        raise SystemExit("An unknown model was not refused.")
    except openai.NotFoundError:
        print(f"{name}: unknown model")
    try:
        short.invoke("word " * 40_000)
        raise SystemExit("A prompt that is too long was not refused.")
    except openai.BadRequestError as error:
        print(f"{name}: too long, {error.code}")
