"""Learning step by step, with every step scored where it has not learned."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.route.base import Learned, RouteData, RouteMethod
from treadle.combine.route.objective import chosen, num_unasked
from treadle.combine.route.records import Doubles
from treadle.runtime.routed.queries.program import RouteScorer

__all__ = ["DevQuestions", "RouteStep", "RouteTraining", "trained"]


class DevQuestions(NamedTuple):
    """Questions on which a router is looked at, and their texts."""

    vectors: npt.NDArray[np.float32]
    worth: Doubles
    texts: list[str]
    confidence: Doubles | None = None


class RouteStep(NamedTuple):
    """What a router was worth on its way."""

    step: int
    loss: float | None
    train: float
    dev: float | None
    """None where no questions were held out."""


class RouteTraining(NamedTuple):
    """All steps, and the best."""

    best: Learned
    steps: list[RouteStep]
    dev_values: Doubles
    """[questions] of the best on the development questions."""
    train_values: Doubles
    notes: list[str]


def trained(
    method: RouteMethod,
    data: RouteData,
    dev: DevQuestions,
    texts: list[str],
    seed: int,
    save: Callable[[int, RouteScorer], None],
) -> RouteTraining:
    """Learn, and return the step that is worth most where the method compares them.

    Args:
        method: How.
        data: Training questions.
        dev: Development questions; may be none.
        texts: Of the training questions.
        seed: Of what is drawn.
        save: Is given every step of a method that takes steps.
    """
    on_dev = method.chooses_on() == "dev" and len(dev.worth) > 0
    own = DevQuestions(data.vectors, data.worth, texts, data.confidence)
    best: tuple[float, Learned, Doubles, Doubles] | None = None
    steps, notes = [], []
    for learned in method.learn(data, seed):
        scorer = learned.scorer
        mine = _worth(scorer, own)
        theirs = _worth(scorer, dev)
        train_score = float(mine.mean())
        dev_score = float(theirs.mean()) if len(theirs) else None
        steps.append(RouteStep(learned.step, learned.loss, train_score, dev_score))
        if learned.step:
            save(learned.step, scorer)
        if learned.note and learned.note not in notes:
            notes.append(learned.note)
        value = dev_score if on_dev and dev_score is not None else train_score
        if best is None or value > best[0]:
            best = (value, learned, theirs, mine)
    assert best is not None, f"{method.name} yields a router"
    if len(steps) > 1:
        where = "development" if on_dev else "training"
        notes.append(f"Step {best[1].step} stays, the best on the {where} questions.")
    notes += _unasked(best[1].scorer, own, "training") + _unasked(best[1].scorer, dev, "dev")
    return RouteTraining(best[1], steps, best[2], best[3], notes)


def _worth(scorer: RouteScorer, held: DevQuestions) -> Doubles:
    """Return what those are worth who answer."""
    return chosen(_decided(scorer, held), held.worth)


def _unasked(scorer: RouteScorer, held: DevQuestions, which: str) -> list[str]:
    """Return a note where the router would choose models whose answers nobody has scored."""
    count = num_unasked(_decided(scorer, held), held.worth)
    if not count:
        return []
    return [
        f"{count} of {len(held.worth)} {which} questions would go to a model that has no score "
        f"there; the {which} score counts the best choice among those that have one."
    ]


def _decided(scorer: RouteScorer, held: DevQuestions) -> Doubles:
    return scorer.decide(held.texts, held.vectors, held.confidence).astype(np.float64)
