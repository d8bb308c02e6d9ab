"""Ask `treadle serve` through openai-agents: tools, a handoff, typed outputs, both interfaces.

Usage: pip install openai-agents; python examples/clients/openai_agents_client.py URL MODEL
"""

import asyncio
import sys
from typing import Literal

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
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


@function_tool
def look(place: Place, by: Literal["day", "night"]) -> str:
    """Look at the sky of a place."""
    return f"clear over {place.city} by {by}"


async def talk(kind: type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]) -> None:
    """Run agents on one of the interfaces."""
    url, name = sys.argv[1:3]
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
    model = kind(name, client)
    says = ModelSettings(max_tokens=16)
    calls = ModelSettings(max_tokens=150, tool_choice="required", parallel_tool_calls=False)
    # Once a tool has run, an agent is free to answer.
    looking = Agent("Looking", instructions="Be short.", model=model, tools=[look])
    looking.model_settings = calls
    run = await Runner.run(looking, "How is the sky over Oslo?", max_turns=3)
    print(f"{kind.__name__}:", [type(item).__name__ for item in run.new_items])
    looking.model_settings = says
    talked = [*run.to_input_list(), {"role": "user", "content": "And over Lima?"}]
    await Runner.run(looking, talked)
    french = Agent("French", model=model, model_settings=says)
    front = Agent("Front", model=model, handoffs=[french], model_settings=calls)
    handed = await Runner.run(front, "Bonjour !", max_turns=3)
    assert handed.last_agent is french
    print(f"{kind.__name__}: handed over to", handed.last_agent.name)
    typed = Agent("Typed", model=model, output_type=Look)
    typed.model_settings = ModelSettings(max_tokens=150)
    stream = Runner.run_streamed(typed, "How is the sky over Oslo?")
    count = len([event async for event in stream.stream_events()])
    print(f"{kind.__name__}: {count} events, then", stream.final_output)
    try:
        await Runner.run(Agent("Nobody", model=kind("nobody", client)), "Hello.")
        raise SystemExit("An unknown model was not refused.")
    except openai.NotFoundError as error:
        print(f"{kind.__name__}:", error.code)
    try:
        await Runner.run(french, "word " * 40_000)
        raise SystemExit("A prompt that is too long was not refused.")
    except openai.BadRequestError as error:
        print(f"{kind.__name__}:", error.code)
    await client.close()


set_tracing_disabled(True)
for interface in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
    asyncio.run(talk(interface))
