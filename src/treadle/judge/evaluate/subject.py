"""Who is asked: a model in float32, or through the runtime as a user would run it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from treadle.core.errors import DataError, SettingsError
from treadle.core.ports import Generator, Scorer
from treadle.judge.evaluate.base import AnswerTask, Task
from treadle.judge.evaluate.budgets import BudgetTask

if TYPE_CHECKING:
    from treadle.core.checkpoint import CheckpointReader
    from treadle.model.classes import Tokenizer
    from treadle.runtime import LLM
    from treadle.runtime.settings import EngineSettings

__all__ = ["Subject", "Through", "chosen_way"]

Through = Literal["exact", "blocks", "runtime"]
"""Exact: in float32, by the native step where it computes the model and fits, else by blocks."""
_ADAPTER = "adapter"


def chosen_way(
    task: Task, through: Through | None, engine: "EngineSettings | None", adapter: Path | None
) -> Through:
    """Return how a task's model is asked.

    Raises:
        SettingsError: The task cannot be asked so, or a setting has no effect.
    """
    if isinstance(task, AnswerTask | BudgetTask):
        if through in ("exact", "blocks"):
            raise SettingsError(
                f"Task '{task.name}' asks for answers, which a model gives through the runtime "
                f"alone; leave --through out."
            )
        return "runtime"
    if through == "runtime":
        return through
    given = sorted(engine.model_fields_set) if engine else []
    given += [] if adapter is None else ["adapter"]
    if given:
        raise SettingsError(
            f"{given[0]} has no effect on a model that is asked in float32 as it is; add --through "
            f"runtime, or leave --{given[0].replace('_', '-')} out."
        )
    return through or "exact"


class Subject(NamedTuple):
    """A model that is evaluated, and how it is asked."""

    folder: Path
    """A folder, or a GGUF file."""
    way: Through
    engine: "EngineSettings | None"
    adapter: Path | None
    trust_remote_code: bool

    def open(self) -> "CheckpointReader":
        """Open the model's weights."""
        from treadle.core.checkpoint import CheckpointReader
        from treadle.model.source import open_model

        takes_codes = self.way == "runtime" or self.folder.is_file()
        return open_model(self.folder) if takes_codes else CheckpointReader(self.folder)

    def tokenizer(self) -> "Tokenizer":
        """Return the model's tokenizer.

        Raises:
            DataError: It has none.
        """
        from treadle.model.gguf.file import GgufFile
        from treadle.model.gguf.tokenizer import gguf_tokenizer, has_tokenizer
        from treadle.model.load import load_tokenizer

        if self.folder.is_dir():
            return load_tokenizer(self.folder)
        file = GgufFile(self.folder)
        try:
            if not has_tokenizer(file):
                raise DataError(
                    f"'{self.folder}' carries no tokenizer, so that no text can be scored; convert "
                    f"the model again with its vocabulary."
                )
            return gguf_tokenizer(file)
        finally:
            file.close()

    def require_effect(self, num_tokens: int) -> None:
        """Refuse an eviction policy under which rows of so many tokens would lose nothing.

        A budget for the whole row is no mistake: then nothing shall be lost.

        Raises:
            SettingsError: Rows end before entries go.
        """
        from treadle.runtime.evict.keeping import choose_keeping

        engine = self.engine
        keeping = None if engine is None else choose_keeping(engine.keep, engine.keep_budget)
        budget = None if keeping is None else keeping.entries(num_tokens, num_tokens)
        if keeping is None or budget is None or budget >= num_tokens - 1:
            return
        if not keeping.drops_within(num_tokens - 1):
            chunk = keeping.method.chunk_tokens
            raise SettingsError(
                f"keep = '{keeping.method.name}' has no effect: the longest row has {num_tokens} "
                f"tokens, and entries go after every {chunk}; lower --keep.chunk-tokens, give "
                f"longer rows, or leave --keep out."
            )

    def scorer(self, reader: "CheckpointReader", longest: int) -> Scorer:
        """Return what says how likely the model finds tokens, in rows of at most so many."""
        if self.way == "runtime":
            from treadle.runtime.scoring import RuntimeScorer

            return RuntimeScorer(self.runtime(), self.adapter_name)
        if self.way == "exact" and not self.trust_remote_code:  # whose code only blocks run
            from treadle.runtime.scoring import exact_scorer

            if (found := exact_scorer(self.folder, reader, longest)) is not None:
                return found
        from treadle.model.scoring import BlockScorer

        return BlockScorer(reader, self.trust_remote_code)

    def generator(self) -> Generator:
        """Return what answers prompts."""
        from treadle.runtime.answering import RuntimeGenerator

        return RuntimeGenerator(self.runtime(), self.adapter_name)

    @property
    def adapter_name(self) -> str | None:
        """What the runtime calls the adapter, if there is one."""
        return None if self.adapter is None else _ADAPTER

    def runtime(self, **changes: Any) -> "LLM":  # Any: settings of an engine, and its executor
        """Return the model as it is served, with other settings than the given ones."""
        from treadle.runtime import LLM

        engine = self.engine
        settings = (
            {} if engine is None else {n: getattr(engine, n) for n in engine.model_fields_set}
        )
        settings |= changes
        adapters = {} if self.adapter is None else {_ADAPTER: self.adapter}
        return LLM(
            self.folder,
            adapters=adapters,
            trust_remote_code=self.trust_remote_code,
            **settings,
        )
