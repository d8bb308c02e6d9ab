"""What routers are shown of each MLP, read and computed when it is wanted."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.inputs.sources import TensorSource
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.mixture.base import MadeGate, PromptStates, RoutedMlp
from treadle.combine.merge.mixture.plan import DenseMlp, MixturePlan, MixtureRequest
from treadle.combine.merge.mixture.states import LayerStates, layer_states
from treadle.combine.merge.recipe.grammar import of_models
from treadle.combine.merge.site import Floats
from treadle.core.errors import DataError, UnsupportedModelError
from treadle.core.seed import numpy_stream
from treadle.model import facts

if TYPE_CHECKING:
    from treadle.model.text import Windows

__all__ = ["Prompting", "cut_windows", "made_gates", "prompts_of"]

_PROBES, _PROBE_TOKENS = 32, 64
"""Rows of random tokens, and tokens in each, that show what enters MLPs where no prompt does."""

Tokens = list[int]


class Prompting(NamedTuple):
    """The prompts as tokens: all of them, and which belong to whom."""

    texts: list[Tokens]
    positive: list[range]
    """Of each expert."""
    negative: list[range]

    def of(self, states: Sequence[Floats]) -> list[PromptStates]:
        """Return each expert's share of what all texts look like."""
        pairs = zip(self.positive, self.negative, strict=True)
        return [
            PromptStates([states[n] for n in own], [states[n] for n in not_]) for own, not_ in pairs
        ]


def prompts_of(request: MixtureRequest, plan: MixturePlan) -> Prompting:
    """Return the prompts as tokens.

    Raises:
        DataError: A prompt has none.
    """
    from treadle.model.load import load_tokenizer
    from treadle.model.text import puts_bos

    tokenizer = load_tokenizer(plan.merge.parent.reader.folder)
    has_bos = tokenizer.bos_token_id is not None
    start = (
        [tokenizer.bos_token_id]
        if (has_bos if request.wants_bos else puts_bos(tokenizer, "auto"))
        else []
    )
    limit = facts.context_length(plan.merge.parent.config)
    found = Prompting([], [], [])
    for expert in request.experts:
        for prompts, places in (
            (expert.positive, found.positive),
            (expert.negative, found.negative),
        ):
            first = len(found.texts)
            for prompt in prompts:
                ids = [int(n) for n in tokenizer(prompt, add_special_tokens=False).input_ids]
                if not ids:
                    raise DataError(
                        f"The prompt {prompt!r} of expert '{expert.model}' has no token; write "
                        f"words that tell what the expert is for."
                    )
                if limit is not None and len(start) + len(ids) > limit:
                    raise DataError(
                        f"The prompt {prompt[:40]!r}... of expert '{expert.model}' has "
                        f"{len(start) + len(ids)} tokens, and the model's context holds {limit}; "
                        f"shorten it."
                    )
                found.texts.append(start + ids)
            places.append(range(first, len(found.texts)))
    return found


def cut_windows(request: MixtureRequest, plan: MixturePlan, seed: int) -> "list[Windows]":
    """Return what is read of each text.

    Raises:
        DataError: A text is missing, or too short.
    """
    from treadle.model.load import load_tokenizer
    from treadle.model.text import sampled_windows

    if request.text is None:
        return []
    tokenizer = load_tokenizer(plan.merge.parent.reader.folder)
    sizes = (request.text.num_windows, request.text.window_tokens)
    return [sampled_windows(text, tokenizer, *sizes, seed) for text in request.text.text]


def made_gates(
    request: MixtureRequest,
    plan: MixturePlan,
    models: Models,
    seed: int,
    windows: "Sequence[Windows]" = (),
) -> Iterator[MadeGate]:
    """Yield the gate of each MLP, layer by layer.

    Raises:
        UnsupportedModelError: A model must be run and has an adapter.
        CheckpointError: A model holds NaN.
    """
    router = request.router
    asked = prompts_of(request, plan) if router.needs_prompts else None
    rows: list[Tokens] = [row for one in windows for row in one.tokens.tolist()]
    known = [row[:-1] for row in rows]  # nothing is known to follow a row's last token
    texts = asked.texts if asked is not None else known or _probes(plan, seed)
    shown = _shown(request, plan, models, texts)
    losses = _losses(request, models, rows)
    hidden = plan.gates[0].shape[1]
    has_base = request.base is not None
    for mlp, states in zip(plan.mlps, shown, strict=True):
        seen = states.residual if router.reads == "residual" else states.mlp
        is_joined = router.reads in ("changes", "losses")
        yield router.gate(
            RoutedMlp(
                request.num_experts,
                hidden,
                numpy_stream(seed, f"gate {mlp.layer}"),
                asked.of(seen) if asked is not None else (),
                np.concatenate(seen) if is_joined else np.empty((0, hidden), np.float32),
                _Changes(mlp, has_base).of,
                losses,
            )
        )


def _shown(
    request: MixtureRequest,
    plan: MixturePlan,
    models: Models,
    texts: list[Tokens],
) -> Iterator[LayerStates]:
    """Yield for each layer what the router reads of the texts."""
    reads = request.router.reads
    if reads in ("nothing", "embeddings"):
        embedded = [_embedded(plan, text) for text in texts] if reads == "embeddings" else []
        yield from repeat(LayerStates(embedded, embedded), len(plan.mlps))
        return
    names = [request.base] if request.base is not None else [e.model for e in request.experts]
    yield from layer_states([model.reader for model in _runnable(names, models)], texts)


def _losses(request: MixtureRequest, models: Models, rows: Sequence[Tokens]) -> Floats:
    """Return each expert's loss of what follows each token, [tokens, experts]; none without rows.

    Each model is run once, and alone, one block in memory.
    """
    from treadle.model.scoring import BlockScorer

    if not rows:
        return np.empty((0, request.num_experts), np.float32)
    names = [expert.model for expert in request.experts]
    known: dict[str, Floats] = {}
    for name, model in zip(dict.fromkeys(names), _runnable(names, models), strict=True):
        found = BlockScorer(model.reader).token_losses(rows)
        known[name] = np.concatenate([one.numpy() for one in found])
    return np.stack([known[name] for name in names], axis=1)


def _runnable(names: Sequence[str], models: Models) -> list[Model]:
    """Return models that are to be run, each once: the base, or all experts."""
    sources = of_models("linear", list(dict.fromkeys(names))).sources
    found = [models[source.model] for source in sources]
    for model in found:
        if model.ref.adapter is not None:
            raise UnsupportedModelError(
                f"'{model.ref}' is a model with an adapter, which cannot be run to make a gate; "
                f"merge the adapter into a folder first (treadle merge passthrough {model.ref} "
                f"OUT), or take --router cheap_embed or random, which run nothing."
            )
    return found


def _probes(plan: MixturePlan, seed: int) -> list[Tokens]:
    rows = int(plan.merge.config["vocab_size"])
    longest = facts.context_length(plan.merge.config) or _PROBE_TOKENS
    size = (_PROBES, min(_PROBE_TOKENS, longest))
    drawn: list[Tokens] = numpy_stream(seed, "probes").integers(0, rows, size).tolist()
    return drawn


def _embedded(plan: MixturePlan, text: Tokens) -> Floats:
    """Return the rows of the embedding that a text looks up: [tokens, hidden]."""
    job = next(job for job in plan.merge.jobs if job.inputs.name.endswith(facts.EMBEDDINGS))
    hidden = job.inputs.shape[1]
    found = np.zeros((len(text), hidden), np.float32)
    row = np.empty(hidden, np.float32)
    for source in job.inputs.models:
        for place, token in enumerate(text):
            source.read(token * hidden, row)
            found[place] += row / np.float32(len(job.inputs.models))
    return found


class _Changes:
    """What experts changed in the matrices of an MLP that read its input."""

    def __init__(self, mlp: DenseMlp, has_base: bool) -> None:
        self._jobs = [mlp.matrices[role] for role in ("gate", "up")]
        self._has_base = has_base
        self._starts: list[Floats] = []
        """The base's matrices, or the experts' means, once they are wanted."""

    def of(self, expert: int) -> list[Floats]:
        """Return the differences of an expert, each [out, hidden]."""
        if not self._starts:
            self._starts = [self._start(job) for job in self._jobs]
        places = (job.inputs.models[expert + self._has_base] for job in self._jobs)
        pairs = zip(places, self._starts, strict=True)
        return [_whole(source) - start for source, start in pairs]

    def _start(self, job: TensorJob) -> Floats:
        sources = job.inputs.models[:1] if self._has_base else job.inputs.models
        found = np.zeros(job.inputs.shape, np.float32)
        for source in sources:
            found += _whole(source) / np.float32(len(sources))
        return found


def _whole(source: TensorSource) -> Floats:
    found = np.empty(source.shape, np.float32)
    source.read(0, found.reshape(-1))
    return found
