from pathlib import Path

import pytest

from combine.merge.tokens.pairs import NAME, A, B, C, Make, Pairs, lenders
from treadle.combine.merge.inputs.sources import TensorSource, WeightFiles, stored
from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.combine.merge.tokens.templates import NAMED
from treadle.combine.merge.tokens.vocabulary import plan
from treadle.core.errors import SettingsError


def template_of(request: str, pairs: Pairs, folder: Path) -> str | None:
    vocabulary, _ = plan(None, lenders(pairs), 0, request)
    assert vocabulary is not None
    vocabulary.write(folder)
    file = folder / "chat_template.jinja"
    return file.read_text() if file.is_file() else None


def test_chat_templates(make: Make, files: WeightFiles, tmp_path: Path) -> None:
    pairs = [
        (A, make("a", template="{{ 1 }}")),
        (B, make("b", template="{{ 2 }}")),
        (C, make("c", template="{{ 2 }}")),
    ]
    assert template_of("auto", pairs, tmp_path) == "{{ 2 }}"
    assert template_of("a", pairs, tmp_path) == "{{ 1 }}"
    assert template_of("{{ 3 }}", pairs, tmp_path) == "{{ 3 }}"
    with pytest.raises(SettingsError, match=r"'alpacca' is no jinja.* Did you mean 'alpaca'\?"):
        template_of("alpacca", pairs, tmp_path)
    with pytest.raises(SettingsError, match=r"template is no jinja text \(.*, line 1\); mend"):
        template_of("{{ open", pairs, tmp_path)
    assert "generation" in str(
        template_of("{% generation %}a{%- endgeneration -%}{{ 1 }}", pairs, tmp_path)
    )
    vocabulary, _ = plan(None, lenders(pairs), 0, "auto")
    assert vocabulary is not None
    sources: dict[ModelRef, TensorSource | None] = {ref: stored(r, NAME, files) for ref, r in pairs}
    assert vocabulary.permuted(B, NAME, sources) is sources[B]
    bare = [(ModelRef("d"), make("d"))]
    with pytest.raises(SettingsError, match="names the model 'd', which has none"):
        template_of("d", bare, tmp_path)
    (tmp_path / "none").mkdir()
    assert template_of("auto", bare, tmp_path / "none") is None


@pytest.mark.parametrize("name", list(NAMED))
def test_the_formats_that_everyone_uses(make: Make, name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    reader = make("a", ("x",))
    tokenizer = AutoTokenizer.from_pretrained(reader.folder)
    tokenizer.chat_template = template_of(name, [(A, reader)], tmp_path)
    tokenizer.bos_token = "<|begin|>"
    tokenizer.eos_token = "</s>"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    said = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    expected = {
        "alpaca": "Be brief.\n\n### Instruction:\nHello\n\n### Response:\nHi\n\n"
        "### Instruction:\nBye\n\n### Response:\n",
        "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n",
        "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hello\n[|assistant|]Hi[|endofturn|]\n"
        "[|user|]Bye\n[|assistant|]",
        "llama3": "<|begin|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "mistral": "<|begin|> [INST] Be brief.\n\nHello [/INST] Hi</s> [INST] Bye [/INST]",
    }
    assert said == expected[name]


def test_what_a_format_begins_and_what_it_refuses(make: Make, tmp_path: Path) -> None:
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make("a", ("x",)).folder)
    tokenizer.chat_template = NAMED["exaone"]
    user = {"role": "user", "content": "Hello"}
    said = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert said == "[|system|][|endofturn|]\n[|user|]Hello\n[|assistant|]"
    tokenizer.chat_template = NAMED["mistral"]
    with pytest.raises(TemplateError, match="Only user, assistant and a first system message"):
        tokenizer.apply_chat_template([user, {**user, "role": "system"}], tokenize=False)
