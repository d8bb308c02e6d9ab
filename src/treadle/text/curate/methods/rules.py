"""Heuristic quality rules: published thresholds on statistics of one document."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, model_validator

from treadle.core.errors import SettingsError
from treadle.core.method import Paper
from treadle.core.registry import near
from treadle.core.result import Figure, Series
from treadle.native.text import Texts, Unit
from treadle.text.curate.base import Columns, CurateMethod, Documents, Verdicts
from treadle.text.curate.c4_lines import clean_lines
from treadle.text.curate.overrides import Override, Scoped, read_override, scoped
from treadle.text.curate.rulesets import PRESETS, Preset, Rule, read_rule
from treadle.text.curate.scripts import Judged, language_notes, scripts_of
from treadle.text.curate.statistics import COSTLY, STATISTICS, document_statistics
from treadle.text.curate.survivors import values_of

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Rules"]


def _as_tuple(value: Any) -> Any:  # Any: whatever a recipe holds, checked next
    return (value,) if isinstance(value, str) else value


class Rules(CurateMethod):
    """Drop documents whose statistics are beyond the thresholds of published rule sets.

    d goes if s(d) is beyond t for any rule (s, t) of the presets. All statistics are measured in
    one pass and kept beside the text, whatever the rules ask for: `--statistics OLD_OUT` applies
    other thresholds without measuring again, and the page shows what each threshold would drop.
    Rules for one source replace those for all (poems and code are no web pages).
    Preset c4 also removes lines, as its paper does. "Words" stand between white space; what a
    duplicated n-gram covers is counted by place, once.

    Paper: Rae et al., Scaling Language Models: Methods, Analysis & Insights from Training Gopher,
    2021; the other presets name theirs in the table of rules.
    """

    name: ClassVar[str] = "rules"
    paper: ClassVar[Paper] = Paper(
        "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
        2021,
        "https://arxiv.org/abs/2112.11446",
    )

    preset: Annotated[tuple[Preset, ...], BeforeValidator(_as_tuple)] = ("gopher",)
    """Rule sets, one or several: gopher, c4, fineweb, matrix-en; or map-cc, for Chinese."""
    drop: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Further rules, such as num_words<20: documents of which one holds go."""
    waive: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Statistics whose rules in the presets do not apply."""
    override: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """What differs for a source: "wiki: num_words<20", or "code: alpha_word_fraction" to waive."""
    source_column: str = "source"
    """Column or field that holds the source, where there are overrides."""

    @model_validator(mode="after")
    def _require_sense(self) -> Self:
        units = {PRESETS[name].unit for name in self.preset}
        if len(units) > 1:
            raise ValueError(
                f"the presets {', '.join(self.preset)} count words and Chinese characters; give "
                f"those of one language, and curate the other one in a run of its own"
            )
        known = list(
            dict.fromkeys(rule.statistic for name in self.preset for rule in PRESETS[name].rules)
        )
        for name in self.waive:
            if name not in known:
                refusal = f"no rule on '{name}' to waive. {near(name, known)}"
                raise ValueError(refusal.removesuffix("."))
        try:
            is_empty = not self.rules
            self._overrides()
        except SettingsError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        if is_empty:
            raise ValueError("no rule is left; waive fewer statistics")
        return self

    @property
    def unit(self) -> Unit:
        """What n-grams and entropy are over."""
        return next((PRESETS[name].unit for name in self.preset), "words")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, each once."""
        chosen = (rule for name in self.preset for rule in PRESETS[name].rules)
        kept = (rule for rule in chosen if rule.statistic not in self.waive)
        return tuple(dict.fromkeys([*kept, *map(read_rule, self.drop)]))

    def _overrides(self) -> list[Override]:
        known = list(dict.fromkeys(rule.statistic for rule in self.rules))
        return [read_override(text, known) for text in self.override]

    @property
    def _sources(self) -> list[str]:
        return list(dict.fromkeys(one.source for one in self._overrides()))

    @property
    def sidecar(self) -> tuple[str, ...]:
        """All cheap statistics, and the costly ones that a rule asks for."""
        return (*STATISTICS, *self._costly)

    @property
    def measured_of(self) -> str:
        """The unit, and whether lines were removed before."""
        return f"{self.unit}, {'lines of c4' if 'c4' in self.preset else 'whole texts'}"

    @property
    def _costly(self) -> tuple[str, ...]:
        asked = {rule.statistic for rule in self.rules}
        asked |= {one.rule.statistic for one in self._overrides() if one.rule is not None}
        return tuple(name for name in COSTLY if name in asked)

    def label(self, documents: Documents) -> Columns:
        """Return each document's script, and the place of its source (-1: it has no override)."""
        script: Columns = {"script": scripts_of(documents.texts)}
        if not self.override:
            return script
        places = {name: place for place, name in enumerate(self._sources)}
        values = values_of(documents, self.source_column, "to tell sources by", "--source-column")
        found = np.array([places.get(str(value), -1) for value in values], np.int16)
        return {**script, "source": found}

    def measure(self, documents: Documents) -> Columns:
        """Return the statistics of each document, with c4 of the lines that it leaves."""
        texts = documents.texts
        if "c4" in self.preset:
            texts = Texts.of([clean_lines(texts.text(n)) for n in range(len(texts))])
        return {"statistics": document_statistics(texts, self.unit, self._costly)}

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return the first rule that drops each document."""
        reason = np.full(len(corpus), -1, np.int16)
        value = np.zeros(len(corpus), np.float32)
        sources = np.full(len(corpus), -1, np.int16)
        if self.override:
            sources = corpus.column("source").astype(np.int16, copy=False)
        alone, curves = [], []
        rules = scoped(self.rules, self._overrides(), self._sources)
        for number, one in enumerate(rules):
            values = self._values(corpus, one)
            covered = one.covers(sources)
            drops = one.rule.drops(values) & covered
            alone.append(float(drops.mean()))
            if covered.any():
                curves.append((alone[-1], number, _curve(one, values[covered])))
            is_first = drops & (reason < 0)
            reason[is_first], value[is_first] = number, values[is_first]
        names = tuple(one.name for one in rules)
        bars = Series(name="documents", x=list(names), y=alone)
        figures = [_figure("bar", "What each rule alone would drop", "rule", [bars])]
        for _, _, curve in sorted(curves, key=lambda entry: entry[:2], reverse=True)[:6]:
            figures.append(_figure("line", f"Drop curve: {curve.name}", "threshold", [curve]))
        scripts = corpus.column("script").astype(np.int8, copy=False)
        judged = Judged(
            *(scripts, reason, rules, [self._is_preset(one) for one in rules], self.unit),
            lambda n: (
                rules[n].rule.drops(self._values(corpus, rules[n])) & rules[n].covers(sources)
            ),
        )
        notes = language_notes(judged)
        return Verdicts(names, reason, value, figures=tuple(figures), notes=notes)

    def _values(self, corpus: "Corpus", one: Scoped) -> npt.NDArray[np.float32]:
        values = corpus.column("statistics", self.sidecar.index(one.rule.statistic))
        return values.astype(np.float32, copy=False)

    def _is_preset(self, one: Scoped) -> bool:
        """Say whether waiving its statistic takes a rule away."""
        return one.source is None and one.rule not in map(read_rule, self.drop)

    def edit(self, documents: Documents, verdicts: Verdicts, first: int) -> list[str] | None:
        """Return the lines that c4 leaves."""
        if "c4" not in self.preset:
            return None
        return [clean_lines(documents.texts.text(n)) for n in range(len(documents.texts))]


def _curve(one: Scoped, values: Any) -> Series:  # Any: an array of numbers
    """Return the fraction that other thresholds would drop: at the values' own quantiles."""
    places = np.unique(np.quantile(values, np.linspace(0, 1, 41)).astype(np.float32))
    rules = [one.rule._replace(threshold=float(place)) for place in places]
    dropped = [float(rule.drops(values).mean()) for rule in rules]
    return Series(name=one.name, x=[float(place) for place in places], y=dropped)


def _figure(kind: Any, title: str, x_label: str, series: list[Series]) -> Figure:  # Any: a literal
    return Figure(
        kind=kind, title=title, x_label=x_label, y_label="fraction dropped", series=series
    )
