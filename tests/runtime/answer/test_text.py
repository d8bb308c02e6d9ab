"""Text as it comes: whole characters, stop strings, what may be shown already."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.model.load import load_tokenizer
from treadle.runtime.answer.text import TextStream, offsets_in
from treadle.runtime.request import Request, SamplingParams


@pytest.fixture(scope="module")
def tokenizer(llama):
    return load_tokenizer(llama)


def stream_of(tokenizer, tokens, num_prompt=1, **params):
    params = SamplingParams(max_tokens=None, **params)
    request = Request("r", [5] * num_prompt, num_prompt, params, 0)
    stream = TextStream(tokenizer, request)
    shown = []
    for token in tokens:
        request.tokens.append(token)
        stream.follow(len(request.tokens))
        shown.append(stream.show(False))
        if stream.stop is not None:
            break
    stream.finish()
    shown.append(stream.show(True))
    return stream, shown


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("text", ["def f(x): return x", "naïve – 東京 🚲 ok", "", "a\n\n\tb "])
def test_pieces_make_the_text(tokenizer, text):
    stream, shown = stream_of(tokenizer, encode(tokenizer, text))
    assert "".join(shown) == stream.text == text
    assert "�" not in "".join(shown)


def test_bytes_of_a_character_are_held_back(tokenizer):
    tokens = encode(tokenizer, "🚲")
    assert len(tokens) > 1
    _, shown = stream_of(tokenizer, tokens)
    assert shown[: len(tokens) - 1] == [""] * (len(tokens) - 1)


def test_of_a_character_that_was_cut_off_no_byte_is_shown(tokenizer):
    tokens = encode(tokenizer, "a🚲")
    for cut in range(2, len(tokens)):
        stream, shown = stream_of(tokenizer, tokens[:cut])
        assert "".join(shown) == stream.text == "a"
    stream, shown = stream_of(tokenizer, encode(tokenizer, "a�"))  # written on purpose
    assert "".join(shown) == stream.text == "a�"


@given(text=st.text("aé🚲 ", max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_offsets_are_places_in_the_text(tokenizer, text):
    tokens = encode(tokenizer, text)
    stream, _ = stream_of(tokenizer, tokens)
    assert stream.offsets == offsets_in(tokenizer, tokens)
    ends = [len(tokenizer.decode(tokens[:count]).rstrip("�")) for count in range(len(tokens))]
    assert stream.offsets == ends


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_stops_before_any_stop_string(tokenizer, text, stops):
    stream, shown = stream_of(tokenizer, encode(tokenizer, text), stop=stops)
    assert "".join(shown) == stream.text
    assert text.startswith(stream.text)
    assert not any(stop in stream.text for stop in stops)
    assert (stream.stop is not None) == any(stop in text for stop in stops)
    if stream.stop is not None:
        assert text.startswith(stream.text + stream.stop)


def test_a_token_behind_broken_bytes_begins_behind_their_sign(tokenizer):
    broken = encode(tokenizer, "é")[:1]
    tokens = [*encode(tokenizer, "a"), *broken, *encode(tokenizer, "le")]
    stream, _ = stream_of(tokenizer, tokens)
    assert stream.text == "a�le"
    assert stream.offsets[:3] == [0, 1, 2]


def test_what_may_become_a_stop_is_held_back(tokenizer):
    stream, shown = stream_of(tokenizer, encode(tokenizer, "x e n d e n t"), stop=["e n d !"])
    assert "".join(shown) == stream.text == "x e n d e n t"
    stream, shown = stream_of(tokenizer, encode(tokenizer, "x e n d ! y"), stop=["e n d !"])
    assert "".join(shown) == stream.text == "x "
    stream, _ = stream_of(
        tokenizer, encode(tokenizer, "x e n d ! y"), stop="e n", include_stop_str_in_output=True
    )
    assert stream.text == "x e n"


def test_stops_are_not_looked_for_before_min_tokens(tokenizer):
    tokens = encode(tokenizer, "a b a b a b")
    stream, _ = stream_of(tokenizer, tokens, stop=["b"], min_tokens=len(tokens) - 1)
    assert stream.stop == "b"
    assert stream.text == "a b a b a "


def test_special_tokens_are_left_out_unless_asked_for(tokenizer):
    tokens = [*encode(tokenizer, "ab"), tokenizer.eos_token_id]
    assert stream_of(tokenizer, tokens)[0].text == "ab"
    assert stream_of(tokenizer, tokens, skip_special_tokens=False)[0].text == "ab<|end|>"
