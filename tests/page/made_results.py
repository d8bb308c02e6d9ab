"""Results as the verbs write them, built by hand; not a test itself."""

import html
import re
from pathlib import Path
from typing import Any

from treadle.core.checkpoint import Manifest, Provenance
from treadle.core.result import (
    Comparison,
    Figure,
    Input,
    Measurement,
    Result,
    Series,
    digest,
    write_result,
)
from treadle.page import write_page

DENSE = "d" * 64
VERSIONS = {"python": "3.11.7", "treadle": "0.1.0"}
HARDWARE = {"cpu_model": "Test CPU", "physical_cores": 2, "memory_bytes": 8_000_000_000}


def page_of(root: Path) -> str:
    return write_page([root], root.parent / "page.html", "A study").read_text()


def text_of(page: str) -> str:
    """Return the words of the page as a reader sees them."""
    shown = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def result(**fields: Any) -> Result:
    shared = {
        "seed": 0,
        "inputs": [],
        "fingerprint": digest(fields | {"inputs": [str(i) for i in fields.get("inputs", [])]}),
        "started": "2026-03-01T10:00:00+00:00",
        "seconds": 12.5,
        "cpu_seconds": 20.0,
        "peak_memory_bytes": 1_500_000_000,
        "versions": VERSIONS,
        "hardware": HARDWARE,
    }
    return Result(**(shared | fields))


def prune(root: Path, method: str, sparsity: float, **fields: Any) -> str:
    """Write a pruned model's result and manifest and return the model's content hash."""
    folder = root / "models" / f"{method}-{sparsity}"
    settings = {
        "method": method,
        "pattern": "rows",
        "sparsity": sparsity,
        "update": {"method": "none"},
        "allocation": {"method": "uniform"},
    }
    inputs = [Input(name="model", path="dense", content_hash=DENSE, role="model")]
    if method == "wanda":
        settings |= {
            "num_windows": 8,
            "window_tokens": 64,
            "calibrate": "one-pass",
            "text": "t.txt",
        }
        inputs.append(Input(name="text", path="t.txt", content_hash="e" * 64, role="data"))
    made = result(
        **{
            "verb": "prune",
            "method": method,
            "is_control": method == "random",
            "settings": settings,
            "inputs": inputs,
            "output": str(folder),
            "measurements": [Measurement(name="sparsity", value=sparsity, unit="fraction")],
            "bytes": {"input": 1000, "output": 1000},
        }
        | fields
    )
    write_result(made, folder)
    content_hash = digest([method, sparsity])
    provenance = Provenance(
        verb="prune", method=method, settings=settings, seed=0, fingerprint=made.fingerprint
    )
    manifest = Manifest(content_hash=content_hash, provenance=provenance)
    (folder / "treadle.json").write_text(manifest.model_dump_json())
    return content_hash


def around(
    measure: str,
    value: float,
    spread: float = 0.02,
    basis: str = "measured",
    protocol: str = "aaaa1111bbbb2222",
) -> Measurement:
    """Return a measurement with an interval of that relative half width."""
    return Measurement(
        name=measure,
        value=value,
        low=value * (1 - spread),
        high=value * (1 + spread),
        better="lower",
        basis=basis,
        protocol=protocol,
    )


def evaluate(
    root: Path,
    name: str,
    content_hash: str,
    perplexity: float | None,
    *,
    protocol: str = "aaaa1111bbbb2222",
    baseline: Result | None = None,
    basis: str = "measured",
    spread: float = 0.02,
    **fields: Any,
) -> Result:
    """Write an evaluation of a model; with a baseline, its ratio too."""

    inputs = [
        Input(name="model", path=f"models/{name}", content_hash=content_hash, role="model"),
        Input(name="data", path="held.txt", content_hash=protocol, role="data"),
    ]
    measurements = (
        [] if perplexity is None else [around("perplexity", perplexity, spread, basis, protocol)]
    )
    if baseline is not None:
        inputs.append(
            Input(name="baseline", path="eval", content_hash=baseline.fingerprint, role="baseline")
        )
        before = baseline.measurement("perplexity").value
        ratio = (perplexity or 0.0) / before
        of = Comparison(score="perplexity", neutral=1.0, baseline=baseline.fingerprint)
        compared = around("perplexity_ratio", ratio, spread, basis, protocol)
        measurements.append(compared.model_copy(update={"comparison": of}))
    made = result(
        **{
            "verb": "evaluate",
            "method": "perplexity",
            "settings": {"method": "perplexity", "num_windows": 8},
            "inputs": inputs,
            "output": str(root / "evaluations" / f"{name}-{protocol}"),
            "measurements": measurements,
            "protocol": {"corpus": "held.txt", "length_tokens": 64, "hash": protocol},
            "bytes": {"input": 1000},
        }
        | fields
    )
    write_result(made, root / "evaluations" / f"{name}-{protocol}")
    return made


def study(root: Path) -> None:
    """Write a small study: magnitude is fine, wanda loses to random at 0.7 and to magnitude."""
    dense = evaluate(root, "dense", DENSE, 20.0)
    scores = {
        ("random", 0.5): 90.0,
        ("magnitude", 0.5): 30.0,
        ("wanda", 0.5): 25.0,
        ("random", 0.7): 100.0,
        ("magnitude", 0.7): 60.0,
        ("wanda", 0.7): 101.0,
    }
    for (method, sparsity), score in scores.items():
        content_hash = prune(root, method, sparsity)
        evaluate(root, f"{method}-{sparsity}", content_hash, score, baseline=dense)


def figures() -> list[Figure]:
    """Return one figure of each kind, with the awkward parts that real ones have."""
    names: list[float | str] = ["attention", "mlp", "head"]
    numbers: list[float | str] = [0.0, 1.0, 2.0]
    low, y, high = [0.8, 1.8, 2.5], [1.0, 2.0, 3.0], [1.2, 2.2, 3.4]
    banded = Series(name="first", x=numbers, y=y, low=low, high=high)
    named = Series(name="first", x=names, y=y, low=low, high=high)
    spans = Series(name="core 0", x=["read", "prune", "write"], y=[0.0] * 3, low=[0, 1, 2], high=y)
    starts = Series(name="core 1", x=[0.5, 1.5], y=[0.4, 0.7])
    labels = {"x_label": "block", "y_label": "seconds"}
    return [
        Figure(kind="line", title="A line", series=[banded, named], **labels),
        Figure(
            kind="line",
            title="Constant",
            series=[Series(name="one", x=numbers, y=[0.5, 0.5, 0.5 + 1e-9])],
            **labels,
        ),
        Figure(
            kind="bar",
            title="Bars",
            series=[named, named.model_copy(update={"name": "_second"})],
            **labels,
        ),
        Figure(kind="scatter", title="Points", series=[banded], **labels),
        Figure(
            kind="heatmap",
            title="Heat",
            series=[named, Series(name="second", x=names, y=[4.0, float("nan"), 6.0])],
            **labels,
        ),
        Figure(kind="interval", title="Intervals", series=[named], **labels),
        Figure(
            kind="interval",
            title="Unlike scales",
            series=[
                Series(name="perplexity", x=["perplexity"], y=[648.0], low=[612.0], high=[688.0]),
                Series(name="ratio", x=["ratio"], y=[0.92], low=[0.84], high=[1.02]),
            ],
            **labels,
        ),
        Figure(kind="timeline", title="Timeline", series=[spans, starts], **labels),
        Figure(kind="bar", title="Nothing", series=[], **labels),
    ]
