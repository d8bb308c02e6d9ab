"""Whether weights and config belong together, also where no single shape shows it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from products import few
from treadle import prune
from treadle.app.compat import compat
from treadle.app.export import export
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model import facts, tiny
from treadle.model.load import skeleton
from treadle.shrink.prune import METRICS
from treadle.shrink.quantize import quantize

FILE = "model.safetensors"
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def uneven(tiny_model: Callable[..., Path], text: str, tmp_path: Path) -> Path:
    """A tiny llama whose blocks differ in neurons and heads."""
    wide = tiny_model("llama", hidden_size=64, num_attention_heads=8, num_key_value_heads=4)
    out = tmp_path / "uneven"
    options = {"allocation": "owl", "text": text, "num_windows": 2, "window_tokens": 32}
    prune(wide, out, METRICS.resolve("magnitude"), sparsity=0.3, pattern="neurons",
          allow_nonuniform=True, **options)  # fmt: skip
    with CheckpointReader(out) as reader:
        skeleton(reader)
    return out


def changed(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    stored = load_file(folder / FILE)
    key = next(key for key in stored if name in key)
    stored[key] = np.ascontiguousarray(change(stored[key]))
    save_file(stored, folder / FILE, {"format": "pt"})


WAYS = [
    (part, way) for part in (*PARTS, "input_layernorm", "model.norm", "embed") for way in range(3)
]


@pytest.mark.parametrize("case", few(WAYS, ("up_proj", 0), ("v_proj", 1), ("model.norm", 0)))
def test_uneven_blocks_fit_each_other(case: tuple[str, int], uneven: Path) -> None:
    part, way = case
    cuts = (lambda w: w[:1].copy(), lambda w: w[:-1].copy(), lambda w: w[None].copy())
    changed(uneven, part, cuts[way])
    with CheckpointReader(uneven) as reader, pytest.raises(CheckpointError, match=part):
        skeleton(reader)


def test_an_uneven_folder_is_not_called_a_wrapper(uneven: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"differ in width.*treadle export FOLDER OUT --pad"):
        quantize(uneven, tmp_path / "out", "rtn", group=16)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("is_stacked", [False, True])
def test_every_expert_has_the_shape_of_the_config(
    model_type: str, is_stacked: bool, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model(model_type, is_stacked=is_stacked), tmp_path / "model")
    last = "down_proj" if is_stacked or model_type == "qwen3_moe" else "w2"
    changed(folder, last, lambda w: w[..., :-1].copy())
    with CheckpointReader(folder) as reader, pytest.raises(CheckpointError, match=last):
        skeleton(reader)


@pytest.mark.parametrize(
    ("model_type", "fields", "said"),
    [
        ("mixtral", {"num_experts_per_tok": 9}, "to 9 of 4 experts"),
        ("qwen2_moe", {"num_experts_per_tok": 0}, "to 0 of 4 experts"),
        ("gemma2", {"sliding_window": -1}, "sliding_window: -1"),
        ("opt", {"num_attention_heads": -1}, "num_attention_heads: -1"),
    ],
)
def test_numbers_that_no_shape_shows(
    model_type: str,
    fields: dict[str, int],
    said: str,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(tiny_model(model_type), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    with CheckpointReader(folder) as reader, pytest.raises(CheckpointError, match=said):
        skeleton(reader)


def test_other_towers_that_go_along_are_whole(tmp_path: Path) -> None:
    folder = tiny.build_wrapper("gemma3", tmp_path / "model")
    stored = load_file(folder / FILE)
    lost = next(key for key in stored if "vision" in key and "fc2.weight" in key)
    save_file({k: v for k, v in stored.items() if k != lost}, folder / FILE, {"format": "pt"})
    for verb in (
        lambda: prune(folder, tmp_path / "out", METRICS.resolve("magnitude"), sparsity=0.5),
        lambda: export(folder, tmp_path / "out", dtype="bfloat16"),
    ):
        with pytest.raises(CheckpointError, match=r"has no tensor .*fc2"):
            verb()
    export(folder, tmp_path / "text", text_only=True)
    assert "'Gemma3ForConditionalGeneration' was not looked for" in compat(folder)


def test_a_float_is_no_integer(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "model")
    changed(folder, "layers.1.mlp.up_proj", lambda w: (w * 100).astype(np.int32))
    with CheckpointReader(folder) as reader, pytest.raises(CheckpointError, match="I32, but flo"):
        skeleton(reader)
    assert facts.hidden_size({"model_type": "gpt2", "n_embd": 7}) == 7
