"""What is told of answers through several caches: scores, differences, curves, a table."""

from collections.abc import Sequence
from typing import NamedTuple

from treadle.core.intervals import bootstrap_mean, wilson
from treadle.core.result import Column, Comparison, Entry, Figure, Measurement, Series, Table
from treadle.judge.evaluate.budgets import FULL, Recalled, Samples
from treadle.judge.evaluate.paired import mcnemar, share

__all__ = [
    "Posing",
    "curve_figures",
    "differences",
    "judged_table",
    "kept_figures",
    "measured",
    "samples_of",
]

_NATS = "nats/token"


class Posing(NamedTuple):
    """What is known of a question."""

    mode: str
    """hidden or shown."""
    kind: str
    answer: str
    num_answers: int
    """Of its kind, alike likely before the text was read."""

    def is_right(self, text: str) -> bool:
        """Whether a text is the answer, but for blanks around it."""
        return text.strip() == self.answer


class _Group(NamedTuple):
    """Questions that make one score."""

    mode: str
    kind: str
    """Empty of all kinds together."""
    places: list[int]

    @property
    def name(self) -> str:
        return f"{self.mode}_{self.kind}" if self.kind else self.mode


def _groups(known: Sequence[Posing]) -> list[_Group]:
    """Return the questions of each mode, and of each kind in it."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(known):
        places.setdefault((one.mode, ""), []).append(place)
        places.setdefault((one.mode, one.kind), []).append(place)
    kinds = {one.kind for one in known}
    return [_Group(*key, own) for key, own in places.items() if key[1] == "" or len(kinds) > 1]


def _right(known: Sequence[Posing], one: Recalled) -> list[float]:
    return [float(asked.is_right(text)) for asked, text in zip(known, one.texts, strict=True)]


def _picked(values: Sequence[float], group: _Group) -> list[float]:
    return [values[place] for place in group.places]


def samples_of(known: Sequence[Posing], one: Recalled) -> Samples:
    """Return right answers and losses of each question, by how it was asked."""
    right, found = _right(known, one), {}
    for group in _groups(known):
        if not group.kind:
            found[f"accuracy_{group.name}"] = _picked(right, group)
            found[f"nll_{group.name}"] = _picked(one.losses, group)
    return found


def measured(
    known: Sequence[Posing],
    one: Recalled,
    prefix: str = "",
    suffix: str = "",
    kinds: bool = True,
) -> list[Measurement]:
    """Return the scores of one cache, the bytes that it kept, and what a guess would reach."""
    right, found = _right(known, one), []
    for group in _groups(known):
        if group.kind and not kinds:
            continue
        own, losses = _picked(right, group), _picked(one.losses, group)
        named = share(f"{prefix}accuracy_{group.name}{suffix}", own)
        low, high = _interval(losses, 0)
        found += [
            named.model_copy(update={"note": f"through the cache {one.cache.label}"}),
            Measurement(
                name=f"{prefix}nll_{group.name}{suffix}",
                value=_mean(losses),
                unit=_NATS,
                low=low,
                high=high,
                better="lower",
            ),
        ]
        if not prefix and not suffix:
            guess = _mean([1 / known[place].num_answers for place in group.places])
            line = f"accuracy_guess_{group.name}"
            found.append(Measurement(name=line, value=guess, note="expected of a random guess"))
    note = "counted: entries of all layers and heads when the question begins"
    name = f"{prefix}kept_bytes{suffix}"
    found.append(Measurement(name=name, value=one.num_bytes, unit="bytes", note=note))
    note = "measured: whole pages that one prompt held at most, while it was read and answered"
    name = f"{prefix}peak_bytes{suffix}"
    found.append(Measurement(name=name, value=one.peak_bytes, unit="bytes", note=note))
    return found


def differences(
    known: Sequence[Posing], one: Recalled, full: Recalled, seed: int
) -> list[Measurement]:
    """Return what a cache costs beside the full one, in pairs of questions."""
    mine, theirs, found = _right(known, one), _right(known, full), []
    for group in _groups(known):
        after, before = _picked(mine, group), _picked(theirs, group)
        for score, values, better, note in (
            ("accuracy", _less(after, before), "higher", f"p = {mcnemar(after, before):.3g}"),
            ("nll", _loss_differences(group, one, full), "lower", "paired bootstrap"),
        ):
            low, high = _interval(values, seed)
            found.append(
                Measurement(
                    name=f"{score}_{group.name}_beside_full",
                    value=_mean(values),
                    unit=_NATS if score == "nll" else "",
                    low=low,
                    high=high,
                    better=better,
                    comparison=Comparison(
                        score=f"{score}_{group.name}", neutral=0.0, baseline="model"
                    ),
                    note=f"to the full cache in this run; {note}",
                )
            )
    return found


def curve_figures(known: Sequence[Posing], found: Sequence[Recalled]) -> list[Figure]:
    """Return quality against bytes, one line a policy that ends in the full cache."""
    figures = []
    for group in _groups(known):
        if group.kind:
            continue
        for score, label in (("accuracy", "share of right answers"), ("nll", _NATS)):
            figures.append(
                Figure(
                    kind="line",
                    title=f"Recall against bytes, question {group.mode}: {score}",
                    x_label="bytes of kept entries (counted)",
                    y_label=label,
                    series=_lines(known, found, group, score),
                )
            )
    return figures


def _lines(
    known: Sequence[Posing], found: Sequence[Recalled], group: _Group, score: str
) -> list[Series]:
    full, *others = found
    names = list(dict.fromkeys(one.cache.name for one in others)) or [FULL]
    lines = []
    for name in names:
        own = [one for one in others if one.cache.name == name]
        points = sorted((*own, full), key=lambda one: one.num_bytes)
        every = [_right(known, p) if score == "accuracy" else p.losses for p in points]
        values = [_picked(row, group) for row in every]
        ends = [wilson(row) if score == "accuracy" else _interval(row, 0) for row in values]
        lines.append(
            Series(
                name=name,
                x=[point.num_bytes for point in points],
                y=[_mean(row) for row in values],
                low=[low for low, _ in ends],
                high=[high for _, high in ends],
            )
        )
    return lines


def kept_figures(others: Sequence[Recalled]) -> list[Figure]:
    """Return what each layer and head kept, of each policy at its smallest budget."""
    smallest: dict[str, Recalled] = {}
    for one in others:
        known = smallest.setdefault(one.cache.name, one)
        smallest[one.cache.name] = min(known, one, key=lambda each: each.num_bytes)
    return [
        Figure(
            kind="heatmap",
            title=f"Kept entries by layer and head: {one.cache.label}",
            x_label="KV head",
            y_label="layer",
            series=[
                Series(name=f"layer {layer}", x=[f"head {h}" for h in range(len(heads))], y=heads)
                for layer, heads in enumerate(one.kept)
            ],
        )
        for one in smallest.values()
    ]


def judged_table(known: Sequence[Posing], found: Sequence[Recalled], seed: int) -> Table:
    """Return one row for each cache, mode and kind, with what it costs beside the full cache."""
    full, rows, losses = found[0], [], []
    for one in found:
        right = _right(known, one)
        for group in _groups(known):
            accuracy, nll = _picked(right, group), _picked(one.losses, group)
            low, high = wilson(accuracy)
            beside = _loss_differences(group, one, full)
            least, most = _interval(beside, seed)
            first, last = _interval(nll, 0)
            difference = Entry(value=_mean(beside), low=least, high=most)
            rows.append(
                [
                    Entry(value=one.cache.label),
                    Entry(value=group.mode),
                    Entry(value=group.kind or "all"),
                    Entry(value=_mean(accuracy), low=low, high=high),
                    Entry(value=_mean(nll), low=first, high=last),
                    Entry() if one is full else difference,
                    Entry(value=one.num_bytes),
                    Entry(value=one.peak_bytes),
                ]
            )
            if one is not full and least > 0:
                losses.append(f"{one.cache.label}, {group.mode}, {group.kind or 'all'}")
    return Table(
        title="Recall through each cache",
        columns=[
            Column(name="cache"),
            Column(name="question"),
            Column(name="kind"),
            Column(name="accuracy", better="higher"),
            Column(name="nll", unit=_NATS, better="lower"),
            Column(name="nll beside full", unit=_NATS, better="lower", neutral=0.0),
            Column(name="kept (counted)", unit="bytes", better="lower"),
            Column(name="peak (measured)", unit="bytes", better="lower"),
        ],
        rows=rows,
        notes=[
            "Accuracy has Wilson's interval, losses a bootstrap over questions, in pairs beside "
            "the full cache. Kept bytes are counted, entries when the question begins; the peak is "
            "measured, whole pages of one prompt while it is read and answered, in which entries "
            "are until their chunk has ended."
        ],
        losses=losses,
    )


def _loss_differences(group: _Group, one: Recalled, full: Recalled) -> list[float]:
    return _less(_picked(one.losses, group), _picked(full.losses, group))


def _less(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(mine, theirs, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    return bootstrap_mean(values, seed)
