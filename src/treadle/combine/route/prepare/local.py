"""A member that is a model on this machine, asked through the runtime."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from treadle.combine.route.prepare.base import Asking, PoolQuestion, Reply
from treadle.core.checkpoint.layered import DENSE
from treadle.core.checkpoint.publish import carried
from treadle.core.errors import CheckpointError, DataError
from treadle.core.result import digest
from treadle.core.seed import stream_seed

if TYPE_CHECKING:
    from treadle.runtime import LLM

__all__ = ["LocalModel"]

_IDLE_EXPERTS = ".experts."


class LocalModel:
    """A folder or a GGUF file; loaded when it is first asked."""

    def __init__(self, name: str, folder: Path, trust_remote_code: bool) -> None:
        """Hash it and count its weights, which reads no more than that takes."""
        self.name, self.folder = name, folder
        self.identity = _identity(folder)
        self._trusts = trust_remote_code
        self.billion_weights: float | None = _weights_met(folder) / 1e9

    @cached_property
    def _llm(self) -> "LLM":
        from treadle.runtime import LLM

        return LLM(self.folder, trust_remote_code=self._trusts)

    def replies(self, questions: Sequence[PoolQuestion], asking: Asking) -> Iterator[Reply]:
        """Answer one question after the other, so that seconds are those of one alone.

        Raises:
            DataError: A question does not fit the model.
            CheckpointError: The model computes no numbers.
        """
        for posed in questions:
            start = time.perf_counter()
            try:
                found = self._chosen(posed) if posed.is_choice else self._written(posed, asking)
            except (DataError, CheckpointError) as error:
                kind = DataError if isinstance(error, DataError) else CheckpointError
                raise kind(
                    f"'{self.name}' cannot answer {posed.question[:60]!r}: {error} Or leave the "
                    f"model or the question out."
                ) from error
            yield found._replace(seconds=time.perf_counter() - start)

    def _written(self, posed: PoolQuestion, asking: Asking) -> Reply:
        from treadle.runtime import SamplingParams
        from treadle.runtime.answer.sureness import sureness

        llm = self._llm
        prompt = posed.question
        tokens = (
            llm.prompts.tokens(llm.prompts.chat([{"role": "user", "content": prompt}]))
            if asking.is_chat
            else llm.prompts.tokens(prompt)
        )
        params = SamplingParams(
            n=asking.samples,
            max_tokens=asking.max_tokens,
            temperature=asking.temperature,
            stop=(asking.stop,) if asking.stop else (),
            seed=stream_seed(asking.seed, posed.id) % 2**31 if asking.temperature else None,
            logprobs=0,
        )
        (output,) = llm.generate([tokens], params)
        sure = []
        for one in output.outputs:
            pairs = zip(one.token_ids, one.logprobs or [], strict=True)
            sure.append(sureness([entry[token] for token, entry in pairs]))
        texts = tuple(one.text for one in output.outputs)
        lengths = [len(one.token_ids) for one in output.outputs]
        return Reply(posed.id, texts, tuple(sure), (), 0.0, len(tokens), float(np.mean(lengths)))

    def _chosen(self, posed: PoolQuestion) -> Reply:
        from treadle.runtime import SamplingParams

        llm = self._llm
        before = llm.prompts.tokens(posed.question)
        found = []
        for answer in posed.answers:
            tokens = llm.prompts.tokens(posed.question + answer)
            pairs = enumerate(zip(before, tokens, strict=False))
            shorter = min(len(before), len(tokens) - 1)
            first = max(1, next((place for place, (a, b) in pairs if a != b), shorter))
            params = SamplingParams(max_tokens=1, prompt_logprobs=0, prompt_logprobs_start=first)
            (output,) = llm.generate([tokens], params)
            entries = (output.prompt_logprobs or [])[first:]
            told = [e[t] for t, e in zip(tokens[first:], entries, strict=True) if e is not None]
            found.append(float(np.sum(np.asarray(told, np.float64))))
        return Reply(posed.id, (), (), tuple(found), 0.0, len(before), 1.0)


def _identity(folder: Path) -> str:
    """Return the hash of all that answers depend on: numbers, config, tokenizer and template."""
    from treadle.model.source import name_later

    beside = [one for part in (folder, folder / DENSE) if part.is_dir() for one in carried(part)]
    names = [str(one.relative_to(folder)) for one in beside]
    hashes = [hashlib.sha256(one.read_bytes()).hexdigest() for one in beside]
    return digest([name_later(folder)(), names, hashes])


def _weights_met(folder: Path) -> int:
    """Return how many weights a token meets: all, but for the experts that it is not sent to."""
    from treadle.model.source import open_model

    reader = open_model(folder)
    try:
        sizes = {name: int(np.prod(info.shape)) for name, info in reader.tensors.items()}
        config = reader.config
    finally:
        reader.close()
    routed = sum(size for name, size in sizes.items() if _IDLE_EXPERTS in name)
    several = next((config[k] for k in ("num_experts", "num_local_experts") if k in config), 0)
    share = config.get("num_experts_per_tok", 0) / several if several else 1.0
    return round(sum(sizes.values()) - routed + routed * share)
