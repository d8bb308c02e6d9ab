"""The action glue: cluster a zoo, search each cluster's merge, and mix the clusters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.glue.account import account_for
from treadle.combine.merge.glue.base import Search
from treadle.combine.merge.glue.clusters import Cluster, clustered
from treadle.combine.merge.glue.found import ClusterChoice, found_in
from treadle.combine.merge.glue.items import Items, read_items
from treadle.combine.merge.glue.journal import TrialJournal
from treadle.combine.merge.glue.mixing import choose_mixture
from treadle.combine.merge.glue.opening import opened_zoo, require_apart
from treadle.combine.merge.glue.tables import SEARCHES
from treadle.combine.merge.glue.trials import Objective, Settled, Trials, require_askable
from treadle.combine.merge.glue.writing import written_bundle, written_model
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.tables import METHODS
from treadle.core.arguments import checked
from treadle.core.checkpoint.publish import prepare_target, remove
from treadle.core.errors import DataError, SettingsError
from treadle.core.registry import Choice
from treadle.core.result import Result
from treadle.core.run import is_control, recorded

__all__ = ["merge_glue"]


@checked
def merge_glue(
    models: list[str | Path],
    out: Path,
    *,
    data: list[str],
    test: list[str] | None = None,
    base: str | Path | None = None,
    by: Annotated[Search | str | Choice, SEARCHES] = "coefficient",
    how: Annotated[MergeMethod | str | Choice, METHODS] = "linear",
    same_ancestor: float = 0.95,
    objective: Objective = "nats",
    num_items: int = 64,
    mix: bool = True,
    max_experts: int = 8,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Make one model of a zoo: cluster, search each cluster's merge, mix what cannot be merged.

    Models of one architecture, vocabulary and likeness form a cluster. In each, weights are
    searched on the answers to `data`: candidates are merged as they are read, block by block, and
    never written. What makes a merge worse is dropped. Where clusters, or models that were dropped,
    are best at different sets, a router without training (ridge regression on n-grams) chooses one
    model for each prompt, and OUT is a bundle that `LLM(OUT)` answers with; otherwise OUT is a
    plain model. All that is claimed is measured on items that the search did not see. A killed
    search goes on from its journal.

    Args:
        models: Hugging Face folders, hub ids or packaged:smollm2; FOLDER+ADAPTER adds a LoRA.
        out: Folder to write.
        data: What is searched on: .jsonl files as treadle evaluate exact or choice reads them, or
            skills such as skills:json. Skills have a test split of their own; a file is halved.
        test: Files or skills to claim on, in place of those halves and splits.
        base: The model that the others were tuned from, where the merge method needs it.
        by: How weights are searched.
        how: How models are merged with those weights; a method with a weight for each model.
        same_ancestor: Cosine of all weights from which on models count as tuned from one base.
        objective: nats, the mean of -log p of the right answers; or probability, 1 - the mean of p,
            which bounds what a single set can cost.
        num_items: Most items of each set to search on, drawn by the seed.
        mix: Let a router choose among models that cannot be merged and are best at something;
            otherwise the best merge is written.
        max_experts: Most models of that mixture, all of which are in memory when it answers.
        dtype: Of the output: bfloat16, float16 or float32 (default: the widest of the inputs).
        seed: Of halves, of what is drawn in a search, and of intervals.
        overwrite: Replace an existing output folder once the new one is complete, and a journal of
            another search.

    Returns:
        The account of the run, as in the folder's result.json: the clusters, what was dropped, the
        weights, and dev and test scores of all with intervals.

    Raises:
        SettingsError: A setting is wrong, `out` exists, or the journal beside it is another
            search's.
        CheckpointError: No model can be read.
        DataError: Items are missing, damaged, or on both sides.
    """
    out = Path(out)
    search, method = SEARCHES.resolve(by), METHODS.resolve(how)
    base = None if base is None else str(base)
    _require_merge(method, base, models)
    _require_bounds(same_ancestor, num_items, max_experts)
    require_apart(out, [*models, *([base] if base else []), *data, *(test or ())])
    items = read_items(data, test, seed, num_items)
    prepare_target(out, overwrite)
    settled = Settled(method, base, dtype, objective, seed)
    settings: dict[str, Any] = {  # Any: JSON values
        **{"by": search.settings(), "how": method.settings(), "objective": objective},
        **{"same_ancestor": same_ancestor, "num_items": num_items, "mix": mix, "dtype": dtype},
        **{"max_experts": max_experts},
        **{"data": list(data), "test": None if test is None else list(test)},
    }
    opened = Models()
    try:
        with recorded(
            "merge", settings=settings, action="glue", seed=seed, out=out, overwrite=None
        ) as run:
            run.is_control |= is_control(search)
            zoo = opened_zoo(opened, models, base, run)
            for one in (*items.dev, *items.test):
                run.read(one.name, one.name, one.content_hash, "data")
            clusters = clustered(zoo, same_ancestor, run.notes)
            folder = _begun(out)
            journal = _journal(folder / "journal.jsonl", run.fingerprint, overwrite)
            try:
                if journal.num_read:
                    run.resumed(f"had made {journal.num_read} trials")
                job = _Job(opened, settled, search, items, journal)
                found = job.searched_all(clusters, run.notes)
            finally:
                journal.close()
                if not journal.num_trials:  # so that nothing stands in the way of another try
                    remove(folder)
            mixture = choose_mixture(found, items, settled, max_experts) if mix else None
            account_for(run, found, mixture, items)
            if mixture is None:
                written_model(run, min(found, key=lambda one: one.dev_score), folder, out)
            else:
                written_bundle(run, mixture, folder, out)
        return run.result
    finally:
        opened.close()


def _require_bounds(same_ancestor: float, num_items: int, max_experts: int) -> None:
    if not -1 <= same_ancestor <= 1:
        raise SettingsError(f"same_ancestor = {same_ancestor} is no cosine; give -1 to 1.")
    for name, value in (("num_items", num_items), ("max_experts", max_experts)):
        if value < 1:
            raise SettingsError(f"{name} = {value}; give at least 1.")


def _require_merge(method: MergeMethod, base: str | None, models: list[str | Path]) -> None:
    if len(models) < 2:
        raise SettingsError(f"Gluing takes two models or more, and {len(models)} was given.")
    if not _is_weighted(type(method)):
        having = [name for name in METHODS if _is_weighted(METHODS[name])]
        raise SettingsError(
            f"'{method.name}' does not merge any number of models with a weight for each and "
            f"nothing else, so there is nothing to search; choose one of {', '.join(having)}."
        )
    if "weight" in method.model_fields_set:
        raise SettingsError("weight is what is searched; leave it out of the merge method.")
    for name, value in method:
        if isinstance(value, tuple) and len(value) > 1:
            raise SettingsError(
                f"{name} has {len(value)} values, but a search drops models; give one for all."
            )
    if method.base == "required" and base is None:
        raise SettingsError(f"'{method.name}' needs the base of the models; name it with --base.")
    if method.base == "unused" and base is not None:
        raise SettingsError(f"'{method.name}' has no use for the base '{base}'; leave it out.")


def _is_weighted(method: type[MergeMethod]) -> bool:
    """Say whether a method can be searched: it merges any number of models, with a weight each."""
    return "weight" in method.model_fields and not method.needs and method.num_models[1] is None


def _begun(out: Path) -> Path:
    """Return the folder beside `out` in which a search keeps what it found."""
    folder = out.with_name(f".{out.name}.glue")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _journal(file: Path, search: str, overwrite: bool) -> TrialJournal:
    try:
        return TrialJournal(file, search)
    except SettingsError:
        if not overwrite:
            raise
    remove(file.parent)
    file.parent.mkdir(parents=True)
    return TrialJournal(file, search)


class _Job(NamedTuple):
    """One search, the same way in every cluster."""

    models: Models
    settled: Settled
    search: Search
    items: Items
    journal: TrialJournal

    def searched_all(self, clusters: Sequence[Cluster], notes: list[str]) -> list[ClusterChoice]:
        """Search every cluster that the items can be asked.

        Raises:
            DataError: No cluster can be asked them.
        """
        found, faults = [], []
        for cluster in clusters:
            try:
                require_askable(cluster, [*self.items.dev, *self.items.test])
            except DataError as error:
                faults.append(error)
                notes.append(f"Left out: {', '.join(cluster.names)} cannot be asked. {error}")
                continue
            found.append(self.searched(cluster, notes))
        if not found:
            raise faults[0]
        return found

    def searched(self, cluster: Cluster, notes: list[str]) -> ClusterChoice:
        """Return the best merge of a cluster, and what it and others score."""
        own = self.models.only([*cluster.models, *([cluster.base] if cluster.base else [])])
        is_mergeable = self.settled.base is None or cluster.base is not None
        settled = self.settled if is_mergeable else self.settled.without_base()
        trials = Trials(cluster, own, settled, self.items.dev, self.journal)
        if not is_mergeable and trials.num_models > 1:
            notes.append(
                f"{', '.join(trials.names)} have another ancestor than the base, so that "
                f"'{self.settled.method.name}' cannot merge them: the best of them stands."
            )
        chosen = trials.only(int(trials.singles.argmin()))
        if is_mergeable and trials.num_models > 1:
            chosen = self.search.search(trials)
        return found_in(trials, trials.rounded(chosen), is_mergeable, self.items)
