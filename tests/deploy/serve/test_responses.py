"""/v1/responses through the official client: items, events, what is kept; and what is refused."""

import json

import openai
import pytest

from treadle.deploy.serve.responses.kept import Kept, KeptResponse
from treadle.runtime import SamplingParams

from .servers import loaded, running

LOOK = {
    "type": "function",
    "name": "look",
    "parameters": {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Place"}},
        "required": ["at"],
        "additionalProperties": False,
        "$defs": {"Place": {"enum": ["sky", "sea"]}},
    },
}
SETTINGS = {"model": "tiny", "temperature": 0, "max_output_tokens": 8}


def test_text_and_items_give_what_the_chat_gives(client, llm):
    hello = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]
    (expected,) = llm.chat(hello, SamplingParams(max_tokens=8, temperature=0))
    parts = [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}]
    for given in ("hello", [{"role": "user", "content": parts}]):
        found = client.responses.create(**SETTINGS, input=given, instructions="be")
        assert found.output_text == expected.outputs[0].text
        assert (found.status, found.incomplete_details.reason) == (
            "incomplete",
            "max_output_tokens",
        )
        assert found.usage.input_tokens == len(expected.prompt_token_ids)
        assert found.usage.output_tokens == 8
        assert found.output[0].status == "incomplete"


def test_a_stream_grows_into_the_whole(client):
    settings = {**SETTINGS, "input": "hello", "include": ["message.output_text.logprobs"]}
    whole = client.responses.create(**settings, top_logprobs=2)
    events = list(client.responses.create(**settings, top_logprobs=2, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    places = [entry.token for event in deltas for entry in event.logprobs]
    rest = events[-1].response.output[0].content[0].logprobs[len(places) :]
    assert [*places, *(entry.token for entry in rest)] == [
        entry.token for entry in whole.output[0].content[0].logprobs
    ]
    assert all(len(e.top_logprobs) == 2 for e in whole.output[0].content[0].logprobs)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "look"}])
def test_a_call_and_its_result_in_a_conversation_that_goes_on(client, choice):
    settings = {**SETTINGS, "max_output_tokens": 100, "tools": [LOOK]}
    with client.responses.stream(
        **settings, input="hello", tool_choice=choice, parallel_tool_calls=False
    ) as stream:
        events = list(stream)
        first = stream.get_final_response()
    (call,) = first.output
    assert (call.type, call.name) == ("function_call", "look")
    assert json.loads(call.arguments)["at"] in ("sky", "sea")
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == call.arguments
    assert len(pieces) > 3
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "blue"}
    kept = client.responses.create(**settings, input=[result], previous_response_id=first.id)
    items = [{"role": "user", "content": "hello"}, call.to_dict(), result]
    for given in (items, [items[0], {"type": "item_reference", "id": call.id}, result]):
        sent = client.responses.create(**settings, input=given)
        assert sent.output_text == kept.output_text
        assert sent.usage.input_tokens == kept.usage.input_tokens
    assert [i.type for i in client.responses.input_items.list(kept.id)] == ["function_call_output"]
    assert client.responses.retrieve(kept.id).output_text == kept.output_text
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError, match="There is no response"):
        client.responses.retrieve(kept.id)


def test_the_servers_own_cut_call_goes_on(client):
    for cut in range(2, 30, 4):
        settings = {"model": "tiny", "temperature": 0, "tools": [LOOK], "tool_choice": "required"}
        first = client.responses.create(**settings, input="hello", max_output_tokens=cut)
        items = [{"role": "user", "content": "hello"}, *(item.to_dict() for item in first.output)]
        items += [
            {"type": "function_call_output", "call_id": item.call_id, "output": "cut"}
            for item in first.output
            if item.type == "function_call"
        ]
        again = client.responses.create(**settings, input=items, max_output_tokens=4)
        assert again.usage.output_tokens == 4


def test_thoughts_are_items(chatty):
    with running(loaded(chatty), reasoning_parser="think") as found:
        client = openai.OpenAI(base_url=f"{found.url}/v1", api_key="any", max_retries=0)
        forced = {"structured_outputs": {"regex": "<think>hm</think>\n\nYes"}}
        chat = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a"}], extra_body=forced
        )
        # Where the form is the client's own, the whole answer is text.
        assert chat.choices[0].message.content == "<think>hm</think>\n\nYes"
        schema = {"type": "json_schema", "name": "s", "schema": {"enum": ["Yes"]}}
        for seed in range(12):
            settings = {"input": "a", "text": {"format": schema}, "max_output_tokens": 200}
            answer = client.responses.create(**settings, extra_body={"seed": seed})
            if answer.status == "completed":
                assert answer.output_text == '"Yes"'
            if answer.output[0].type == "reasoning":
                assert answer.usage.output_tokens_details.reasoning_tokens > 0
                thought = answer.output[0].to_dict()
                again = client.responses.create(
                    input=[{"role": "user", "content": "a"}, thought, *answer.output[1:]],
                    max_output_tokens=2,
                )
                assert again.usage.output_tokens == 2
                break
        else:
            pytest.fail("no answer began with thoughts")
        client.close()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "'input' is missing"),
        ({"input": []}, "The input is empty"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "The input is empty"),
        ({"input": [{"type": "web_search_call", "id": "1"}]}, "items of type 'web_search_call'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type = 'input_image': it cannot be read"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f"}]},
         "input[0].arguments is missing"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0] names the item 'x'"),
        ({"input": "a", "previous_response_id": "resp_x"}, "send the conversation itself"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools[0].type = 'web_search'"),
        ({"input": "a", "tools": [LOOK], "tool_choice": {"type": "function", "name": "x"}},
         "names 'x'"),
        ({"input": "a", "tools": [{**LOOK, "parameters": {"type": "no"}}],
          "tool_choice": "required"}, "The schema at tools[0].parameters (of 'look')"),
        ({"input": "a", "text": {"format": {"type": "json_schema", "name": "n",
                                            "schema": {"type": "no"}}}}, "text.format.schema"),
        ({"input": "a", "background": True}, "ends when its client leaves"),
        ({"input": "a", "include": ["file_search_call.results"]}, "include[0] is"),
        ({"input": "a", "truncation": "cut"}, "too long is refused"),
        ({"input": "a", "reasoning": {"effort": "low"}}, "has no thoughts to steer"),
    ],
)  # fmt: skip
def test_mistakes_are_named(web, body, says):
    found = web.post("/v1/responses", json=body)
    assert found.status_code == 400, found.text
    assert says in found.json()["error"]["message"]


def test_what_is_kept_is_bounded_and_its_owners():
    kept = Kept()
    for number in range(70):
        kept.add(KeptResponse("me", [], [], {"id": str(number)}, 1 << 20))
    assert kept.find("69", "me").response == {"id": "69"}
    for name, owner in (("0", "me"), ("69", "you")):
        with pytest.raises(Exception, match="There is no response"):
            kept.find(name, owner)
    kept.drop("69", "me")
    kept.add(KeptResponse("me", [], [], {"id": "big"}, 1 << 40))
    assert kept.find("big", "me")
