"""A router's folder in the making: steps first, the best last, then its name."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from treadle.combine.route.base import RouteMethod
from treadle.combine.route.maths.averages import means
from treadle.combine.route.maths.directions import Space
from treadle.combine.route.objective import mean_by_model
from treadle.combine.route.records import Doubles
from treadle.combine.route.split import Sides
from treadle.core.checkpoint import side_file
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import (
    publish,
    remove,
    require_apart,
    require_replaceable,
    write_text,
)
from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.result import RESULT_FILE, digest
from treadle.core.run import Recording
from treadle.model.embed.specs import Features
from treadle.runtime.routed.queries.folder import (
    DIRECTIONS_FILE,
    NUMBERS_FILE,
    RECORD_FILE,
    router_hash,
    save_router,
)
from treadle.runtime.routed.queries.program import RouteScorer
from treadle.runtime.routed.queries.query import QueryRouter
from treadle.runtime.routed.queries.record import RouterRecord, TrainedOn
from treadle.runtime.routed.queries.scorers import ConstantScores

__all__ = ["STEPS", "RouterWriter", "prepare_router"]

STEPS = "steps"


def prepare_router(out: Path, overwrite: bool, sources: Sequence[Path]) -> None:
    """Check that `out` may be written, and that nothing that is read would go with it.

    Raises:
        SettingsError: It exists and may not, or cannot sensibly, be replaced.
    """
    if out.exists():  # a router may lie in the folder of its records
        require_apart(out, [one for one in sources if one.resolve() not in out.resolve().parents])
    is_ours = out.is_dir() and not out.is_symlink()
    is_ours = is_ours and ((out / RECORD_FILE).is_file() or not any(out.iterdir()))
    require_replaceable(out, overwrite, is_ours, f"router (a folder with {RECORD_FILE})")


class RouterWriter:
    """Writes beside `out`, and renames into place what is complete; an error leaves nothing."""

    def __init__(self, out: Path) -> None:
        self._out, self._folder = out, out.with_name(f".{out.name}.route")
        self._router: QueryRouter | None = None

    def __enter__(self) -> Self:
        remove(self._folder)  # of a run that was killed
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        remove(self._folder)

    def record(
        self,
        method: RouteMethod,
        sides: Sides,
        worth: Doubles,
        features: Features,
        space: Space | None,
    ) -> RouterRecord:
        """Note, and return, what the router says of itself."""
        train, dev = sides
        if space is not None and not isinstance(features, NgramFeatures):
            update = {"hash": space.embedder.hash, "folder": _from_anywhere(features.folder)}
            features = features.model_copy(update=update)
        record = RouterRecord(
            method=method.name,
            settings=method.settings(),
            models=train.models,
            features=features,
            scorer={},
            best_single=train.models[int(means(worth).argmax())],
            worth=mean_by_model(worth, train.models),
            cost=mean_by_model(train.cost, train.models),
            latency=mean_by_model(train.latency, train.models),
            trained_on=TrainedOn(
                questions=len(train.ids) + len(dev.ids),
                hash=digest([train.content_hash, dev.content_hash]),
            ),
            tasks=tuple(sorted({*(train.tasks or ()), *(dev.tasks or ())})),
        )
        embedder = None if space is None else space.embedder
        projection = None if space is None else space.projection
        blank = ConstantScores(means(worth).astype(np.float32))
        self._router = QueryRouter(record, blank, embedder, projection, sides.seen)
        return record

    def step(self, step: int, scorer: RouteScorer) -> None:
        """Write a step of the training as a router of its own."""
        self._write(self._folder / STEPS / f"{step:06d}", scorer)

    def best(self, scorer: RouteScorer) -> None:
        """Write the router."""
        self._write(self._folder, scorer)

    def complete(self, run: Recording) -> None:
        """Put the account beside the router, and make it `out`."""
        run.finish(self._folder)
        kinds = {
            RECORD_FILE: "query-router",
            NUMBERS_FILE: "router",
            DIRECTIONS_FILE: "router",
            RESULT_FILE: "result",
            STEPS: "router-steps",
        }
        there = {path: kind for path, kind in kinds.items() if (self._folder / path).exists()}
        manifest = run.manifest([side_file(kind, path) for path, kind in there.items()])
        found = manifest.completed(router_hash(self._folder))
        write_text(self._folder / MANIFEST_FILE, found.model_dump_json(indent=2) + "\n")
        publish(self._folder, self._out)

    def _write(self, folder: Path, scorer: RouteScorer) -> None:
        assert self._router is not None, "a router says first what it is"
        save_router(self._router._replace(scorer=scorer), folder, self._folder)


def _from_anywhere(model: str) -> str:
    """Return a model's folder as it is found from every directory; other names stay."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.exists() else model
