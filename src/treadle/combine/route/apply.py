"""The driver of routing: read scores, make vectors, learn, keep the best step, write the router."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.combine.route.account import account_for
from treadle.combine.route.base import RouteData, RouteMethod
from treadle.combine.route.maths.directions import Space, spanned
from treadle.combine.route.objective import Rates
from treadle.combine.route.score_files import Scored, read_scores
from treadle.combine.route.split import Sides, at_most, split, without_tasks
from treadle.combine.route.tables import METHODS
from treadle.combine.route.training import DevQuestions, RouteTraining, trained
from treadle.combine.route.writing import RouterWriter, prepare_router
from treadle.core.arguments import checked
from treadle.core.errors import SettingsError
from treadle.core.result import Result
from treadle.core.run import Recording, recorded
from treadle.model.embed.specs import Features, embedder_of, features_named
from treadle.runtime.routed.queries.record import RouterRecord

__all__ = ["route"]


@checked
def route(
    data: Path,
    out: Path,
    method: RouteMethod | str,
    *,
    encoder: str = "ngrams",
    directions: int = 256,
    dev: Path | None = None,
    dev_fraction: float = 0.1,
    cost_rate: float = 0.0,
    latency_rate: float = 0.0,
    leave_out: list[str] | None = None,
    binarise: list[str] | None = None,
    per_task: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Make a router of scored questions: which of several models answers a query.

    OUT is a small folder that `treadle serve --router` and `treadle route evaluate` read: the
    scorer's numbers, and what it was made of. Methods that train score themselves on the
    development questions as they go; the best step stays, and all others lie below OUT/steps. A
    model that has no score for a question is left out there, pair by pair.

    Args:
        data: Records {"question", "scores": {model: 0..1}, "task"?, "cluster_id"?, "cost"?,
            "latency"?} in JSON, JSONL or Parquet; a RouterBench table (.csv); or a folder of such
            files, named after their tasks, of which those named train are read.
        out: Folder to write.
        method: How it is learned who answers what.
        encoder: What reads a query: ngrams, static:FOLDER, states:MODEL or encoder:FOLDER.
        directions: Longer vectors are projected to so many directions of the training questions.
        dev: Development questions, in place of a share of the data.
        dev_fraction: Share of the data (0..1) that is held out to compare steps on, by a hash of
            the question and the seed, before anything else is done.
        cost_rate: Worth of an answer = score - cost_rate * cost - latency_rate * latency.
        latency_rate: The same, for a second.
        leave_out: Tasks to train on nothing of.
        binarise: Tasks in which every score above 0 counts as 1.
        per_task: Most questions of each task, drawn by the seed.
        seed: Of the split, and of what is drawn in training.
        overwrite: Replace an existing router.
        method_settings: Settings of the method as keywords, such as k=50, where the method is given
            by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong, or `out` exists or holds what is read.
        DataError: The records are missing, damaged, or hold nothing to compare.
        CheckpointError: The encoder cannot be read.
    """
    chosen, rates = METHODS.resolve(method), Rates(cost_rate, latency_rate)
    _require_bounds(directions, dev_fraction, per_task)
    _require_effect(chosen, rates)
    features, out = features_named(encoder), Path(out)
    settings: dict[str, Any] = {  # Any: JSON values
        **chosen.settings(),
        **{"encoder": encoder, "directions": directions, "dev_fraction": dev_fraction},
        **{"cost_rate": cost_rate, "latency_rate": latency_rate, "per_task": per_task},
        **{"leave_out": leave_out, "binarise": binarise},
    }
    with recorded("route", chosen, settings, seed=seed, out=out, overwrite=None) as run:
        prepare_router(out, overwrite, [data, *([] if dev is None else [dev])])
        scored = _read(data, leave_out, binarise, per_task, seed)
        sides, notes = _sides(scored, dev, dev_fraction, binarise, seed)
        run.read("data", data, scored.table.content_hash, "data")
        if dev is not None:
            run.read("dev", dev, sides.dev.content_hash, "data")
        run.notes += notes
        with RouterWriter(out) as writer:
            job = _Job(chosen, rates, sides, seed)
            record, learned = job.run(features, directions, run, writer)
            account_for(run, sides, rates, learned, record)
            writer.complete(run)
    return run.result


class _Job(NamedTuple):
    method: RouteMethod
    rates: Rates
    sides: Sides
    seed: int

    def run(
        self, features: Features, directions: int, run: Recording, writer: RouterWriter
    ) -> tuple[RouterRecord, RouteTraining]:
        """Learn, write every step and the best one, and return what it says of itself."""
        train, dev = self.sides
        space = self._space(features, directions, run) if self.method.reads_vectors else None
        data = RouteData(
            _vectors(space, train.questions),
            self.rates.worth(train),
            train.scores,
            train.cost,
            train.tasks,
            train.clusters,
            train.confidence,
            tuple(train.keys),
        )
        record = writer.record(self.method, self.sides, data.worth, features, space)
        learned = trained(
            self.method,
            data,
            DevQuestions(
                _vectors(space, dev.questions),
                self.rates.worth(dev),
                dev.questions,
                dev.confidence,
            ),
            train.questions,
            self.seed,
            writer.step,
        )
        writer.best(learned.best.scorer)
        run.notes += learned.notes
        return record, learned

    def _space(self, features: Features, directions: int, run: Recording) -> Space:
        embedder = embedder_of(features)
        run.notes.append(f"Queries are read by {embedder.computed_by}.")
        return spanned(embedder, self.sides.train.questions, directions, self.seed)


def _vectors(space: Space | None, questions: list[str]) -> np.ndarray:
    if space is None:
        return np.zeros((len(questions), 0), np.float32)
    return space.vectors(questions)


def _read(
    data: Path,
    leave_out: list[str] | None,
    binarise: list[str] | None,
    per_task: int | None,
    seed: int,
) -> Scored:
    found = read_scores(data, "train")
    table = without_tasks(found.table.binarised(binarise or []), leave_out or [])
    return Scored(at_most(table, per_task, seed), found.notes)


def _sides(
    scored: Scored, dev: Path | None, dev_fraction: float, binarise: list[str] | None, seed: int
) -> tuple[Sides, list[str]]:
    """Return training and development questions, and notes on them."""
    if dev is None:
        found = split(scored.table, dev_fraction, seed)
        few = [] if found.dev.ids or not dev_fraction else ["Too few questions to hold some out."]
        return found, [*scored.notes, *few]
    table, more = read_scores(dev, "train")
    lost = [name for name in scored.table.models if name not in table.models]
    if lost:
        raise SettingsError(
            f"'{dev}' has no scores of '{lost[0]}', which the training questions have; give "
            f"development questions that the same models were asked."
        )
    table = table.of_models(scored.table.models)
    table = table.binarised([one for one in binarise or [] if one in (table.tasks or ())])
    seen = set(scored.table.keys)
    kept = [place for place, key in enumerate(table.keys) if key not in seen]
    notes = [*scored.notes, *more]
    if len(kept) < len(table.ids):
        notes.append(
            f"{len(table.ids) - len(kept)} development questions are training questions, too, and "
            f"were left out of the former."
        )
    return Sides(scored.table, table.rows(kept)), notes


def _require_bounds(directions: int, dev_fraction: float, per_task: int | None) -> None:
    if directions < 1:
        raise SettingsError(f"directions = {directions}; give at least 1.")
    if not 0 <= dev_fraction < 1:
        raise SettingsError(f"dev_fraction = {dev_fraction:g}; give 0 or more, and less than 1.")
    if per_task is not None and per_task < 1:
        raise SettingsError(f"per_task = {per_task}; give at least 1.")


def _require_effect(method: RouteMethod, rates: Rates) -> None:
    if method.weighs_rates:
        return
    for name, rate in rates._asdict().items():
        if rate != 0:
            raise SettingsError(
                f"{name} = {rate:g} has no effect on {method.name}, which has settings of its own "
                f"for what answers cost (max_cost); leave {name} out."
            )
