"""Writing what was found: one plain model, or a bundle of several and their router."""

import os
from pathlib import Path

import numpy as np
import yaml

from treadle.combine.merge.account import RECIPE_FILE
from treadle.combine.merge.apply import merge_yaml
from treadle.combine.merge.glue.found import ClusterChoice, ScoredMerge
from treadle.combine.merge.glue.mixing import Mixture
from treadle.combine.merge.glue.trials import Trials, recipe_of
from treadle.core.checkpoint import model_card, side_file
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import publish, remove, write_text
from treadle.core.checkpoint.routed import (
    EXPERTS,
    ROUTER_FILE,
    ROUTING_FILE,
    Routing,
    bundle_config,
    bundle_hash,
)
from treadle.core.errors import CapacityError
from treadle.core.result import RESULT_FILE
from treadle.core.run import Recording

__all__ = ["JOURNAL_FILE", "written_bundle", "written_model"]

JOURNAL_FILE = "journal.jsonl"


def written_model(run: Recording, found: ClusterChoice, folder: Path, out: Path) -> None:
    """Merge a cluster's choice and make it `out`, with its recipe and the journal."""
    made = folder / "model"
    _merged(found.trials, found.chosen, made, str(out))
    (made / JOURNAL_FILE).unlink(missing_ok=True)
    os.link(folder / JOURNAL_FILE, made / JOURNAL_FILE)
    kinds = {"result": RESULT_FILE, "recipe": RECIPE_FILE, "journal": JOURNAL_FILE}
    _completed(run, made, kinds, None)
    publish(made, out)
    remove(folder)


def written_bundle(run: Recording, mixture: Mixture, folder: Path, out: Path) -> None:
    """Merge every cluster's choice, and make them and their router `out`."""
    from safetensors.numpy import save

    made = folder / "bundle"
    (made / EXPERTS).mkdir(parents=True, exist_ok=True)
    names = [one.name for one in mixture.experts]
    for one in mixture.experts:
        _merged(one.part.trials, one.merge, made / EXPERTS / one.name, str(out))
    write_text(made / "config.json", bundle_config(names))
    routing = Routing(experts=tuple(names), features=mixture.router.features)
    write_text(made / ROUTING_FILE, routing.model_dump_json(indent=2) + "\n")
    parts = {"weight": mixture.router.weight, "bias": mixture.router.bias}
    # The file has the bytes as they lie in memory, whatever the order of the axes.
    tensors = {name: np.ascontiguousarray(array) for name, array in parts.items()}
    (made / ROUTER_FILE).write_bytes(save(tensors, metadata={"format": "np"}))
    (made / JOURNAL_FILE).unlink(missing_ok=True)
    os.link(folder / JOURNAL_FILE, made / JOURNAL_FILE)
    kinds = {"result": RESULT_FILE, "routing": ROUTING_FILE, "router": ROUTER_FILE}
    _completed(run, made, {**kinds, "journal": JOURNAL_FILE}, bundle_hash(made))
    publish(made, out)
    remove(folder)


def _merged(trials: Trials, merge: ScoredMerge, out: Path, shown: str) -> None:
    """Write a merge by its recipe, unless an interrupted run has."""
    recipe = yaml.safe_dump(
        recipe_of(trials.cluster, merge.weights, trials.settled), sort_keys=False
    )
    file = out.with_name(f".{out.name}.yml")
    file.unlink(missing_ok=True)  # of a run that was killed
    if (out / RESULT_FILE).is_file() and (out / RECIPE_FILE).read_text() == recipe:
        return
    file.write_text(recipe)
    try:
        merge_yaml(file, out, seed=trials.settled.seed, overwrite=True)
    except CapacityError as error:  # users know their own output, not where it grows
        raise CapacityError(str(error).replace(str(out), shown)) from error
    file.unlink()


def _completed(run: Recording, folder: Path, kinds: dict[str, str], digest: str | None) -> None:
    """Put the run's account, manifest and card in place of the merge's own."""
    from treadle.core.checkpoint import content_hash

    run.finish(folder)
    manifest = run.manifest([side_file(kind, path) for kind, path in kinds.items()])
    found = manifest.completed(digest or content_hash(folder))
    (folder / MANIFEST_FILE).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    card = model_card(run.out.name if run.out else folder.name, manifest.provenance)
    (folder / "README.md").write_text(card, encoding="utf-8")
