from pathlib import Path

import pytest

from combine.merge.tokens.pairs import NAME, A, B, C, Make, Pairs, lenders
from treadle.combine.merge.inputs.sources import TensorSource, WeightFiles, stored
from treadle.combine.merge.recipe.grammar import ModelRef
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
    with pytest.raises(SettingsError, match=r"chat_template 'alpaca' is no .*\(chatml, llama3\)"):
        template_of("alpaca", pairs, tmp_path)
    vocabulary, _ = plan(None, lenders(pairs), 0, "auto")
    assert vocabulary is not None
    sources: dict[ModelRef, TensorSource | None] = {ref: stored(r, NAME, files) for ref, r in pairs}
    assert vocabulary.permuted(B, NAME, sources) is sources[B]
    bare = [(ModelRef("d"), make("d"))]
    with pytest.raises(SettingsError, match="names the model 'd', which has none"):
        template_of("d", bare, tmp_path)
    (tmp_path / "none").mkdir()
    assert template_of("auto", bare, tmp_path / "none") is None


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_the_two_formats_that_everyone_uses(make: Make, name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    reader = make("a", ("x",))
    tokenizer = AutoTokenizer.from_pretrained(reader.folder)
    tokenizer.chat_template = template_of(name, [(A, reader)], tmp_path)
    tokenizer.bos_token = "<|begin|>"
    said = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    expected = {
        "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n",
        "llama3": "<|begin|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    }
    assert said == expected[name]
