"""Every verb that writes, on inputs that are as small as can be; not a test itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from treadle import bench, curate, evaluate, merge, plan, prune, quantize, sparsify, tune
from treadle.app.export import export
from treadle.app.sweep.apply import sweep
from treadle.combine.merge import (
    merge_conflict,
    merge_extract_lora,
    merge_glue,
    merge_inspect,
    merge_materialise,
    merge_moe,
    merge_yaml,
)
from treadle.combine.route import route, route_evaluate, route_prepare
from treadle.judge.evaluate import evaluate_grid
from treadle.learn.tune import fresh
from treadle.model import tiny
from treadle.recipe import run_recipe
from treadle.shrink.prune import prune_blocks
from treadle.text.curate import pack, replay, trial

__all__ = ["OF_A_SERVER", "WRITERS", "Inputs", "make_inputs"]

WORDS = [f"word{place}" for place in range(20)]


class Inputs(NamedTuple):
    """What the verbs read."""

    model: Path
    other: Path
    text: Path
    corpus: Path
    packed: Path
    heldout: Path
    recipe: Path
    steps: Path
    cells: Path
    deep: Path
    questions: Path
    base: Path
    bundle: Path
    scores: Path
    router: Path


def make_inputs(folder: Path) -> Inputs:
    model, other = (tiny.build("llama", folder / name, seed) for name, seed in (("m", 0), ("o", 1)))
    text, corpus = folder / "text.txt", folder / "corpus.jsonl"
    text.write_text(" ".join(WORDS * 60))
    documents = [" ".join(WORDS[place:] + WORDS[:place]) for place in range(12)]
    corpus.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    packed = [folder / name for name in ("packed", "heldout")]
    for place in packed:
        pack(corpus, place, tokenizer=str(model), seq_len=32, rows=2)
    recipe, steps, cells = (folder / f"{name}.yaml" for name in ("merge", "steps", "cells"))
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {model}}}, {{model: {other}}}]\n")
    pruned = f"prune: {{method: magnitude, model: {model}, sparsity: 0.5, out: pruned}}"
    windows = "num_windows: 1, window_tokens: 16"
    score = f"evaluate: {{method: perplexity, model: pruned, data: {text}, {windows}, out: score}}"
    steps.write_text(f"name: steps\nout: none\nsteps:\n- {pruned}\n")
    cells.write_text(
        f"name: cells\nout: none\nsteps:\n- {pruned}\n- {score}\n"
        f"over: {{prune.sparsity: [0.25, 0.5]}}\nscores: [perplexity]\n"
    )
    deep = tiny.build("llama", folder / "deep", num_hidden_layers=3)
    questions = folder / "questions.jsonl"
    rows = [{"prompt": word, "answer": f" {word}"} for word in WORDS[:8]]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base, bundle = tiny.build("llama", folder / "base", 2), folder / "bundle"
    merge_conflict([model, other], bundle, base=base, route_fraction=1.0)
    scores, router = folder / "scores.jsonl", folder / "router"
    scored = [
        {"question": word, "scores": {"a": place % 2, "b": 0.5}} for place, word in enumerate(WORDS)
    ]
    scores.write_text("".join(json.dumps(row) + "\n" for row in scored))
    route(scores, router, "knn")
    read = (recipe, steps, cells, deep, questions, base, bundle, scores, router)
    return Inputs(model, other, text, corpus, *packed, *read)


def _trial(inputs: Inputs, out: Path) -> object:
    sizes = {"steps": 1, "num_seeds": 1, "hidden": 16, "layers": 1, "heldout_rows": 2}
    return trial([inputs.packed], out, heldout=[inputs.heldout], **sizes)


def _fresh(inputs: Inputs, out: Path) -> object:
    sizes = {"layers": 1, "vocab_size": 300, "steps": 1, "rows": 1, "window_tokens": 8}
    return fresh(out, text=[str(inputs.text)], skills=[], **sizes)


def _evaluate(inputs: Inputs, out: Path) -> object:
    task = {"method": "perplexity", "num_windows": 1, "window_tokens": 16}
    return evaluate(inputs.model, out, task, data=str(inputs.text))


WRITERS: dict[str, Callable[[Inputs, Path], object]] = {
    "curate": lambda own, out: curate(own.corpus, out, "exact"),
    "curate pack": lambda own, out: pack(
        own.corpus, out, tokenizer=str(own.model), seq_len=32, rows=2
    ),
    "curate replay": lambda own, out: replay(own.packed, out),
    "curate trial": _trial,
    "tune": lambda own, out: tune(own.model, out, "sft", text=own.text, steps=1, window_tokens=16),
    "tune fresh": _fresh,
    "plan": lambda own, out: plan(own.model, out, "memory", batch=1, seq=8),
    "prune": lambda own, out: prune(own.model, out, "magnitude", sparsity=0.5),
    "prune blocks": lambda own, out: prune_blocks(own.deep, out, by="shallow_first", num_blocks=1),
    "quantize": lambda own, out: quantize(own.model, out, "rtn", group=32),
    "sparsify": lambda own, out: sparsify(
        *(own.model, out, "kvzap"),
        text=own.text,
        target="cis",
        num_samples=3,
        sample_tokens=96,
        local_tokens=4,
        heldout_fraction=0.34,
    ),
    "merge": lambda own, out: merge([own.model, own.other], out, "linear"),
    "merge yaml": lambda own, out: merge_yaml(own.recipe, out),
    "merge moe": lambda own, out: merge_moe([own.model, own.other], out, router="random"),
    "merge inspect": lambda own, out: merge_inspect([own.model, own.other], out=out),
    "merge glue": lambda own, out: merge_glue(
        [own.model, own.other], out, data=[str(own.questions)], by="uniform", same_ancestor=-1.0
    ),
    "merge conflict": lambda own, out: merge_conflict(
        [own.model, own.other], out, base=own.base, data=[str(own.questions)]
    ),
    "merge materialise": lambda own, out: merge_materialise(own.bundle, out, expert="m"),
    "merge extract-lora": lambda own, out: merge_extract_lora(own.model, own.other, out),
    "route": lambda own, out: route(own.scores, out, "ridge"),
    "route evaluate": lambda own, out: route_evaluate(own.router, own.scores, out),
    "route prepare": lambda own, out: route_prepare(
        [str(own.model), str(own.other)],
        out,
        data=(f"train={own.questions}",),
        samples=1,
        temperature=0.0,
        max_tokens=2,
    ),
    "evaluate": _evaluate,
    "evaluate grid": lambda own, out: evaluate_grid(
        [own.model], out, data=["skills:arithmetic"], num_questions=2, max_tokens=2
    ),
    "bench": lambda own, out: bench(
        own.model, out, {"method": "latency", "prompt_tokens": 8, "new_tokens": 2, "rounds": 1}
    ),
    "export": lambda own, out: export(own.model, out, dtype="float16"),
    "run": lambda own, out: list(run_recipe(own.steps, out=out)),
    "sweep": lambda own, out: list(sweep(own.cells, out)),
}
"""Every verb and action that writes -> a call of it; those that measure a server are left out, as
they write what `core.run.recorded` writes and nothing else."""
OF_A_SERVER = frozenset({"serve probe", "bench load", "bench replay"})
