"""Ask `treadle serve` through instructor: whole models, partial ones and lists, in four modes.

Usage: pip install instructor; python examples/clients/instructor_client.py URL MODEL
"""

import sys
from typing import Literal

import instructor
import openai
from instructor import Mode
from instructor.core import InstructorRetryException
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
plain = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
hello = {"role": "user", "content": "How is the sky over Oslo?"}
asked = {"model": model, "messages": [hello], "max_tokens": 200, "max_retries": 0}
for mode in (Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA):
    client = instructor.from_openai(plain, mode=mode)
    print(f"{mode.name}:", client.create(response_model=Look, **asked))
    *parts, last = client.create_partial(response_model=Look, **asked)
    print(f"{mode.name}: {len(parts)} parts before", last)
    assert parts, "arguments come piece by piece"
client = instructor.from_openai(plain, mode=Mode.RESPONSES_TOOLS)
found = client.responses.create(
    model=model, input="Look.", response_model=Look, max_output_tokens=200
)
print("RESPONSES_TOOLS:", found)
try:
    client = instructor.from_openai(plain, mode=Mode.TOOLS)
    client.create(response_model=Look, **{**asked, "model": "nobody"})
    raise SystemExit("An unknown model was not refused.")
except InstructorRetryException as error:
    print("unknown model:", "model_not_found" in str(error))
