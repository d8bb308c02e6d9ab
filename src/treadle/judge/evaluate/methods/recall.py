"""What a model still recalls of a text when its cache keeps only some entries."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.result import Measurement, digest
from treadle.core.seed import numpy_stream
from treadle.judge.evaluate.budgets import Asks, BudgetTask, Cache, RecallAccount, Recalled, Samples
from treadle.judge.evaluate.curves import (
    Posing,
    curve_figures,
    differences,
    judged_table,
    kept_figures,
    measured,
    samples_of,
)
from treadle.judge.evaluate.needles import KINDS, Codec, Needle, codec_of, context, pieces_of

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

_HELD_OUT = "stdlib:heldout"
_AFTER_ANSWER_TOKENS = 2
"""That an answer may have more than the right one, so that one which goes on is not right."""
_STOP = ("\n", ".")
KindName = Literal["passkey", "keys", "documents"]
Mode = Literal["hidden", "shown"]


class Recall(BudgetTask):
    """Hide facts in real text, let entries of the cache go, and ask for the facts.

    Of each kind (a pass key; lines of key and value; facts of several documents) texts are made by
    rule. Hidden, all of the text loses entries before the question is read; shown, the question is
    the end of what loses them. Then the beginning of the fact is read, and the model goes on: of
    what follows the `context_tokens`, nothing goes. Scores are the share of greedy answers that are
    the right ones to the letter, and the mean negative log-likelihood of the right ones, each
    beside the full cache in the same run, in pairs. A random guess among the answers of a kind is
    the line that chance draws.

    Paper: RULER: What's the Real Context Size of Your Long-Context Language Models?, Hsieh et al.,
    2024 (needles in real text, and their kinds; we make our own of them).
    """

    name: ClassVar[str] = "recall"
    paper = Paper(
        "RULER: What's the Real Context Size of Your Long-Context Language Models?",
        2024,
        "https://arxiv.org/abs/2404.06654",
    )

    kinds: Annotated[tuple[KindName, ...], Field(min_length=1)] = ("passkey", "keys", "documents")
    """What is asked: passkey, keys, documents."""
    context_tokens: Annotated[int, Field(ge=8)] = 1024
    """Tokens of what loses entries: the text, and the question where it is shown."""
    num_questions: Annotated[int, Field(ge=1)] = 24
    """Questions of each kind."""
    questions_per_text: Annotated[int, Field(ge=1)] = 4
    """Questions about one text, of kinds with several needles."""
    num_needles: Annotated[int, Field(ge=1)] = 8
    """Needles of a text; of pass keys there is one."""
    question: Literal["hidden", "shown", "both"] = "hidden"
    """Whether the question is read after entries went, or is part of what loses them."""
    bos: Literal["auto", "none", "each"] = "auto"
    """Start each text with the tokenizer's BOS token (Gemma needs it) or with text; auto is as the
    tokenizer itself starts a text."""
    text_seed: int = 0
    """Of the texts and the facts, which are other ones for another seed."""
    keeps: tuple[str, ...] = ()
    """Eviction policies that are compared in this run, beside --keep; each at each of `budgets`
    (kivi, which keeps every entry, once)."""
    budgets: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Of `keeps`: fractions of the text (up to 1), or entries of each head (above 1)."""
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of `keeps`: entries go after so many tokens (default: as each policy has it)."""

    def caches(self) -> list[Cache]:
        """Return each policy at each budget."""
        from treadle.core.errors import SettingsError
        from treadle.runtime.evict.tables import EVICTIONS

        if bool(self.keeps) != bool(self.budgets) or (self.chunk_tokens and not self.keeps):
            given = "keeps" if self.keeps else "budgets" if self.budgets else "chunk_tokens"
            missing = "budgets" if self.keeps else "keeps"
            raise SettingsError(
                f"{given} has no effect without {missing}; add --{missing}, or leave "
                f"--{given.replace('_', '-')} out."
            )
        chunk = {} if self.chunk_tokens is None else {"chunk_tokens": self.chunk_tokens}
        policies = [EVICTIONS.resolve({"method": name, **chunk}) for name in self.keeps]
        for budget in self.budgets:
            if budget > 1 and budget != round(budget):
                raise SettingsError(
                    f"budgets = {budget:g} is neither a fraction of at most 1.0 nor a whole number "
                    f"of entries; give one of them."
                )
        several: dict[str, Sequence[object]] = {"keeps": self.keeps, "budgets": self.budgets}
        for name, values in several.items():
            if len(set(values)) < len(values):
                raise SettingsError(f"{name} names one thing twice {values}; leave one out.")
        whole = [budget if budget <= 1 else round(budget) for budget in self.budgets]
        return [
            Cache(one.name, one, budget)
            for one in policies
            for budget in ([None] if one.packed_bits else whole)
        ]

    def prepare(self, data: str, tokenizer: "Tokenizer") -> Asks:
        """Make texts and questions of the text `data`."""
        from treadle.model.text import puts_bos, read_text, tokenizer_hash

        source = data or _HELD_OUT
        text, _ = read_text(source)
        codec = codec_of(tokenizer)
        start = [tokenizer.bos_token_id] if puts_bos(tokenizer, self.bos) else []
        pieces = pieces_of(text, codec)
        rows: list[tuple[Posing, list[int], list[int]]] = []
        for mode in self._modes():
            for kind in self.kinds:
                rows += self._asked(mode, kind, pieces, codec, start)
        settings = self.model_dump(mode="json", exclude={"keeps", "budgets", "chunk_tokens"})
        protocol = {"task": "recall", "corpus": source, "corpus_sha256": digest(text), **settings}
        protocol["tokenizer_sha256"] = tokenizer_hash(tokenizer)
        protocol["tokens_sha256"] = digest([[prompt, answer] for _, prompt, answer in rows])
        hashed = {key: value for key, value in protocol.items() if key != "corpus"}
        return Asks(
            prompts=[prompt for _, prompt, _ in rows],
            answers=[answer for _, _, answer in rows],
            num_kept=self.context_tokens,
            max_tokens=max(len(answer) for _, _, answer in rows) + _AFTER_ANSWER_TOKENS,
            stop=_STOP,
            protocol={**protocol, "hash": digest(hashed)[:16]},
            state=[asked for asked, _, _ in rows],
        )

    def _modes(self) -> list[Mode]:
        return ["hidden", "shown"] if self.question == "both" else [self.question]

    def _asked(
        self, mode: Mode, kind: str, pieces: list[list[int]], codec: Codec, start: list[int]
    ) -> list[tuple[Posing, list[int], list[int]]]:
        """Return the questions of one kind: what is known of each, its prompt, and its answer."""
        rows: list[tuple[Posing, list[int], list[int]]] = []
        number = 0
        while len(rows) < self.num_questions:
            found = self._of_text(mode, kind, number, pieces, codec, start)
            rows += found[: self.num_questions - len(rows)]
            number += 1
        return rows

    def _of_text(
        self,
        mode: Mode,
        kind: str,
        number: int,
        pieces: list[list[int]],
        codec: Codec,
        start: list[int],
    ) -> list[tuple[Posing, list[int], list[int]]]:
        """Return the questions about one text, which are the same in both modes."""

        def text(num_tokens: int) -> list[Needle]:
            # The same draws for any length: the same facts, about the same places.
            generator = numpy_stream(self.text_seed, f"recall {kind} {number}")
            room = num_tokens - len(start)
            made = context(kind, pieces, codec, room, self.num_needles, generator)
            tokens[:] = [*start, *made.tokens]
            return made.needles

        tokens: list[int] = []
        needles = text(self.context_tokens)
        order = numpy_stream(self.text_seed, f"asked {kind} {number}").permutation(len(needles))
        rows = []
        for place in order[: self.questions_per_text]:
            needle = needles[place]
            question = codec.encode(needle.question)
            if mode == "shown":
                text(self.context_tokens - len(question))
            cue, answer = codec.split(needle.cue, needle.answer)
            asked = Posing(mode, kind, needle.answer.strip(), KINDS[kind].num_answers)
            rows.append((asked, [*tokens, *question, *cue], answer))
        return rows

    def score(self, asks: Asks, found: list[Recalled]) -> RecallAccount:
        """Return shares of right answers and losses, by kind and by how it was asked."""
        known: list[Posing] = asks.state
        full, *others = found
        chosen = others[0] if len(others) == 1 else full
        measurements = measured(known, chosen)
        if chosen is not full:
            measurements += measured(known, full, "full_", kinds=False)
            measurements += differences(known, chosen, full, 0)
        for other in others if chosen is full else ():
            measurements += measured(known, other, suffix=f" ({other.cache.label})", kinds=False)
        return RecallAccount(
            measurements,
            samples_of(known, chosen),
            [*curve_figures(known, found), *kept_figures(others)],
            [judged_table(known, found, 0)],
        )

    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return how shares and losses differ from a baseline's, in pairs of questions."""
        from treadle.core.intervals import bootstrap_mean
        from treadle.core.result import Comparison
        from treadle.judge.evaluate.paired import compared

        shares = {name: row for name, row in samples.items() if name.startswith("accuracy")}
        result = compared(shares, baseline, seed)
        for name in samples.keys() - shares.keys():
            pairs = zip(samples[name], baseline[name], strict=True)
            differing = [mine - theirs for mine, theirs in pairs]
            low, high = bootstrap_mean(differing, seed)
            result.append(
                Measurement(
                    name=f"{name}_difference",
                    value=sum(differing) / len(differing),
                    unit="nats/token",
                    low=low,
                    high=high,
                    better="lower",
                    comparison=Comparison(score=name, neutral=0.0),
                )
            )
        return result
