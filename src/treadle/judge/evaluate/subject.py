"""Who is asked: a model block by block, or through the runtime as a user would run it."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from treadle.core.errors import SettingsError
from treadle.core.ports import Generator, Scorer
from treadle.judge.evaluate.base import AnswerTask, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from treadle.core.checkpoint import CheckpointReader
    from treadle.runtime import LLM
    from treadle.runtime.settings import EngineSettings

__all__ = ["Subject", "Through", "chosen_way"]

Through = Literal["blocks", "runtime"]
_ADAPTER = "adapter"


def chosen_way(
    task: Task, through: Through | None, engine: "EngineSettings | None", adapter: Path | None
) -> Through:
    """Return how a task's model is asked.

    Raises:
        SettingsError: The task cannot be asked so, or a setting has no effect.
    """
    if isinstance(task, AnswerTask):
        if through == "blocks":
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
            f"{given[0]} has no effect on a model that is asked block by block; add --through "
            f"runtime, or leave --{given[0].replace('_', '-')} out."
        )
    return "blocks"


class Subject(NamedTuple):
    """A model that is evaluated, and how it is asked."""

    folder: Path
    """A folder; a file where it is asked through the runtime."""
    way: Through
    engine: "EngineSettings | None"
    adapter: Path | None
    trust_remote_code: bool

    def open(self) -> "CheckpointReader":
        """Open the model's weights."""
        from treadle.core.checkpoint import CheckpointReader
        from treadle.model.source import open_model

        return CheckpointReader(self.folder) if self.way == "blocks" else open_model(self.folder)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Return the model's tokenizer."""
        from treadle.model.gguf_file import GgufFile
        from treadle.model.gguf_tokenizer import gguf_tokenizer
        from treadle.model.load import load_tokenizer

        if self.folder.is_dir():
            return load_tokenizer(self.folder)
        return gguf_tokenizer(GgufFile(self.folder))

    def scorer(self, reader: "CheckpointReader") -> Scorer:
        """Return what says how likely the model finds tokens."""
        if self.way == "blocks":
            from treadle.model.scoring import BlockScorer

            return BlockScorer(reader, self.trust_remote_code)
        from treadle.runtime.scoring import RuntimeScorer

        return RuntimeScorer(self._llm(), self._name)

    def generator(self) -> Generator:
        """Return what answers prompts."""
        from treadle.runtime.answering import RuntimeGenerator

        return RuntimeGenerator(self._llm(), self._name)

    @property
    def _name(self) -> str | None:
        return None if self.adapter is None else _ADAPTER

    def _llm(self) -> "LLM":
        from treadle.runtime import LLM

        engine = self.engine
        settings = (
            {} if engine is None else {n: getattr(engine, n) for n in engine.model_fields_set}
        )
        adapters = {} if self.adapter is None else {_ADAPTER: self.adapter}
        return LLM(
            self.folder,
            adapters=adapters,
            trust_remote_code=self.trust_remote_code,
            **settings,
        )
