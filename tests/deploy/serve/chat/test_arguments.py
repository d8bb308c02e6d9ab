"""Arguments of calls that come back: whole, cut off anywhere, or none."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.deploy.serve.chat.arguments import arguments_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        (None, {}),
        ("", {}),
        (" null ", {}),
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ('{"city": "Par', {"city": "Par"}),
        ('{"city": "Par\\', {"city": "Par"}),
        ('{"city": "Par\\u00', {"city": "Par"}),
        ('{"a": [1, {"b": "c', {"a": [1, {"b": "c"}]}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b": tru', {"a": 1}),
        ('{"a":', {"a": None}),
        ("{", {}),
        ("[1, 2]", {"arguments": [1, 2]}),
        ("7", {"arguments": 7}),
        ("Paris", {"arguments": "Paris"}),
        ("{'a': 1}", {"arguments": "{'a': 1}"}),
    ],
)
def test_what_a_model_wrote_becomes_an_object(given_text, expected):
    assert arguments_of(given_text) == expected


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_wherever_it_is_cut_it_is_an_object_and_whole_it_is_the_same(arguments, data):
    text = json.dumps(arguments, ensure_ascii=data.draw(st.booleans()))
    assert arguments_of(text) == arguments
    found = arguments_of(text[: data.draw(st.integers(0, len(text)))])
    assert isinstance(found, dict)
    assert set(found) <= set(arguments)
