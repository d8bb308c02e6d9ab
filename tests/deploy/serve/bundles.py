"""A bundle of two tiny models whose router goes by one character; no test itself."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from treadle.core.checkpoint.publish import write_text
from treadle.core.checkpoint.routed import (
    EXPERTS,
    ROUTER_FILE,
    ROUTING_FILE,
    NgramFeatures,
    Routing,
    bundle_config,
)
from treadle.model import tiny
from treadle.model.embed.ngrams import ngram_counts

from .servers import add_template

NAMES = ["words", "sums"]
WORDS, SUMS = "tell me of rivers", "11 + 11 ="


def bundle(folder: Path) -> Path:
    """Write a bundle that sends what looks like `SUMS` to sums, and the rest to words."""
    for seed, name in enumerate(NAMES):
        built = tiny.build("llama", folder / EXPERTS / name, seed=seed, max_position_embeddings=512)
        add_template(built)
    features = NgramFeatures(width=64, orders=(1,))
    vectors = ngram_counts([WORDS, SUMS], features)
    write_text(folder / "config.json", bundle_config(NAMES))
    routing = Routing(experts=tuple(NAMES), features=features)
    write_text(folder / ROUTING_FILE, routing.model_dump_json())
    save_file({"weight": vectors, "bias": np.zeros(2, np.float32)}, folder / ROUTER_FILE)
    return folder
