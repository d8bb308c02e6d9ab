"""A bundle whose experts differ in some layers: one model, a mixture of experts a prompt."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from treadle.core.checkpoint import CheckpointReader, require_understood
from treadle.core.checkpoint.layered import (
    DENSE,
    ExpertFile,
    LayerRouting,
    expert_file,
    read_layer_routing,
    require_same_file,
    shares_in,
)
from treadle.core.codec import Array
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model.load import resolve
from treadle.model.source import name_later
from treadle.runtime.conversation import Messages, asked_first
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.linear.arena import Arena
from treadle.runtime.linear.sparse import ExpertChanges, sparse_matrix
from treadle.runtime.llm import LLM
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.prompts import Prompt, Prompts, plain
from treadle.runtime.request import Request, SamplingParams
from treadle.runtime.routed.discriminant import load_discriminant
from treadle.runtime.routed.texts import require_texts
from treadle.runtime.settings import EngineSettings

__all__ = ["LayeredLLM"]

_MOST_MIXTURES = 64
"""Mixtures that are remembered; each costs the norms and biases of the experts' layers."""


class AskedTokens(list[int]):
    """Tokens of a prompt, and the text that decides who answers it."""

    def __init__(self, tokens: Sequence[int], asked: str) -> None:
        super().__init__(tokens)
        self.asked = asked


class AskedPrompts(Prompts):
    """Remembers of a conversation what its user asked first."""

    def chat(self, messages: Messages) -> AskedTokens:
        """Return the tokens of a conversation; see `Prompts`."""
        return AskedTokens(super().chat(messages), asked_first(messages))


class LayeredLLM(LLM):
    """A dense model and its experts; `LLM(BUNDLE)` makes one.

    Which mixture of the experts answers is decided once for each prompt, by its text (of a
    conversation, by the first message of the user). Prompts of different mixtures share a batch,
    and those of one mixture share what is cached. `adapter` names an expert to be asked alone, or
    ``dense``, the model without experts. Without a router that model answers who names none.

    Attributes:
        experts: Names, in the order of shares.
        router: The frozen scorer, or None.
    """

    _prompts_class = AskedPrompts

    def __init__(
        self,
        path: str | Path,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        settings: EngineSettings | None = None,
        **fields: Any,  # Any: of EngineSettings, checked there
    ) -> None:
        """Load a bundle; see `LLM`."""
        folder = resolve(path, takes_files=True)
        if adapters or executor is not None:
            raise SettingsError(
                "A bundle takes no adapters and no executor beside its experts; materialise one "
                "expert (treadle merge materialise) and load that."
            )
        require_understood(folder)
        routing = read_layer_routing(folder)
        self.experts = list(routing.experts)
        self.router = load_discriminant(folder, routing)
        super().__init__(folder / DENSE, clock=clock, settings=settings, **fields)
        self._name = name_later(folder)
        step = self.executor
        if not isinstance(step, LlamaStep):
            raise UnsupportedModelError(
                f"Experts beside a model run in the native step only, which does not compute "
                f"'{folder / DENSE}' here; make a plain model of one expert or of a mixture: "
                f"treadle merge materialise '{folder}' OUT."
            )
        for name in self.experts:
            require_same_file(folder, routing, name)
        changes = list(_changes(folder, routing))
        step.hold_experts(changes)
        self.expert_bytes = {
            name: one.num_bytes for name, one in zip(self.experts, changes, strict=True)
        }
        self._hashes = [one.content_hash for one in changes]
        self._mixtures: OrderedDict[str, None] = OrderedDict()
        alone = np.eye(len(self.experts), dtype=np.float32)
        for name, shares in zip(self.experts, alone, strict=True):
            self._adapters.add_mixture(name, shares, self._hash_of(shares))

    @property
    def adapters(self) -> list[str]:
        """The experts that requests may ask for alone, and ``dense``."""
        return [*self.experts, DENSE]

    def route(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return how much each expert would answer of each text; nothing: the dense model does."""
        require_texts(prompts)
        if self.router is None or not prompts:
            return [{} for _ in prompts]
        return [
            {n: float(share) for n, share in zip(self.experts, row, strict=True) if share}
            for row in self.router.shares(prompts)
        ]

    def add_adapter(self, name: str, folder: str | Path) -> str | None:
        """Refuse: experts are what stands beside the model.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(
            f"A bundle takes no adapter '{name}' beside its experts; materialise one expert "
            f"(treadle merge materialise) and load that."
        )

    def remove_adapter(self, name: str) -> None:
        """Refuse: experts stay.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(f"'{name}' cannot be removed: the experts of a bundle stay beside it.")

    def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **options: Any,  # Any: of `Engine.submit`
    ) -> list[Request]:
        """Let a prompt wait for its turn with the mixture that the router decides; see `Engine`.

        Args:
            prompt: Text, or token ids.
            sampling_params: How to answer.
            adapter: An expert that answers alone, or ``dense``, or experts with their shares such
                as ``json=0.6,facts=0.4``; None lets the router decide.
            options: Of `Engine.submit`.
        """
        shares = self._shares(prompt, adapter)
        with self._turn, self._mixed(shares) as mixture:
            return super().submit(prompt, sampling_params, adapter=mixture, **options)

    def log_probs(
        self,
        rows: Sequence[Sequence[int]],
        firsts: Sequence[int] | None = None,
        adapter: str | None = None,
        params: SamplingParams | None = None,
    ) -> list[Floats]:
        """Return the log-probabilities of texts, each with the mixture for all but its last token.

        See `Engine`.
        """
        shares = [self._shares(list(row[:-1]) or list(row), adapter) for row in rows]
        members: dict[bytes, list[int]] = {}
        for number, mixed in enumerate(shares):
            members.setdefault(mixed.tobytes(), []).append(number)
        found: dict[int, Floats] = {}
        for some in members.values():
            with self._turn, self._mixed(shares[some[0]]) as mixture:
                asked = None if firsts is None else [firsts[number] for number in some]
                own = super().log_probs([rows[number] for number in some], asked, mixture, params)
                found |= dict(zip(some, own, strict=True))
        return [found[number] for number in range(len(rows))]

    def _shares(self, prompt: Prompt, asked: str | None) -> Floats:
        """Return how much each expert answers of a prompt."""
        if asked is None and self.router is not None:
            routed: Floats = self.router.shares([self._asked(prompt)])[0]
            return routed
        given = {} if asked in (None, DENSE) else shares_in(str(asked), self.experts)
        return np.array([given.get(name, 0.0) for name in self.experts], np.float32)

    def _asked(self, prompt: Prompt) -> str:
        if isinstance(prompt, AskedTokens):
            return prompt.asked
        given = plain(prompt)
        if isinstance(given, str):
            return given
        return str(self.prompts.tokenizer.decode(self.prompts.tokens(given)))

    @contextmanager
    def _mixed(self, shares: Floats) -> Iterator[str | None]:
        """Give the name of a mixture, which stays while requests have it."""
        if not shares.any():
            yield None
            return
        if shares.max() == shares.sum() == 1:
            yield self.experts[int(shares.argmax())]
            return
        name = "mix:" + ",".join(f"{share:g}" for share in shares)
        if name not in self._mixtures:
            self._forget_mixtures()
            self._adapters.add_mixture(name, shares, self._hash_of(shares))
        self._mixtures[name] = None
        self._mixtures.move_to_end(name)
        yield name

    def _forget_mixtures(self) -> None:
        used = {request.adapter for request in self._batch.requests()}
        for name in [one for one in self._mixtures if one not in used]:
            if len(self._mixtures) < _MOST_MIXTURES:
                return
            self._adapters.remove(name)
            del self._mixtures[name]

    def _hash_of(self, shares: Floats) -> str:
        said = [f"{share:g} {one}" for share, one in zip(shares, self._hashes, strict=True)]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _changes(folder: Path, routing: LayerRouting) -> Iterator[ExpertChanges]:
    """Read what each expert changes in the dense model."""
    arena = Arena()
    with CheckpointReader(folder / DENSE) as reader:
        shapes = {name: info.shape for name, info in reader.tensors.items()}
        for expert in routing.experts:
            matrices, vectors = {}, {}
            with ExpertFile(expert_file(folder, expert), shapes) as own:
                for name in own.names:
                    change = _difference(own.tensor(name, reader.array(name)), reader.array(name))
                    reader.release(name)
                    if change.ndim == 1:
                        vectors[name] = change
                    else:
                        is_half = reader.tensors[name].dtype in ("F16", "BF16")
                        matrices[name] = sparse_matrix(name, change, arena, is_half)
            yield ExpertChanges(matrices, vectors, routing.files[expert])


def _difference(expert: Array, dense: Array) -> Floats:
    found: Floats = np.asarray(expert, np.float32)
    return found - np.asarray(dense, np.float32)
