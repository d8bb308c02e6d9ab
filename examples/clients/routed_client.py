"""Ask a router of `treadle serve` with OpenAI's client: who answers, and what else was asked.

Usage: pip install openai; python examples/clients/routed_client.py URL auto
(of a server such as: treadle serve A B --router OUT)
"""

import sys

import openai

url, router = sys.argv[1:3]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
(entry,) = [model for model in client.models.list() if model.id == router]
print("chooses among:", ", ".join(entry.routes_to))

talk = [{"role": "user", "content": "What is 20 + 4?"}]
asked = {"model": router, "max_tokens": 8, "temperature": 0}
raw = client.chat.completions.with_raw_response.create(messages=talk, **asked)
answer = raw.parse()
assert answer.model in entry.routes_to
print("answered by:", answer.model, "- chosen by:", raw.headers["x-treadle-routed"])
# Of a cascade: whom it asked, how sure each was, and the tokens that this took.
print("asked in turn:", raw.headers.get("x-treadle-asked", "nobody else"))

# The conversation stays with the model that began it.
said = {"role": "assistant", "content": answer.choices[0].message.content}
talk += [said, {"role": "user", "content": "And now tell me of rivers."}]
chunks = list(client.chat.completions.create(messages=talk, stream=True, **asked))
print("goes on with:", chunks[0].model)

named = client.completions.create(**{**asked, "model": answer.model}, prompt="By name.")
print("by its name:", named.model)
try:
    client.embeddings.create(model=router, input="Whose vector?")
    raise SystemExit("A router gave a vector.")
except openai.BadRequestError as error:
    print("no vectors:", error.code)
