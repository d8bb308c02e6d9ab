"""The Python block of docs/plan.md runs, on a tiny model."""

import re
from pathlib import Path

import torch

GUIDE = Path(__file__).parent.parent.parent / "docs" / "plan.md"


def test_its_block_runs(llama):
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(block.replace("packaged:smollm2", str(llama)), names)
    before = [parameter.detach().clone() for parameter in names["module"].parameters()]
    loss = names["step"](input_ids=torch.zeros(2, 64, dtype=torch.long))
    assert torch.isfinite(loss)
    after = names["module"].parameters()
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
