"""The zoo, and a bundle of two of its models."""

import json
from pathlib import Path

import pytest

from combine.merge.glue.zoo_models import Zoo, losses_of
from combine.merge.models import variant
from treadle.combine.merge import merge_glue
from treadle.combine.merge.glue.items import Item
from treadle.model import tiny


@pytest.fixture(scope="session")
def zoo(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    folder = tmp_path_factory.mktemp("zoo")
    scales = (0.05, 0.05, 0.3)
    kin = [variant(llama, folder / f"kin{n}", n, scale) for n, scale in enumerate(scales, 1)]
    tiny.build("llama", folder / "foreign", seed=7)
    tiny.build("qwen2", folder / "other", seed=8)
    questions = [folder / "numbers.jsonl", folder / "words.jsonl"]
    words = "the of and to in that is was he for it with as his on be at by this had".split()  # noqa: SIM905
    rows = (
        [{"prompt": f"{n}+{n + 1}=", "answer": str(2 * n + 1)} for n in range(20)],
        [{"prompt": f"after {word} comes:", "answer": f" {word}"} for word in words],
    )
    for file, lines in zip(questions, rows, strict=True):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Zoo(kin, folder / "foreign", folder / "other", questions)


@pytest.fixture(scope="session")
def bundle(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two models of different architectures, each best at one of two sets."""
    folder = tmp_path_factory.mktemp("bundle")
    # Whose answers are likelier is a matter of chance: keep of both sets what suits one model.
    chosen = []
    for number, file in enumerate(zoo.questions):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        items = [Item(row["prompt"], (row["answer"],)) for row in rows]
        pairs = zip(losses_of(zoo.kin[0], items), losses_of(zoo.other, items), strict=True)
        suits = [(a < b) == (number == 0) for a, b in pairs]
        lines = [
            line
            for line, is_fit in zip(file.read_text().splitlines(), suits, strict=True)
            if is_fit
        ]
        assert len(lines) >= 4
        target = folder / file.name
        target.write_text("\n".join(lines) + "\n")
        chosen.append(str(target))
    merge_glue([zoo.kin[0], zoo.other], folder / "out", data=chosen)
    return folder / "out"
