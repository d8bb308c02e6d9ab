"""Texts, tokens and conversations without transformers are those of transformers, or are left."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers import decoders as decoding
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gguf_models import to_gguf
from treadle.core import cache
from treadle.core.errors import CheckpointError, DataError
from treadle.model.tokens import plain_tokenizer
from treadle.model.tokens.plain_template import PlainTemplate, template_note
from treadle.model.tokens.plain_tokenizer import (
    chat_arguments,
    known_tokenizer,
    note_tokenizer,
)
from treadle.runtime.executor import ModelShape
from treadle.runtime.prompts import Prompts

SHAPE = ModelShape((2,), 16, 320, 64, 128, (None,))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "specials": "{{ bos_token }}{{ eos_token }}{{ pad_token | default('none') }}" + CHATML,
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% if loop.first and m.role == 'system' %}{% continue %}{% endif %}{{ ns.n }}{{ m.content }}"
    "{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ dict(a=1) }}"
    "{{ dict.fromkeys('ab', 2) }}",
    "refuses": "{% if messages[0].role != 'user' %}{{ raise_exception('begin with user') }}"
    "{% endif %}{{ messages[-1].content }}{{ strftime_now('%Y') }}",
    "tools": "{% if tools is not none %}{{ tools | tojson }}{{ mood }}{% endif %}{{ documents }}"
    + CHATML,
    "blocks": "  {% if true %}\n  a\n  {% endif %}\n" + CHATML,
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
}
TALKS = (
    [{"role": "user", "content": "Hello <b>\"you\"</b> & 'me' \u00fc\n"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Why?"}],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": None, "name": "x"}],
)


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"a": [1, 2.5, None]}}}]


@pytest.fixture(autouse=True)
def folder_of_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")


def made(kind: str) -> Tokenizer:
    """Return a small tokenizer of a kind."""
    words = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4, "ab": 5, "\u2581": 6, "\u2581ab": 7}
    if kind == "pieces":
        merges = [("a", "b"), ("\u2581", "ab")]
        found = Tokenizer(models.BPE(words, merges, unk_token="<unk>", fuse_unk=True))
        found.normalizer = normalizers.NFKC()
        found.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first")
        found.decoder = decoding.Metaspace("\u2581")
        found.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    else:
        found = Tokenizer(models.WordPiece(words | {"##b": 8, "!": 9}, unk_token="<unk>"))
        found.normalizer = normalizers.BertNormalizer()
        found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        found.decoder = decoding.WordPiece()
    found.add_special_tokens(["<s>", "</s>", "<unk>"])
    return found


@pytest.fixture(params=["bytes", "pieces", "words"])
def folder(request, llama, tmp_path):
    """Return a model folder with a tokenizer of each kind."""
    if request.param == "bytes":
        return llama
    found = shutil.copytree(llama, tmp_path / request.param)
    PreTrainedTokenizerFast(
        tokenizer_object=made(request.param), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(found)
    return found


@pytest.fixture
def file(llama, tmp_path):
    to_gguf(llama, tmp_path / "model.gguf", "Q4_1")
    return tmp_path / "model.gguf"


def noted_of(path):
    first, again = Prompts(path, SHAPE), Prompts(path, SHAPE)
    assert first._tokenizer is not None
    assert again._tokenizer is None
    return first, again


def test_any_text_gives_the_same_tokens_and_comes_back_the_same(folder):
    first, again = noted_of(folder)
    theirs, plain = AutoTokenizer.from_pretrained(folder), again.reader

    @given(st.text() | st.text("ab \u2581!<s>/\u00fc\t\n"), st.booleans(), st.booleans())
    def same(text, adds, skips):
        text = text.encode(errors="replace").decode()
        tokens = theirs(text, add_special_tokens=adds).input_ids
        assert plain(text, add_special_tokens=adds).input_ids == tokens
        for cut in (tokens, tokens[1:], tokens[:-1]):
            options = {"skip_special_tokens": skips, "clean_up_tokenization_spaces": False}
            assert plain.decode(cut, **options) == theirs.decode(cut, **options)

    same()
    assert again.tokens("ab a!") == first.tokens("ab a!")
    assert plain.get_added_vocab() == theirs.get_added_vocab()
    for token in range(len(theirs)):
        assert plain.convert_ids_to_tokens(token) == theirs.convert_ids_to_tokens(token)
        assert plain.decode([token]) == theirs.decode([token])
    assert again._tokenizer is None


def test_a_file_has_its_tokenizer_and_its_ends(file):
    first, again = noted_of(file)
    assert again.eos_tokens == first.eos_tokens != frozenset()
    text = "def f(x): return 'x'\n\n"
    assert again.tokens(text) == first.tokens(text)
    assert type(again.tokenizer) is type(first.tokenizer)


def test_who_asks_for_the_tokenizer_gets_transformers_own_and_may_change_it(llama):
    _, again = noted_of(llama)
    with pytest.raises(DataError, match="no chat template"):
        again.chat(list(TALKS[0]))
    again = Prompts(llama, SHAPE)
    again.tokenizer.chat_template = "{{ messages[0].content }}"
    assert isinstance(again.tokenizer, PreTrainedTokenizerFast)
    assert again.chat([{"role": "user", "content": "a"}]) == again.tokens("a")


def test_another_content_is_another_tokenizer(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    noted_of(copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = ["def"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    assert known_tokenizer(copy, None) is None
    whole = Prompts(copy, SHAPE)
    assert Prompts(copy, SHAPE).tokens("def") == whole.tokens("def")
    assert len(whole.tokens("def")) == 1


def test_templates_in_a_folder_of_their_own_are_another_tokenizers(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(CHATML)
    noted_of(copy)
    more = copy / "additional_chat_templates"
    more.mkdir()
    for text in ("{{ messages[0].content }}", "{{ messages[-1].content }}"):
        (more / "rag.jinja").write_text(text)
        assert known_tokenizer(copy, None) is None
        first, again = noted_of(copy)
        assert again.reader.chat_template == first.reader.chat_template
        assert first.reader.chat_template == {"default": CHATML, "rag": text}


@pytest.mark.parametrize("what", ["token", "template", "templates"])
def test_a_tokenizer_that_changed_since_is_refused_and_texts_are_read_on(what, llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(CHATML)
    _, again = noted_of(copy)
    before = again.tokens("def f(x)"), again.chat(list(TALKS[0]))
    if what == "token":
        file = copy / "tokenizer.json"
        content = json.loads(file.read_text())
        token = {**content["added_tokens"][0], "id": 300, "content": "def", "special": False}
        content["added_tokens"].append(token)
        file.write_text(json.dumps(content))
    elif what == "template":
        (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    else:
        (copy / "additional_chat_templates").mkdir()
        (copy / "additional_chat_templates" / "rag.jinja").write_text("x")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"copy' changed since .* loaded; load it again"):
            _ = again.tokenizer
        assert (again.tokens("def f(x)"), again.chat(list(TALKS[0]))) == before


def test_files_that_say_nothing_of_a_tokenizer_may_change(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    _, again = noted_of(copy)
    (copy / "README.md").write_text("what it is for")
    assert isinstance(again.tokenizer, PreTrainedTokenizerFast)


def test_a_folder_that_is_gone_is_named_where_it_is_needed(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(CHATML)
    first, again = noted_of(copy)
    shutil.rmtree(copy)
    assert again.tokens("def f(x)") == first.tokens("def f(x)")
    assert again.chat(list(TALKS[0])) == first.chat(list(TALKS[0]))
    told = "copy', which the model was loaded from, is gone, and get_tokenizer, structured outputs"
    for ask in (
        lambda: again.tokenizer,
        lambda: again.chat([{"role": "user", "content": "x", "reasoning": "because"}]),
    ):
        with pytest.raises(CheckpointError, match=told):
            ask()


@pytest.mark.parametrize("why", ["split", "cut", "cleans", "own"])
def test_what_transformers_adds_to_is_not_noted(llama, why):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    if why == "split":
        tokenizer.split_special_tokens = True
    elif why == "cleans":
        tokenizer.clean_up_tokenization_spaces = True
        tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    elif why == "cut":
        tokenizer.backend_tokenizer.enable_truncation(3)
    else:

        class Own(type(tokenizer)):
            def decode(self, *args, **options):
                return super().decode(*args, **options).upper()

        tokenizer.__class__ = Own
    note_tokenizer(llama, tokenizer)
    assert known_tokenizer(llama, None) is None


def test_one_text_that_differs_keeps_it_from_being_noted(llama, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    monkeypatch.setattr(plain_tokenizer.PlainTokenizer, "decode", lambda *_, **__: ".")
    note_tokenizer(llama, tokenizer)
    assert known_tokenizer(llama, None) is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_written_the_same_or_left(name, llama):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = TEMPLATES[name]
    noted = template_note(tokenizer)
    assert (noted is None) == (name == "generation")
    if noted is None:
        return
    plain = PlainTemplate(json.loads(json.dumps(noted)))
    written = []
    for talk in TALKS:
        for more in ({}, {"add_generation_prompt": True}, {"tools": TOOLS, "mood": "calm"}):
            options = {"add_generation_prompt": False} | more
            written.append(outcome(lambda talk=talk, own=options: plain.render(talk, **own)))
            asked = outcome(
                lambda talk=talk, own=more: tokenizer.apply_chat_template(
                    talk, tokenize=False, **own
                )
            )
            assert written[-1] == asked
    num_refused = sum("begin with user" in text for text in written)
    assert num_refused == (3 if name == "refuses" else 0)


def outcome(write) -> str:
    try:
        return "written: " + write()
    except Exception as error:
        return f"{type(error)} {error}"


def test_what_is_more_than_json_is_left_to_transformers():
    plain = PlainTemplate({"template": CHATML, "special": {}, "arguments": []})
    hello = {"role": "user", "content": "Hello"}
    assert "Hello" in plain.render([hello | {"tool_calls": [{"arguments": {"a": 1}}]}])
    for more in ({"thinking": "so"}, {"content": np.float32(1)}, {"content": ("a",)}, {1: "a"}):
        assert plain.render([hello | more]) is None
    assert plain.render([]) is None
    assert plain.render(["Hello"]) is None
    assert plain.render([hello], tools=[test_a_file_has_its_tokenizer_and_its_ends]) is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__ }}",
        "{% set ns = namespace(__a=1) %}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}",
        "{% for m in messages %}",
    ],
)
def test_a_template_that_reaches_inside_writes_nothing(template):
    plain = PlainTemplate({"template": template, "special": {}, "arguments": []})
    found = outcome(lambda: plain.render(TALKS[0]) or "")
    assert found == "written: " or "UndefinedError" in found  # left, or empty by the sandbox


def test_the_second_start_writes_a_conversation_as_the_first(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(TEMPLATES["specials"])
    first, again = noted_of(copy)
    for talk in TALKS[:2]:
        assert again.chat(list(talk)) == first.chat(list(talk))
    assert again._tokenizer is None
    assert again.reader.chat_template == first.reader.chat_template
    assert chat_arguments(again.reader) == chat_arguments(first.reader)
    assert again._tokenizer is None
    parts = [{"role": "user", "content": "x", "reasoning": "because"}]
    assert again.chat(parts) == first.chat(parts)
    assert again._tokenizer is not None
    with pytest.raises(ValueError, match="not compatible"):
        Prompts(copy, SHAPE).reader.apply_chat_template(
            TALKS[0], add_generation_prompt=True, continue_final_message=True
        )
