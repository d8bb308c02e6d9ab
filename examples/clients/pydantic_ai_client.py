"""Ask `treadle serve` through pydantic-ai: agents with tools and typed outputs, both interfaces.

Usage: pip install 'pydantic-ai-slim[openai]'; python .../pydantic_ai_client.py URL MODEL
"""

import asyncio
import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, RunContext, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition


class Place(BaseModel):
    """Where to look."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Oslo", "Lima"]


class Look(BaseModel):
    """Look at the sky of a place."""

    model_config = ConfigDict(extra="forbid")
    place: Place
    by: Literal["day", "night"]


async def talk(kind: type[OpenAIChatModel] | type[OpenAIResponsesModel]) -> None:
    """Run agents on one of the interfaces."""
    url, name = sys.argv[1:3]
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="any")
    model = kind(name, provider=provider)
    short = Agent(model, instructions="Be short.", model_settings={"max_tokens": 16})
    first = await short.run("Hello.")
    again = await short.run("And?", message_history=first.all_messages())
    print(f"{kind.__name__}: two answers of {again.usage.output_tokens} tokens at most")
    async with short.run_stream("Hello.") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    print(f"{kind.__name__}: stream of {len(pieces)} pieces")
    one_call = {"max_tokens": 200, "parallel_tool_calls": False}
    for output in (ToolOutput(Look), NativeOutput(Look)):
        agent = Agent(model, output_type=output, model_settings=one_call)
        found = await agent.run("How is the sky over Oslo?")
        more = await agent.run("And now?", message_history=found.all_messages())
        print(f"{kind.__name__}: {type(output).__name__}", more.output)
    looking = Agent(model, output_type=ToolOutput(Look), model_settings=one_call)
    looking.tool_plain(prepare=once)(nearest)
    found = await looking.run("What is near Oslo?")
    parts = [part.part_kind for message in found.all_messages() for part in message.parts]
    print(f"{kind.__name__}: with a tool", parts)
    for nobody, text in (("nobody", "Hello."), (name, "word " * 40_000)):
        try:
            await Agent(kind(nobody, provider=provider)).run(text)
            raise SystemExit(f"{nobody} was asked {text[:10]} and did not refuse.")
        except ModelHTTPError as error:
            print(f"{kind.__name__}: {error.status_code}", error.body["code"])


async def once(context: RunContext, tool: ToolDefinition) -> ToolDefinition | None:
    """Offer a tool in the first step only: a small model would call it for ever."""
    return tool if context.run_step == 1 else None


def nearest(place: Place) -> str:
    """Say which place is nearest to another."""
    return "Lima" if place.city == "Oslo" else "Oslo"


for interface in (OpenAIChatModel, OpenAIResponsesModel):
    asyncio.run(talk(interface))
