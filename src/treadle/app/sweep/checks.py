"""What can be known of a sweep before it runs, and of its scores as soon as cells have run."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from treadle.app.sweep.bound import bound
from treadle.app.sweep.document import Document
from treadle.app.sweep.points import Point
from treadle.app.sweep.scores import Chain, known_scores
from treadle.core.errors import DataError, SettingsError, TreadleError
from treadle.core.registry import near
from treadle.recipe import Step

__all__ = ["ScoreWatch", "require_inputs"]

_JOINED = " + "
_ENDINGS = (".txt", ".jsonl", ".json", ".gguf", ".csv", ".parquet", ".zst", ".gz", ".safetensors")


def require_inputs(document: Document) -> None:
    """Refuse what no cell can run with: inputs that do not exist, or settings that a verb refuses.

    Raises:
        SettingsError: There is such an input or setting, or the sweep's folder lies in an input.
    """
    seen: set[str] = set()
    for point in document.points:
        made = {*document.prepared, *(step.out for step in point.steps)}
        for step in [*document.prepare_steps, *point.steps]:
            for source in _sources(step, point.artefacts, made):
                if source not in seen:
                    seen.add(source)
                    _require_source(document, step, source)
    for point in document.points:
        for step in point.steps:
            _require_accepted(point, step)


def _sources(step: Step, artefacts: Mapping[str, str], made: set[str]) -> Iterator[str]:
    """Return where a step's inputs lie, apart from what other steps make."""
    parameters = step.verb.parameters()
    for key, value in step.settings.items():
        if key not in parameters or not step.may_name(key):
            continue
        for one in value if isinstance(value, list) else [value]:
            name = str(one)
            if isinstance(one, str | Path) and name not in made and name in artefacts:
                yield from artefacts[name].split(_JOINED)
            elif isinstance(one, str | Path) and name not in made and _is_path(name):
                yield from name.split(_JOINED)


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or PurePath(text).suffix in _ENDINGS


def _require_source(document: Document, step: Step, source: str) -> None:
    path, out = Path(source), document.out.resolve()
    if path.is_dir() and out.is_relative_to(path.resolve()):
        raise SettingsError(
            f"The sweep's folder '{document.out}' lies in '{source}', which is read: it would "
            f"change with every run. Give a folder elsewhere."
        )
    # "org/name" may be a hub's, "stdlib:heldout" is treadle's own.
    if ":" in source or path.exists() or (source.count("/") == 1 and not _is_path(source)):
        return
    raise SettingsError(
        f"Step {step.number} ({step.command}) reads '{source}', which does not exist; mend the "
        f"path."
    )


def _require_accepted(point: Point, step: Step) -> None:
    """Ask a verb whether it takes a step's settings, where it can say so without its inputs."""
    check = _CHECKS.get(step.command)
    try:
        if check is not None:
            check(bound(step), step)
    except TreadleError as error:
        raise SettingsError(f"Cell '{point.label}': {error}") from error


def _check_prune(settings: Mapping[str, Any], step: Step) -> None:  # Any: values of any setting
    from treadle.shrink.prune.apply import request_of

    given = {key: settings[key] for key in ("pattern", "sparsity", "text", "bos", "calibrate")}
    numbers = {key: settings[key] for key in ("num_windows", "window_tokens", "seed")}
    chosen = step.verb.bind(step.settings)
    request_of(
        step.settings["method"],
        **given,
        **numbers,
        update=chosen.get("update"),
        allocation=chosen.get("allocation"),
        keep_zeros=settings["keep_zeros"],
        allow_nonuniform=settings["allow_nonuniform"],
    )


_CHECKS = {"prune": _check_prune}


class ScoreWatch:
    """Which scores that are asked for no cell has measured yet."""

    def __init__(self, document: Document) -> None:
        self._points = document.points
        self._missing = list(document.scores)
        self._known: dict[str, None] = {}
        self._ways: set[tuple[str, str]] = set()

    @property
    def is_settled(self) -> bool:
        """Whether every score was measured."""
        return not self._missing

    def saw(self, point: Point, chain: Chain) -> None:
        """Note what a cell measured.

        Raises:
            DataError: A score is missing though each method of its step has run; the message
                suggests the near one.
        """
        self._known |= dict.fromkeys(known_scores(chain))
        self._missing = [name for name in self._missing if name not in self._known]
        self._ways |= {_way(point, name) for name in self._missing}
        for name in self._missing:
            if all(_way(point, name) in self._ways for point in self._points):
                raise DataError(f"No cell measures the score '{name}'. {near(name, self._known)}")


def _way(point: Point, name: str) -> tuple[str, str]:
    """Return the step that would measure a score, and its method."""
    outs = {step.out: step for step in point.steps}
    step = outs.get(name.partition(".")[0], point.steps[-1])
    return step.out, str((step.settings.get("method") or {}).get("method", ""))
