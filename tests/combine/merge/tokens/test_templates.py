import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from treadle.combine.merge.inputs.sources import TensorSource, WeightFiles, stored
from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.combine.merge.tokens.vocabulary import plan
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError

NAME = "model.embed_tokens.weight"
A, B, C = ModelRef("a"), ModelRef("b"), ModelRef("c")
Make = Callable[..., CheckpointReader]


@pytest.fixture
def make(llama: Path, tmp_path: Path) -> Make:
    """Return a function that writes a llama with added tokens, and rows for them and more."""
    from transformers import AutoTokenizer

    def build(
        name: str,
        added: tuple[str, ...] = (),
        special: tuple[str, ...] = (),
        padding: int = 0,
        template: str | None = None,
    ) -> CheckpointReader:
        folder = tmp_path / name
        shutil.copytree(llama, folder)
        tokenizer = AutoTokenizer.from_pretrained(llama)
        tokenizer.add_tokens(list(added))
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        num_rows = len(tokenizer) + padding
        random = np.random.default_rng(sum(name.encode()))
        tensors[NAME] = random.normal(size=(num_rows, 64)).astype(np.float32)
        save_file(tensors, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": num_rows}))
        return CheckpointReader(folder)

    return build


@pytest.fixture
def files() -> Iterator[WeightFiles]:
    opened = WeightFiles()
    yield opened
    opened.close()


Pairs = list[tuple[ModelRef, CheckpointReader]]


def template_of(request: str, pairs: Pairs, folder: Path) -> str | None:
    vocabulary, _ = plan(None, pairs, 0, request)
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
    vocabulary, _ = plan(None, pairs, 0, "auto")
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
