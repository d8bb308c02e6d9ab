"""The action evaluate: a router on questions that it was not made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from treadle.combine.route.judged.account import (
    account_for,
    account_for_baseline,
    account_for_costs,
)
from treadle.combine.route.judged.paraphrases import stability
from treadle.combine.route.judged.subsets import subsets_of
from treadle.combine.route.judged.tally import Routed
from treadle.combine.route.judged.turns import account_for_turns
from treadle.combine.route.judged.waiting import median_milliseconds
from treadle.combine.route.records import Doubles, ScoredQuestions
from treadle.combine.route.score_files import read_scores
from treadle.combine.route.tables import METHODS
from treadle.core.arguments import checked
from treadle.core.checkpoint.publish import require_apart
from treadle.core.errors import DataError, SettingsError
from treadle.core.method import Control
from treadle.core.registry import near
from treadle.core.result import Measurement, Result, digest, read_result
from treadle.core.run import recorded
from treadle.runtime.routed.queries import QueryRouter, load_router
from treadle.runtime.routed.queries.folder import router_hash
from treadle.runtime.routed.queries.record import RouterRecord
from treadle.runtime.routed.queries.scorers import CascadeScores

__all__ = ["route_evaluate"]


@checked
def route_evaluate(
    router: Path,
    test: Path,
    out: Path,
    *,
    train: Path | None = None,
    baseline: Path | None = None,
    without: list[str] | None = None,
    binarise: list[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Say what a router is worth on test questions, beside all that it has to be compared with.

    Those are the best single model (of training, and of the test itself), a model that is drawn,
    the best model of each task, and the best of each question; differences to the best single model
    are paired by question. Test questions that were trained on are counted, and every figure is
    told with and without them; so are tasks that were left out of training. A question without a
    score of every model that the router may choose is left out, and that is said.

    Args:
        router: Folder that treadle route made, or one of the folders below its steps/.
        test: Records as treadle route reads them; of a folder, all files but those named train.
        out: Folder for result.json.
        train: Further questions that count as trained on; the router knows its own.
        baseline: Result of another router on the same test, to compare with question by question.
        without: Models that the router may not choose, as if they were gone.
        binarise: Tasks in which every score above 0 counts as 1.
        seed: Of intervals.
        overwrite: Replace the result in `out`.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        CheckpointError: The router is missing or damaged.
        DataError: The test is missing or damaged, or no question has all scores.
        SettingsError: The router is of other models, `out` holds a result, or lies where something
            is read.
    """
    opened, gone = load_router(Path(router)), list(without or [])
    _require_known(gone, opened.models)
    scored = read_scores(test, "test")
    require_apart(Path(out), [router, test, *([] if train is None else [train])])
    whole = scored.table.binarised(binarise or [])
    kept = [name for name in opened.models if name not in gone]
    opened = _going_without(opened, kept)
    asked, holes = _asked(whole, kept, str(test))
    table = asked.of_models(kept)
    settings: dict[str, Any] = {"without": gone, "binarise": binarise}  # Any: JSON values
    settings["method"] = opened.record.method
    with recorded(
        "route", settings=settings, action="evaluate", seed=seed, out=out, overwrite=overwrite
    ) as run:
        method = opened.record.method
        run.is_control = method in METHODS and isinstance(METHODS[method].paper, Control)
        run.read("router", router, router_hash(router), "config")
        run.read("test", test, whole.content_hash, "data")
        seen = opened.questions
        if train is not None:
            other = read_scores(train, "train").table
            run.read("train", train, other.content_hash, "data")
            seen |= frozenset(other.keys)
        hashed = {"task": "route", "data_sha256": whole.content_hash}
        run.protocol = {**hashed, "hash": digest(hashed)[:16]}
        if baseline is not None:
            reference = read_result(baseline)
            run.read("baseline", baseline, reference.fingerprint, "baseline")
        expected = _decided(opened, kept, table)
        routed = Routed(table, expected.argmax(axis=1), _single(opened.record, kept))
        subsets, leaked = subsets_of(routed, seen, opened.record.tasks)
        account_for(run, subsets, leaked)
        if baseline is not None:
            account_for_baseline(run, routed.values.tolist(), reference, str(baseline))
        if isinstance(opened.scorer, CascadeScores):
            account_for_turns(run, routed, opened.scorer, opened.models)
        else:
            account_for_costs(run, routed, expected, opened.record)
            run.measurements.append(_stable(opened, kept, routed))
        run.measurements.append(median_milliseconds(opened, table.questions))
        run.samples["score"] = routed.values.tolist()
        run.notes += scored.notes + holes + _left_out(whole, opened.models, gone)
    return run.result


def _expected(router: QueryRouter, kept: Sequence[str], texts: Sequence[str]) -> Doubles:
    """Return what the router says of the models that it may choose [texts, models]."""
    places = [router.models.index(name) for name in kept]
    return router.scores(texts)[:, places].astype(np.float64)


def _decided(router: QueryRouter, kept: Sequence[str], test: ScoredQuestions) -> Doubles:
    """Return what decides who answers the test, where it says how sure the models were."""
    places = [router.models.index(name) for name in kept]
    sure = None
    if test.confidence is not None:
        sure = np.full((len(test.ids), len(router.models)), -1.0)  # who is gone is never sure
        sure[:, places] = test.confidence
    return router.decide(test.questions, sure)[:, places].astype(np.float64)


def _single(record: RouterRecord, kept: Sequence[str]) -> int | None:
    """Return the model that is best on the training questions, of those that are there."""
    if record.worth is None:
        return kept.index(record.best_single) if record.best_single in kept else None
    worth = record.worth
    return max(range(len(kept)), key=lambda place: worth[kept[place]])


def _going_without(router: QueryRouter, kept: Sequence[str]) -> QueryRouter:
    """Return the router, whose cascade ends with the last model that is there.

    Raises:
        SettingsError: The cascade has none left.
    """
    if not isinstance(router.scorer, CascadeScores):
        return router
    scorer = router.scorer.among([router.models.index(name) for name in kept])
    if not scorer.turns:
        asked = ", ".join(router.models[place] for place in router.scorer.turns)
        raise SettingsError(
            f"The cascade asks {asked}, and would have no model left; leave one of them in."
        )
    return router._replace(scorer=scorer)


def _require_known(gone: Sequence[str], models: Sequence[str]) -> None:
    for name in gone:
        if name not in models:
            raise SettingsError(
                f"The router knows no model '{name}' to go without. {near(name, list(models))}"
            )
    if len(set(gone)) >= len(models):
        raise SettingsError("The router would have no model left; leave some in.")


def _asked(
    table: ScoredQuestions, kept: Sequence[str], test: str
) -> tuple[ScoredQuestions, list[str]]:
    """Return the questions that every model which may be chosen has a score for, and a note."""
    lost = [name for name in kept if name not in table.models]
    if len(lost) == len(kept):
        raise SettingsError(
            f"The router is of other models ({', '.join(kept[:4])}) than '{test}' has scores of "
            f"({', '.join(table.models[:4])}); evaluate it on questions that its models were asked."
        )
    if lost:
        raise SettingsError(
            f"'{test}' has no scores of '{lost[0]}', which the router may choose; add them, or go "
            f"without it: --without {' '.join(lost)}."
        )
    scores = table.of_models(kept).scores
    whole = [int(n) for n in np.flatnonzero(np.isfinite(scores).all(axis=1))]
    if not whole:
        raise DataError(
            f"No question of '{test}' has a score of each of {', '.join(kept)}, so what the router "
            f"gets is not known; ask all models, or go --without some."
        )
    if len(whole) == len(scores):
        return table, []
    return table.rows(whole), [
        f"{len(scores) - len(whole)} of {len(scores)} test questions lack a score of a model that "
        f"may be chosen, and were left out."
    ]


def _left_out(table: ScoredQuestions, models: Sequence[str], gone: Sequence[str]) -> list[str]:
    other = [name for name in table.models if name not in models]
    notes = [f"Not choosable, as the router was not made of them: {', '.join(other)}."]
    found = notes if other else []
    return [*found, f"The router had to go without {', '.join(gone)}."] if gone else found


def _stable(router: QueryRouter, kept: Sequence[str], routed: Routed) -> Measurement:
    def choose(texts: Sequence[str]) -> list[int]:
        return [int(one) for one in _expected(router, kept, texts).argmax(axis=1)]

    shares = stability(routed.table.questions, routed.choice.tolist(), choose)
    told = ", ".join(f"{name} {value:.3f}" for name, value in shares.items())
    return Measurement(
        name="stability",
        value=float(np.mean(list(shares.values()))),
        better="higher",
        note=f"share of paraphrases that go to the same model: {told}",
    )
