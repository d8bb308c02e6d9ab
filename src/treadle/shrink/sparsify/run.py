"""One run: samples of text pass through a frozen model, and small heads learn what it shows."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from treadle.core import progress
from treadle.core.checkpoint import CheckpointReader, content_hash, prepare_target
from treadle.core.checkpoint.publish import require_elsewhere
from treadle.core.errors import SettingsError
from treadle.core.result import Result, digest
from treadle.core.run import Recording, recorded
from treadle.core.seed import numpy_stream
from treadle.model.retaining import require_shape
from treadle.model.text import read_text, tokenizer_hash
from treadle.shrink.sparsify.account import account_for_heads, account_for_overlaps
from treadle.shrink.sparsify.base import HeadDesign
from treadle.shrink.sparsify.heads import LayerSize, mlp_width, read_inputs, retaining
from treadle.shrink.sparsify.learners import HeadLearner, LayerLesson, learner_for
from treadle.shrink.sparsify.overlap import overlaps_of
from treadle.shrink.sparsify.pairs import pairs_in
from treadle.shrink.sparsify.request import SparsifyRequest
from treadle.shrink.sparsify.samples import Passages, Sample, draw_sample, passages_of
from treadle.shrink.sparsify.state import LearnedState, SamplesLearned
from treadle.shrink.sparsify.watching import FrozenModel, LayerView, open_frozen
from treadle.shrink.sparsify.writing import write_folder

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["sparsify_model"]

_SAVE_SECONDS = 60.0
"""Between two saves of the state."""
_LOCAL_SHARE = 4
"""At most this part of a prompt is its newest tokens, which are not learned."""


class _Material(NamedTuple):
    """What samples are made of, or the samples."""

    learned: Passages | list[Sample]
    held: Passages | list[Sample]
    encode: Callable[[str], list[int]]


class _Training(NamedTuple):
    """A run at work."""

    request: SparsifyRequest
    material: _Material
    model: FrozenModel
    design: HeadDesign
    learner: HeadLearner
    state: LearnedState


def sparsify_model(
    request: SparsifyRequest, folder: Path, name: str, out: Path, overwrite: bool, trusted: bool
) -> Result:
    """Train heads on the model in `folder`, which the user calls `name`, and publish `out`."""
    from treadle.model.load import load_tokenizer

    prepare_target(out, overwrite)
    require_elsewhere(out, folder, "the model's")
    with recorded(
        *("sparsify", request.method, request.settings()),
        seed=request.seed,
        out=out,
        overwrite=None,
    ) as run:
        tokenizer = load_tokenizer(folder)
        num_parameters = _read_model(run, folder, name, tokenizer)
        material = _material(run, request, tokenizer)
        training = _prepare(run, request, material, folder, out, tokenizer, num_parameters, trusted)
        learned = _learn(run, training)
        layers = training.learner.layers()
        _measure(run, training)
        heads = retaining(training.design, layers)
        account_for_heads(run, heads, num_parameters, learned, training.design.solver)
        write_folder(run, folder, heads, request.method.name, out, overwrite)
        training.state.remove()
    return run.result


def _read_model(run: Recording, folder: Path, name: str, tokenizer: "Tokenizer") -> int:
    """Note the model, and return the number of its parameters (of codes, that of the codes)."""
    with CheckpointReader(folder) as reader:
        run.read("model", name, content_hash(reader), "model")
        run.read("config", "config.json", digest(reader.config), "config")
        run.bytes["input"] = reader.num_bytes
        infos = (info for key, info in reader.tensors.items() if key not in reader.tied)
        num_parameters = sum(info.num_elements for info in infos)
    run.read("tokenizer", "tokenizer", tokenizer_hash(tokenizer), "tokenizer")
    return num_parameters


def _material(run: Recording, request: SparsifyRequest, tokenizer: "Tokenizer") -> _Material:
    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    if request.pairs is not None:
        sizes = (request.sample_tokens, request.num_samples, request.num_heldout)
        own, text = pairs_in(Path(request.pairs), tokenizer, *sizes, request.seed)
        run.read("pairs", request.pairs, digest(text), "data")
        return _Material(*own, encode)
    text, _ = read_text(str(request.text))
    run.read("text", str(request.text), digest(text), "data")
    material = _Material(*passages_of(text, tokenizer, request.heldout_fraction), encode)
    for share in ("learned", "held"):  # before the model is loaded: a text may be too short
        _sample(request, material, 0, share)
    return material


def _sample(request: SparsifyRequest, material: _Material, number: int, share: str) -> Sample:
    passages: Passages | list[Sample] = getattr(material, share)
    if isinstance(passages, list):
        return passages[number % len(passages)]
    return draw_sample(passages, number, request.sample_tokens, request.seed, share)


def _prepare(
    run: Recording,
    request: SparsifyRequest,
    material: _Material,
    folder: Path,
    out: Path,
    tokenizer: "Tokenizer",
    num_parameters: int,
    trusted: bool,
) -> _Training:
    """Open the model, look at it once, and make heads that fit it."""
    model = open_frozen(folder, request.method.target, material.encode, trusted)
    views = model.view(_sample(request, material, 0, "learned"))
    design, sizes = _fitted(run, request, views), [_size_of(view) for view in views]
    width = mlp_width(design, sizes, num_parameters) if design.kind == "mlp" else 0
    learner = learner_for(request.method, design, sizes, width, request.seed)
    shapes = [(size.heads, size.kv_heads, size.dim) for size in sizes]
    require_shape(retaining(design, learner.layers()), shapes, sizes[0].hidden)
    count = _num_learned(request, _sample(request, material, 0, "learned"))
    targets = [view.target[:count] for view in views]
    unseen = [n for n, target in enumerate(targets) if not bool(target.isfinite().any())]
    if unseen:
        run.notes.append(
            f"In {len(unseen)} of {len(views)} layers (first {unseen[0]}) no query of the first "
            f"sample sees what is to be scored, because of their windows; their heads learn "
            f"little or nothing, and need not."
        )
    state = LearnedState(out, run.fingerprint)
    return _Training(request, material, model, design, learner, state)


def _fitted(run: Recording, request: SparsifyRequest, views: Sequence[LayerView]) -> HeadDesign:
    """Return the method's design; what cannot be seen of the model is not read."""
    design = request.method.design()
    is_fused = any(view.inputs.queries is None for view in views)
    if design.reads == "projections" and is_fused:
        run.notes.append(
            "The model has one matrix for queries, keys and values, so the heads read what that "
            "matrix reads."
        )
        return design._replace(reads="hidden")
    return design


def _size_of(view: LayerView) -> LayerSize:
    queries, keys = view.inputs.turned_queries, view.inputs.turned_keys
    return LayerSize(queries.shape[1], keys.shape[1], queries.shape[2], view.inputs.hidden.shape[1])


def _learn(run: Recording, training: _Training) -> SamplesLearned:
    """Learn all samples that are left, saving the state now and then."""
    request, total = training.request, training.request.num_learned
    learned = training.state.restore(training.learner)
    if learned.num_samples:
        run.resumed(f"had learned the first {learned.num_samples} of {total} samples")
    saved = time.monotonic()
    with progress.steps(f"sparsify ({request.method.name})", total) as bar:
        bar.advance(learned.num_samples)
        for number in range(learned.num_samples, total):
            sample = _sample(request, training.material, number, "learned")
            lessons = _lessons(training, sample)
            loss = training.learner.learn(lessons, number / total, 1 / total)
            if not math.isfinite(loss):
                raise SettingsError(
                    f"The loss of sample {number} is {loss}: the heads do not learn but grow; "
                    f"lower --learning-rate."
                )
            learned = SamplesLearned(
                number + 1, learned.num_tokens + len(sample.tokens), (*learned.losses, loss)
            )
            bar.advance()
            if time.monotonic() - saved > _SAVE_SECONDS or number + 1 == total:
                training.state.save(training.learner, learned)
                saved = time.monotonic()
    return learned


def _num_learned(request: SparsifyRequest, sample: Sample) -> int:
    """Return how many tokens of a prompt are learned: its newest never go, and are left out."""
    return sample.num_prompt - min(request.local_tokens, sample.num_prompt // _LOCAL_SHARE)


def _lessons(training: _Training, sample: Sample) -> list[LayerLesson]:
    count = _num_learned(training.request, sample)
    method, found = training.request.method, []
    for view in training.model.view(sample):
        target = view.target[:count]
        is_seen = target.isfinite()
        aim = method.aim(target.masked_fill(~is_seen, 0.0))
        inputs = read_inputs(training.design, view.inputs, count)
        found.append(LayerLesson(inputs, aim, is_seen))
    return found


def _measure(run: Recording, training: _Training) -> None:
    """Measure the overlaps of the trained heads on held-out samples."""
    request, layers, found = training.request, training.learner.layers(), []
    total = request.num_heldout
    for number in progress.track(range(total), "held-out samples", total):
        sample = _sample(request, training.material, number, "held")
        count, views = _num_learned(request, sample), training.model.view(sample)
        stream = numpy_stream(request.seed, f"random scores {number}")
        found.append(overlaps_of(views, training.design, layers, count, stream))
    account_for_overlaps(run, found, request.seed)
