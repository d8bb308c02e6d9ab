"""Writes tiny checkpoints in quantised formats, packed number by number; not a test itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from naive import config_of, weights_of


class Codes(NamedTuple):
    """A matrix [out, in] on a grid: ``scales[:, groups] * (codes - zeros[:, groups])``."""

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray
    num_bits: int

    def weights(self) -> np.ndarray:
        out = np.zeros(self.codes.shape, np.float32)
        for row in range(out.shape[0]):
            for col in range(out.shape[1]):
                group = self.groups[col]
                zero, scale = int(self.zeros[row, group]), np.float32(self.scales[row, group])
                out[row, col] = scale * np.float32(int(self.codes[row, col]) - zero)
        return out


def grid(weight, num_bits=4, size=32, symmetric=False, shuffled=False, seed=0) -> Codes:
    """Round a matrix to a grid by groups of columns, for tests: any rounding would do."""
    rows, cols = weight.shape
    size = size if size > 0 else cols
    groups = np.arange(cols) // size
    if shuffled:
        groups = np.random.default_rng(seed).permutation(groups)
    top, middle = 2**num_bits - 1, 2 ** (num_bits - 1)
    zeros = np.full((rows, groups.max() + 1), middle, np.uint8)
    scales = np.zeros((rows, groups.max() + 1), np.float16)
    codes = np.zeros((rows, cols), np.uint8)
    for row in range(rows):
        for group in range(groups.max() + 1):
            own = weight[row, groups == group].astype(np.float64)
            if symmetric:
                scale = np.float16(np.abs(own).max() / (middle - 1))
            else:
                low, high = min(own.min(), 0.0), max(own.max(), 0.0)
                scale = few_bits((high - low) / top)
                zeros[row, group] = np.clip(np.rint(-low / float(scale)), 0, top)
            scales[row, group] = scale
            found = np.rint(own / float(scale)) + int(zeros[row, group])
            codes[row, groups == group] = np.clip(found, 0, top)
    return Codes(codes, zeros, scales, groups, num_bits)


def few_bits(scale: float) -> np.float16:
    """Round a scale up to 6 bits, so that its products with zero points are exact in float16."""
    mantissa, exponent = np.frexp(scale)
    return np.float16(np.ldexp(np.ceil(mantissa * 64) / 64, exponent))


def packed(codes: np.ndarray, num_bits: int, order=None) -> np.ndarray:
    """Pack along the last axis, 32 / num_bits codes to a number, the first one lowest."""
    each = 32 // num_bits
    order = order or range(each)
    rows, cols = codes.shape
    out = np.zeros((rows, -(-cols // each)), np.uint32)
    for row in range(rows):
        for word in range(out.shape[1]):
            for place, offset in enumerate(order):
                col = word * each + offset
                if col < cols:
                    out[row, word] |= np.uint32(int(codes[row, col]) << (num_bits * place))
    return out.view(np.int32)


Pack = Callable[[str, Codes], dict[str, np.ndarray]]


def pack_quantized(stem: str, grid: Codes) -> dict[str, np.ndarray]:
    made = {
        f"{stem}.weight_packed": packed(grid.codes, grid.num_bits),
        f"{stem}.weight_scale": grid.scales,
        f"{stem}.weight_shape": np.array(grid.codes.shape, np.int64),
    }
    if (grid.zeros != 2 ** (grid.num_bits - 1)).any():
        zeros = packed(grid.zeros.T, grid.num_bits).T
        made[f"{stem}.weight_zero_point"] = np.ascontiguousarray(zeros)
    if (np.diff(grid.groups) < 0).any():
        made[f"{stem}.weight_g_idx"] = grid.groups.astype(np.int32)
    return made


def gptq(stem: str, grid: Codes, shift: int = 1) -> dict[str, np.ndarray]:
    stored = (grid.zeros.T.astype(int) - shift) % 2**grid.num_bits
    return {
        f"{stem}.qweight": np.ascontiguousarray(packed(grid.codes, grid.num_bits).T),
        f"{stem}.qzeros": packed(stored, grid.num_bits),
        f"{stem}.scales": np.ascontiguousarray(grid.scales.T),
        f"{stem}.g_idx": grid.groups.astype(np.int32),
    }


def awq(stem: str, grid: Codes) -> dict[str, np.ndarray]:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        f"{stem}.qweight": packed(grid.codes.T, 4, order),
        f"{stem}.qzeros": packed(grid.zeros.T, 4, order),
        f"{stem}.scales": np.ascontiguousarray(grid.scales.T),
    }


def write_coded(
    folder: Path,
    out: Path,
    pack: Pack,
    config: dict[str, Any],
    shift: int | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Quantise all matrices of the blocks of `folder` into `out`; return their decoded values."""
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    decoded = {}
    for name in weights_of(folder):
        codes = grid(tensors.pop(name), **options)
        stem = name.removesuffix(".weight")
        more = {} if shift is None else {"shift": shift}
        tensors |= pack(stem, codes, **more)
        decoded[name] = codes.weights()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    said = config_of(folder) | {"quantization_config": config}
    (out / "config.json").write_text(json.dumps(said))
    return decoded


def dense_twin(folder: Path, out: Path, decoded: dict[str, np.ndarray]) -> Path:
    """Write the same model with decoded weights, as float32."""
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    assert decoded.keys() <= tensors.keys()
    tensors |= {name: np.ascontiguousarray(values) for name, values in decoded.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
        },
        "group_1": {
            "weights": {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 16}
        },
    },
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
GPTQ_2 = GPTQ | {"checkpoint_format": "gptq_v2"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
Q8 = {"num_bits": 8}
SYMMETRIC = {"symmetric": True}

CASES = {
    "compressed 4": (pack_quantized, COMPRESSED, {}, "q4_1"),
    "compressed 4 symmetric": (pack_quantized, COMPRESSED, SYMMETRIC, "q4_0"),
    "compressed 4 channel": (pack_quantized, COMPRESSED, {"size": -1}, "q4_1"),
    "compressed 4, groups of 16": (pack_quantized, COMPRESSED, {"size": 16}, "run of a multiple"),
    "compressed 4 by activation": (pack_quantized, COMPRESSED, {"shuffled": True}, "desc_act"),
    "compressed 8": (pack_quantized, COMPRESSED, Q8, "8-bit codes have zero points"),
    "compressed 8 symmetric": (pack_quantized, COMPRESSED, Q8 | SYMMETRIC, "q8"),
    "gptq 4": (gptq, GPTQ, {"shift": 1}, "q4_1"),
    "gptq 4 symmetric": (gptq, GPTQ, SYMMETRIC | {"shift": 1}, "q4_0"),
    "gptq 4 by activation": (gptq, GPTQ, {"shift": 1, "shuffled": True}, "desc_act"),
    "gptq 8": (gptq, GPTQ, Q8 | {"shift": 1}, "8-bit codes have zero points"),
    "gptq 8 symmetric": (gptq, GPTQ, Q8 | SYMMETRIC | {"shift": 1}, "q8"),
    "gptq version 2": (gptq, GPTQ_2, {"shift": 0}, "q4_1"),
    "awq": (awq, AWQ, {}, "q4_1"),
}


def decoded_blocks(coded: Any) -> np.ndarray:
    """Undo the blocks, number by number."""
    rows, blocks = coded.scales.shape
    out = np.zeros((rows, 32 * blocks), np.float32)
    for row in range(rows):
        for col in range(32 * blocks):
            block, i = divmod(col, 32)
            scale = np.float32(coded.scales[row, block])
            if coded.form == "q8":
                out[row, col] = scale * np.float32(coded.codes[row, block, i])
                continue
            byte = int(coded.codes[row, block, i % 16])
            code = byte & 15 if i < 16 else byte >> 4
            out[row, col] = scale * np.float32(code) + np.float32(coded.minima[row, block])
    return out


def rounded_inputs(model: torch.nn.Module) -> None:
    """Round what meets each matrix to 8 bits in blocks of 32, as the native step does."""

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        blocks = args[0].reshape(*args[0].shape[:-1], -1, 32)
        largest = blocks.abs().amax(-1, keepdim=True)
        scale = torch.where(largest > 0, largest / 127, 1.0)
        return ((torch.round(blocks / scale) * scale).reshape(args[0].shape),)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook)
