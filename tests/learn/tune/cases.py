"""Rows, pairs and packed models of the family's tests; not a test itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from treadle.learn.tune.base import Predictions
from treadle.model.load import load_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTIONS = [{"prompt": f"What comes after {n}? It is", "answer": f" {n + 1}."} for n in range(12)]
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["answer"], "rejected": " none of them."}
    for row in QUESTIONS
]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Count."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": "four"},
        ]
    }
]
SHORT = {"steps": 3, "rows": 4, "learning_rate": 1e-2}


def written(file: Path, rows: list[dict]) -> str:
    """Write rows as JSONL."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def with_template(folder: Path, out: Path, template: str = TEMPLATE) -> Path:
    """Return a copy of a model that has a chat template."""
    shutil.copytree(folder, out)
    tokenizer = load_tokenizer(out)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(out)
    return out


def drawn(num_places: int, num_documents: int, vocab: int, seed: int, **more: object):
    """Return predictions of float64, whose documents have at least one place each."""
    random = np.random.default_rng(seed)
    owners = [*range(num_documents), *random.integers(num_documents, size=num_places)]
    return Predictions(
        torch.from_numpy(random.normal(0, 2, (len(owners), vocab))).requires_grad_(),
        torch.from_numpy(random.integers(vocab, size=len(owners))),
        torch.tensor(sorted(owners)),
        num_documents,
        **more,
    )
