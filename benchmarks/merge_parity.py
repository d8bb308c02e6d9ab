"""Every merge method of mergekit on the same random tensors as ours, element by element.

Standard normal float32 tensors with differences of a hundredth of their spread, as fine-tuning
leaves. Methods that draw random numbers are compared by what they keep: mergekit's masks come from
torch's own stream.
Prints a table; writes nothing.

Usage: python benchmarks/merge_parity.py --peer /opt/peers/mergekit/bin/python
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge import METHODS
from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.sources import Inputs, TensorSource
from treadle.core.seed import stream_seed

SHAPES = {"matrix": (384, 576), "vector": (4097,), "stack": (6, 40, 48), "single": (1,)}

PEER = """
import json, sys
import numpy as np, torch
from mergekit.merge_methods.api import merge_tensors
torch.set_num_threads(1)
folder = sys.argv[1]
tensors, merged = np.load(folder + "/tensors.npz"), {}
for place, case in enumerate(json.load(open(folder + "/cases.json"))):
    found = [torch.from_numpy(tensors[name]) for name in case["inputs"]]
    base = 0 if case["has_base"] else None
    settings = dict(parameters=case["settings"], base_index=base)
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(place)
        result = merge_tensors(found, case["method"], dtype=dtype, **settings)
        merged[f"{place}/{dtype}"] = result.numpy()
np.savez(folder + "/merged.npz", **merged)
"""


class Theirs(NamedTuple):
    """What mergekit makes of one case, in its two precisions."""

    single: Floats
    double: npt.NDArray[np.float64]


class Case(NamedTuple):
    """One method with settings that both sides know by the same names."""

    method: str
    num_models: int
    has_base: bool
    settings: dict[str, Any]


TASKS = {"weight": [1.0, 0.5, 0.7]}
CASES = [
    Case("linear", 3, False, TASKS),
    Case("slerp", 1, True, {"t": 0.3}),
    Case("nuslerp", 2, False, {"weight": [1.0, 0.5]}),
    Case("nuslerp", 2, True, {"weight": [1.0, 0.5]}),
    Case("nuslerp", 2, True, {"weight": [0.3, 0.7], "nuslerp_flatten": False}),
    Case(
        "nuslerp",
        2,
        True,
        {"weight": [0.3, 0.7], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    Case("multislerp", 3, False, TASKS),
    Case("multislerp", 3, True, TASKS),
    Case("multislerp", 3, True, {**TASKS, "normalize_weights": False}),
    Case("karcher", 3, False, {}),
    Case("passthrough", 1, False, {"scale": [0.5]}),
    Case("model_stock", 3, True, {}),
    Case("model_stock", 3, True, {"filter_wise": True}),
    Case("arcee_fusion", 1, True, {}),
    Case("nearswap", 1, True, {"t": 0.002}),
    Case("task_arithmetic", 3, True, {**TASKS, "lambda": 0.6}),
    Case("task_arithmetic", 3, True, {**TASKS, "normalize": True}),
    Case("ties", 3, True, {"weight": [1.0], "density": [0.2]}),
    Case("ties", 3, True, {**TASKS, "density": [0.2, 0.5, 1.0], "lambda": 1.3}),
    Case("ties", 3, True, {**TASKS, "density": [0.3], "normalize": False, "rescale": True}),
    Case("breadcrumbs", 3, True, {**TASKS, "density": [0.8], "gamma": [0.05]}),
    Case("breadcrumbs", 3, True, {**TASKS, "density": [0.98], "gamma": [0.05], "rescale": True}),
    Case("breadcrumbs_ties", 3, True, {**TASKS, "density": [0.8], "gamma": [0.05]}),
    Case("sce", 3, True, {}),
    Case("sce", 3, True, {"select_topk": 0.3}),
    Case("ram", 3, True, {"epsilon": 0.01}),
    Case("ramplus_tl", 3, True, {"epsilon": 0.01}),
    Case("dare_ties", 3, True, {**TASKS, "density": [1.0]}),
    Case("della", 3, True, {**TASKS, "density": [1.0]}),
]
RANDOM = [
    Case("dare_linear", 1, True, {"weight": [1.0], "density": [0.3], "rescale": False}),
    Case("dare_linear", 1, True, {"weight": [1.0], "density": [0.3]}),
    Case("dare_ties", 1, True, {"weight": [1.0], "density": [0.6]}),
    Case("della_linear", 1, True, {"weight": [1.0], "density": [0.5], "rescale": False}),
    Case("della_linear", 1, True, {"weight": [1.0], "density": [0.5]}),
    Case("della", 1, True, {"weight": [1.0], "density": [0.4], "epsilon": [0.2]}),
]


class Held(TensorSource):
    """A tensor in memory."""

    def __init__(self, tensor: Floats) -> None:
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, "F32"

    def read(self, first: int, target: Floats) -> None:
        """Copy a run."""
        target[:] = self.tensor.reshape(-1)[first : first + target.size]


def tensors(seed: int) -> dict[str, Floats]:
    """Draw a base and three models of every shape, "matrix/0" being the base."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        base = generator.standard_normal(shape, np.float32)
        found[f"{name}/0"] = base
        for model in range(1, 4):
            found[f"{name}/{model}"] = base + np.float32(0.01) * generator.standard_normal(
                shape, np.float32
            )
    return found


def inputs_of(case: Case, shape: str) -> list[str]:
    models = [f"{shape}/{model}" for model in range(1, case.num_models + 1)]
    return [f"{shape}/0", *models] if case.has_base else models


def ours(case: Case, names: list[str], given: dict[str, Floats]) -> Floats:
    """Merge by treadle, through the runs that its driver reads."""
    sources = [Held(given[name]) for name in names]
    base, models = (sources[0], sources[1:]) if case.has_base else (None, sources)
    keys = tuple(stream_seed(0, name) for name in names[-len(models) :])
    site = Inputs("tensor", tuple(models), base, keys)
    method = METHODS.resolve({"method": case.method, **case.settings})
    known = method.measure(site)
    runs = [method.merge(chunk, site, known).copy() for chunk in site.chunks(method.unit)]
    return np.concatenate(runs).reshape(site.shape)


def theirs(peer: str, cases: list[tuple[Case, str]], given: dict[str, Floats]) -> list[Theirs]:
    """Merge by mergekit, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "tensors.npz"), **given)
        listed = [
            {**case._asdict(), "settings": _per_model(case), "inputs": inputs_of(case, shape)}
            for case, shape in cases
        ]
        Path(folder, "cases.json").write_text(json.dumps(listed))
        subprocess.run([peer, "-c", PEER, folder], check=True)
        merged = np.load(Path(folder, "merged.npz"))
        return [
            Theirs(merged[f"{place}/torch.float32"], merged[f"{place}/torch.float64"])
            for place in range(len(cases))
        ]


def _per_model(case: Case) -> dict[str, Any]:
    """Return the settings as mergekit wants them: one value for each model."""
    return {
        name: value * case.num_models if isinstance(value, list) and len(value) == 1 else value
        for name, value in case.settings.items()
    }


def compare_exactly(peer: str, given: dict[str, Floats]) -> None:
    """Print the largest distances; those from mergekit in float64 tell whose rounding it is."""
    cases = [(case, shape) for case in CASES for shape in SHAPES]
    print("largest distance of         ours-their32  ours-their64  their32-64  elements above 1e-6")
    for (case, shape), other in zip(cases, theirs(peer, cases, given), strict=True):
        found = ours(case, inputs_of(case, shape), given)
        distances = [
            np.abs(left - right.astype(np.float64))
            for left, right in ((found, other.single), (found, other.double), other)
        ]
        single, double, between = (distance.max() for distance in distances)
        num_far = [int(np.count_nonzero(distance > 1e-6)) for distance in distances]
        print(
            f"{case.method:17} {shape:7} {single:14.1e} {double:13.1e} {between:11.1e}  "
            f"{'/'.join(map(str, num_far)):>20}  {case.settings}"
        )


def compare_statistics(peer: str, given: dict[str, Floats]) -> None:
    cases = [(case, shape) for case in RANDOM for shape in ("matrix", "vector")]
    print(f"\n{'method':17} {'tensor':7} {'kept: ours':>10} {'theirs':>7} {'L1: ours':>9} theirs")
    for (case, shape), other in zip(cases, theirs(peer, cases, given), strict=True):
        names = inputs_of(case, shape)
        base, whole = given[names[0]], np.abs(given[names[1]] - given[names[0]]).sum()
        sides = [merged - base for merged in (ours(case, names, given), other.single)]
        kept = [np.count_nonzero(delta) / delta.size for delta in sides]
        left = [np.abs(delta).sum() / whole for delta in sides]
        print(
            f"{case.method:17} {shape:7} {kept[0]:10.4f} {kept[1]:7.4f} {left[0]:9.4f} "
            f"{left[1]:6.4f}  {case.settings}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="the Python of mergekit's environment")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    given = tensors(options.seed)
    compare_exactly(options.peer, given)
    compare_statistics(options.peer, given)


if __name__ == "__main__":
    main()
