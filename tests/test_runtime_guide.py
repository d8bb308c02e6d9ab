"""The Python blocks of docs/runtime.md run in order, on a tiny model."""

import re
import shutil
from pathlib import Path

import pytest

from runtime.adapters import write_adapter
from treadle.runtime import LLM

GUIDE = Path(__file__).parent.parent / "docs" / "runtime.md"


def test_its_blocks_run(llama, tmp_path, monkeypatch, capsys):
    pytest.importorskip("llguidance")
    model = shutil.copytree(llama, tmp_path / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    write_adapter(tmp_path / "law-adapter", model)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace("packaged:smollm2", "model"), names)
    assert isinstance(names["llm"], LLM)
    assert names["vectors"].shape == (2, 64)
    assert names["best"] in names["first"].logprobs[0]
    assert capsys.readouterr().out
