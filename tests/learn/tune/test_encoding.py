"""Answers are found among tokens: what a loss is taken of is what the model would have to say."""

import pytest

from learn.tune.cases import CHATS, TEMPLATE
from treadle.core.errors import DataError
from treadle.learn.tune.encoding import Encoder
from treadle.learn.tune.rows import Conversation, PreferredPair, Prompted, Text
from treadle.model.load import load_tokenizer
from treadle.model.pretrained import packaged

MESSAGES = tuple(CHATS[0]["messages"])


@pytest.fixture
def tokenizer(llama):
    found = load_tokenizer(llama)
    found.chat_template = TEMPLATE
    return found


def said(tokenizer, document):
    """The runs of answer tokens, as text."""
    runs, last = [], False
    for token, is_answer in zip(document.tokens, document.is_answer, strict=True):
        if is_answer:
            runs = [*runs[:-1], [*runs[-1], token]] if last else [*runs, [token]]
        last = is_answer
    return [tokenizer.decode(run) for run in runs]


def test_a_prompt_is_read_as_it_is_asked_and_its_answer_ends(tokenizer):
    row = Prompted("here", "What is it?", " A thing.")
    (document,) = Encoder(tokenizer, False).documents(row)
    prompt = tokenizer("What is it?").input_ids
    assert document.tokens[: len(prompt)].tolist() == prompt
    assert said(tokenizer, document) == [" A thing.<|end|>"]
    assert not document.is_answer[: len(prompt)].any()
    assert document.answer_bytes == len(" A thing.")


def test_a_token_across_the_border_is_cut_there(tokenizer):
    whole = tokenizer("return self").input_ids
    pieces = [tokenizer.decode(whole[:n]) for n in range(1, len(whole))]
    border = next(n for n in range(1, 11) if "return self"[:n] not in pieces)
    row = Prompted("here", "return self"[:border], "return self"[border:])
    (document,) = Encoder(tokenizer, False).documents(row)
    prompt = tokenizer(row.prompt).input_ids
    assert document.tokens[: len(prompt)].tolist() == prompt
    assert said(tokenizer, document) == [f"{row.answer}<|end|>"]


def test_a_text_is_an_answer_but_for_its_first_token(tokenizer):
    (document,) = Encoder(tokenizer, False).documents(Text("here", "some text"))
    assert document.is_answer.tolist() == [False, *[True] * (len(document.tokens) - 1)]
    assert tokenizer.decode(document.tokens) == "some text<|end|>"


def test_every_turn_of_the_assistant_is_an_answer(tokenizer):
    (document,) = Encoder(tokenizer, False).documents(Conversation("here", MESSAGES))
    assert said(tokenizer, document) == ["two<|end|>", "four<|end|>"]
    rendered = tokenizer.apply_chat_template(list(MESSAGES), tokenize=False)
    assert rendered.startswith(tokenizer.decode(document.tokens))


def test_an_answer_that_nobody_asked_for_and_tools(tokenizer):
    tokenizer.chat_template = "{% for t in tools or [] %}[{{ t.name }}]{% endfor %}" + TEMPLATE
    row = Conversation("here", ({"role": "assistant", "content": "hello"},), ({"name": "look"},))
    (document,) = Encoder(tokenizer, False).documents(row)
    assert tokenizer.decode(document.tokens) == "[look]<assistant>hello<|end|>"
    assert said(tokenizer, document) == ["hello<|end|>"]


def test_a_chat_is_what_a_user_says(tokenizer):
    row = Prompted("here", "one", "two")
    (document,) = Encoder(tokenizer, True).documents(row)
    assert tokenizer.decode(document.tokens) == "<user>one<|end|>\n<assistant>two<|end|>"
    assert said(tokenizer, document) == ["two<|end|>"]


def test_a_template_that_forgets_thoughts_makes_a_document_of_each_answer(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    thoughtful = [dict(one) for one in MESSAGES]
    thoughtful[2]["content"] = "<think>hm</think>two"
    documents = Encoder(tokenizer, False).documents(Conversation("here", tuple(thoughtful)))
    assert [said(tokenizer, one) for one in documents] == [
        ["<think>hm</think>two<|end|>"],
        ["four<|end|>"],
    ]
    assert "hm" not in tokenizer.decode(documents[1].tokens)


def test_of_a_pair_the_last_answers_are_compared(tokenizer):
    other = (*MESSAGES[:-1], {"role": "assistant", "content": "five"})
    pair = PreferredPair("here", Conversation("here", MESSAGES), Conversation("here", other))
    documents = Encoder(tokenizer, False).documents(pair)
    assert [said(tokenizer, one) for one in documents] == [["four<|end|>"], ["five<|end|>"]]


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (None, MESSAGES, "no chat template; copy one"),
        ("{{ raise_exception('no system') }}", MESSAGES, r"Here is refused by .*no system"),
        (
            "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
            MESSAGES,
            r"no place for messages\[2\], the assistant's 'two'",
        ),
        (TEMPLATE, MESSAGES[:2], "no message of the assistant"),
        (
            TEMPLATE,
            (MESSAGES[1], {"role": "assistant", "content": " "}),
            r"messages\[1\] is an empty answer",
        ),
    ],
)
def test_what_has_no_answer_is_named(template, messages, says, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=says):
        Encoder(tokenizer, False).documents(Conversation("here", tuple(messages)))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Prompted("line 3", "a", " \n"), "Line 3 has an empty answer"),
        (Prompted("line 3", "", "b"), "Line 3 has an empty prompt"),
        (Text("line 3", ""), "text of 0 tokens"),
    ],
)
def test_what_teaches_nothing_is_named(row, says, tokenizer):
    with pytest.raises(DataError, match=says):
        Encoder(tokenizer, False).documents(row)


THINKS = (
    "{% if messages[0].role != 'system' %}<system>Qwen, a model<|end|>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)


def test_where_an_answer_begins_does_not_depend_on_its_words(tokenizer):
    tokenizer.chat_template = THINKS
    first = Conversation("here", ({"role": "assistant", "content": "Qwen"},))
    (document,) = Encoder(tokenizer, False).documents(first)
    assert said(tokenizer, document) == ["Qwen<|end|>"]
    encoder = Encoder(tokenizer, True)
    for answer in ("<b>bold</b> text", "<html>x</html>", "<think>hm</think>plain"):
        (document,) = encoder.documents(Prompted("here", "q", answer))
        assert said(tokenizer, document) == [f"{answer.split('</think>')[-1]}<|end|>"]
    assert any("asks for an answer with '<think>" in note for note in encoder.notes)
    assert any("drops thoughts" in note for note in encoder.notes)
    assert document.answer_bytes == len("<think>hm</think>plain")


def test_a_template_that_ends_no_answer_is_noted_and_a_system_prompt_needs_a_chat(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    encoder, row = Encoder(tokenizer, True), Prompted("here", "q", "a", "Be brief.")
    (document,) = encoder.documents(row)
    assert tokenizer.decode(document.tokens) == "<system>Be brief.<user>q<assistant>a"
    assert any("do not learn to end" in note for note in encoder.notes)
    with pytest.raises(DataError, match="pass --chat"):
        Encoder(tokenizer, False).documents(row)


@pytest.mark.slow
def test_a_real_template(tmp_path):
    tokenizer = load_tokenizer(packaged("smollm2"))
    (document,) = Encoder(tokenizer, False).documents(Conversation("here", MESSAGES))
    assert said(tokenizer, document) == ["two<|im_end|>", "four<|im_end|>"]
