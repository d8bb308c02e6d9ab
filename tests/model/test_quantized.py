"""Quantised folders, packed number by number, read back as what they stand for."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coded_models import (
    AWQ,
    CASES,
    COMPRESSED,
    GPTQ,
    Codes,
    decoded_blocks,
    gptq,
    grid,
    pack_quantized,
    write_coded,
)
from naive import config_of, weights_of
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.coded import Coded, Obstacle
from treadle.model.grid import Grid, as_blocks
from treadle.model.load import skeleton
from treadle.model.source import open_model, source_hash


@pytest.mark.parametrize("case", CASES)
def test_every_format_reads_back(case, llama, tmp_path):
    pack, config, options, outcome = CASES[case]
    expected = write_coded(llama, tmp_path, pack, config, **options)
    original = load_file(llama / "model.safetensors")
    with open_model(tmp_path) as reader:
        assert reader.tensors.keys() == original.keys()
        assert "quantization_config" not in reader.config
        skeleton(reader)
        for name, values in original.items():
            wanted = expected.get(name, values)
            np.testing.assert_allclose(reader.array(name), wanted, rtol=1e-6, err_msg=name)
            coded = reader.coded(name)
            if name not in expected:
                assert coded is None
            elif isinstance(coded, Obstacle):
                assert outcome in coded.reason
            else:
                assert coded.form == outcome
                np.testing.assert_allclose(decoded_blocks(coded), wanted, atol=1e-6)


def small(rows=4, cols=64, num_bits=4, zero=8, scale=0.1) -> Grid:
    codes = np.random.default_rng(0).integers(0, 2**num_bits, (rows, cols)).astype(np.uint8)
    zeros = np.full((rows, cols // 32), zero, np.uint8)
    scales = np.full((rows, cols // 32), scale, np.float32)
    return Grid(codes, zeros, scales, np.arange(cols) // 32, num_bits)


def test_a_minimum_errs_by_the_last_bit_of_float16():
    """15 / 2048 of a step at most."""
    codes = small(zero=13, scale=float(np.float16(0.0777)))
    coded, step = as_blocks(codes), float(codes.scales[0, 0])
    assert 0 < np.abs(decoded_blocks(coded) - codes.floats()).max() < 15 / 2048 * step


def test_the_lowest_code_of_8_bits_is_kept():
    codes = small(num_bits=8, zero=128)
    codes.codes[0, 0] = 0
    coded = as_blocks(codes)
    assert isinstance(coded, Coded)
    assert coded.codes[0, 0, 0] == -128


def test_what_blocks_cannot_hold_is_explained():
    assert isinstance(as_blocks(small()), Coded)
    assert (
        "no multiple of 32" in as_blocks(small(cols=48)._replace(groups=np.zeros(48, int))).reason
    )
    for scale in (1e-9, 1e6):
        assert "range" in as_blocks(small(scale=scale)).reason
    assert "zero point is out" in as_blocks(small(zero=15, scale=6e4)).reason


def test_gptq_without_an_order_takes_runs(llama, tmp_path):
    def bare(stem: str, codes: Codes, shift: int) -> dict[str, np.ndarray]:
        made = gptq(stem, codes, shift)
        del made[f"{stem}.g_idx"]
        return made

    expected = write_coded(llama, tmp_path, bare, GPTQ, shift=1)
    with open_model(tmp_path) as reader:
        for name, values in expected.items():
            np.testing.assert_allclose(reader.array(name), values, rtol=1e-6)


def test_plain_zero_points_of_compressed_tensors(llama, tmp_path):
    def unpacked(stem: str, codes: Codes) -> dict[str, np.ndarray]:
        made = pack_quantized(stem, codes)
        made[f"{stem}.weight_zero_point"] = (codes.zeros.astype(int) - 8).astype(np.int8)
        return made

    expected = write_coded(llama, tmp_path, unpacked, COMPRESSED)
    with open_model(tmp_path) as reader:
        for name, values in expected.items():
            np.testing.assert_allclose(reader.array(name), values, rtol=1e-6)


def test_one_scale_for_a_whole_matrix(llama, tmp_path):
    def whole(stem: str, codes: Codes) -> dict[str, np.ndarray]:
        made = pack_quantized(stem, codes)
        made[f"{stem}.weight_scale"] = np.array([[0.5]], np.float16)
        return made

    write_coded(llama, tmp_path, whole, COMPRESSED, symmetric=True, size=-1)
    with open_model(tmp_path) as reader:
        values = reader.array("model.layers.0.mlp.up_proj.weight")
        assert set(np.unique(values * 2)) <= set(range(-8, 8))
        assert reader.coded("model.layers.0.mlp.up_proj.weight").form == "q4_0"


def described(folder: Path, out: Path, config) -> Path:
    out.mkdir(exist_ok=True)
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    said = config_of(folder) | {"quantization_config": config}
    (out / "config.json").write_text(json.dumps(said))
    return out


def group(**changes) -> dict:
    one = COMPRESSED["config_groups"]["group_0"]
    return {"group_0": {**one, "weights": one["weights"] | changes.pop("weights", {}), **changes}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes', but compressed-tensors"),
        ({"quant_method": "fp8"}, "quant_method 'fp8'.*give the unquantised model"),
        ({}, "quantization_config, but no tensor|quant_method ''"),
        (COMPRESSED | {"format": "marlin-24"}, "format 'marlin-24'.*W4A16 or W8A16"),
        (COMPRESSED | {"kv_cache_scheme": {"num_bits": 8}}, "a kv_cache_scheme"),
        (COMPRESSED | {"transform_config": {"a": 1}}, "a transform_config"),
        (COMPRESSED | {"config_groups": group(weights={"type": "float"})}, "type 'float'"),
        (COMPRESSED | {"config_groups": group(weights={"strategy": "block"})}, "strategy 'block'"),
        (COMPRESSED | {"config_groups": group(input_activations={"num_bits": 8})}, "activations"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin', but gptq, gptq_v2"),
        (AWQ | {"version": "gemv"}, "AWQ version 'gemv' of 4 bits, but gemm of 4 bits"),
    ],
)
def test_other_ways_to_quantise_are_refused(config, message, llama, tmp_path):
    folder = described(llama, tmp_path / "model", config or {"quant_method": ""})
    with pytest.raises(UnsupportedModelError, match=message):
        open_model(folder)


def test_a_quantization_config_without_quantised_tensors(llama, tmp_path):
    with pytest.raises(CheckpointError, match=r"no tensor ends in .qweight; remove the key"):
        open_model(described(llama, tmp_path / "model", GPTQ))


def changed(folder: Path, **changes) -> None:
    """Replace tensors whose names end in a key; None removes them."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for suffix, change in changes.items():
        name = next(n for n in tensors if n.endswith(f"0.mlp.up_proj.{suffix}"))
        value = tensors.pop(name)
        if change is not None:
            tensors[name] = change(value)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gptq 4", {"qzeros": None}, r"up_proj.qzeros' is missing"),
        ("gptq 4", {"scales": None}, r"up_proj.scales' is missing"),
        ("gptq 4", {"scales": lambda s: s[:, 1:].copy()}, r"has shape \[2, 95\].*makes it"),
        ("gptq 4", {"g_idx": lambda g: g + 1}, "names group 2, but has scales of 2"),
        ("gptq 4", {"scales": lambda s: s * np.float16("nan")}, "holds nan"),
        ("gptq 4", {"qzeros": lambda z: z[:, 3:].copy()}, "codes of 4 and 8 bits are read"),
        ("awq", {"qzeros": None}, r"up_proj.qzeros' is missing"),
        ("awq", {"scales": None, "qzeros": None}, r"up_proj.scales' .*missing|has shape"),
        ("awq", {"scales": lambda s: s[:0]}, r"has shape \[0, 96\], but 2 axes"),
        ("compressed 4", {"weight_scale": None}, r"up_proj.weight_scale' is missing"),
        ("compressed 4", {"weight_shape": None}, r"up_proj.weight_shape' is missing"),
        (
            "compressed 4",
            {"weight_shape": lambda s: s + 1},
            r"weight_packed' .*has shape \[96, 8\]",
        ),
        (
            "compressed 4 symmetric",
            {"weight_scale": lambda s: np.repeat(s, 3, axis=1)[:, :5].copy()},
            "scales of 5 groups, which do not fit its 64 columns",
        ),
    ],
)
def test_damaged_folders(case, changes, message, llama, tmp_path):
    pack, config, options, _ = CASES[case]
    write_coded(llama, tmp_path, pack, config, **options)
    changed(tmp_path, **changes)
    with (
        pytest.raises(CheckpointError, match=message),
        open_model(tmp_path) as reader,
    ):
        reader.array("model.layers.0.mlp.up_proj.weight")


def _of_another_kind(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32 if values.dtype.kind == "f" else np.float32)


@pytest.mark.parametrize("change", [_of_another_kind, lambda v: v[None].copy()])
@pytest.mark.parametrize("case", ["gptq 4", "awq", "compressed 4 by activation"])
def test_every_tensor_of_a_wrong_type_or_rank_is_named(case, change, llama, tmp_path):
    pack, config, options, _ = CASES[case]
    write_coded(llama, tmp_path, pack, config, **options)
    file = tmp_path / "model.safetensors"
    sound = load_file(file)
    own = [name for name in sound if "0.mlp.up_proj." in name]
    assert len(own) == {"gptq 4": 4, "awq": 3}.get(case, 5)
    for name in own:
        save_file(sound | {name: change(sound[name])}, file, {"format": "pt"})
        with (
            pytest.raises(CheckpointError, match=rf"'{name}' in '{tmp_path}' (is of|has shape)"),
            open_model(tmp_path) as reader,
        ):
            reader.array("model.layers.0.mlp.up_proj.weight")


def test_bits_that_the_config_does_not_say(llama, tmp_path):
    wide = COMPRESSED["config_groups"]["group_1"]
    config = {**COMPRESSED, "config_groups": {"group_0": wide}}
    write_coded(llama, tmp_path, pack_quantized, config)
    with (
        pytest.raises(CheckpointError, match=r"packs codes of 4 bits, but .*num_bits 8; download"),
        open_model(tmp_path) as reader,
    ):
        reader.array("model.layers.0.mlp.up_proj.weight")


def test_other_verbs_refuse_a_quantised_folder(llama, tmp_path):
    write_coded(llama, tmp_path, gptq, GPTQ, shift=1)
    with (
        CheckpointReader(tmp_path) as reader,
        pytest.raises(UnsupportedModelError, match="evaluate --through runtime read"),
    ):
        skeleton(reader)


def test_a_decoded_reader_reads_like_any_other(llama, tmp_path):
    write_coded(llama, tmp_path, gptq, GPTQ, shift=1)
    with open_model(tmp_path) as reader, CheckpointReader(llama) as plain:
        assert reader.tied == plain.tied
        assert reader.num_bytes < plain.num_bytes
        name = "model.layers.0.mlp.up_proj.weight"
        view = reader.array(name)
        assert not view.flags.writeable
        tensor = reader.tensor(name)
        np.testing.assert_array_equal(tensor.numpy(), view)
        reader.release(name)
        np.testing.assert_array_equal(reader.read_range(name, 3, 5), view.reshape(-1)[3:8])
        with pytest.raises(CheckpointError, match=r"no tensor 'lm.x' among its"):
            reader.array("lm.x")
    assert source_hash(tmp_path) != source_hash(llama)


def test_the_naive_grid_is_near_what_it_rounds(llama):
    """The tests' own rounding: half a step of 15 over the range."""
    weight = next(iter(weights_of(llama).values())).numpy()
    for options in ({}, {"symmetric": True}, {"num_bits": 8}):
        error = np.abs(grid(weight, **options).weights() - weight)
        assert error.max() < np.ptp(weight) / (2 ** options.get("num_bits", 4) - 2) * 0.6
