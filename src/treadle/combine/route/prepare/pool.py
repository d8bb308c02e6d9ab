"""The members of a pool by their names: models on this machine, and endpoints."""

from collections.abc import Sequence
from pathlib import Path

from treadle.combine.route.prepare.base import Member
from treadle.combine.route.prepare.local import LocalModel
from treadle.combine.route.prepare.remote import Patience, RemoteModel
from treadle.core.errors import SettingsError

__all__ = ["opened_pool"]


def opened_pool(
    pool: Sequence[str],
    patience: Patience,
    concurrency: int,
    timeout_seconds: float,
    trust_remote_code: bool,
) -> list[Member]:
    """Return the members; all are looked for before one is asked.

    Args:
        pool: MODEL, NAME=MODEL or NAME=http://HOST:PORT/MODEL.
        patience: With endpoints.
        concurrency: Questions that an endpoint is asked at once.
        timeout_seconds: Longest silence of an endpoint.
        trust_remote_code: Run code that a checkpoint brings along.

    Raises:
        SettingsError: A name stands twice, or an entry is none.
        CheckpointError: There is no model of that name.
    """
    from treadle.model.load import resolve

    places: dict[str, str] = {}
    for entry in pool:
        name, place = _named(entry)
        if name in places:
            raise SettingsError(
                f"Two members of the pool are called '{name}'; give one another name with "
                f"NAME=MODEL."
            )
        places[name] = place
    return [
        RemoteModel(name, place, patience, concurrency, timeout_seconds)
        if _is_endpoint(place)
        else LocalModel(name, resolve(place, takes_files=True), trust_remote_code)
        for name, place in places.items()
    ]


def _named(entry: str) -> tuple[str, str]:
    name, sign, place = entry.partition("=")
    if sign and name and place and not Path(entry).exists():
        return name, place
    if _is_endpoint(entry):
        raise SettingsError(
            f"Found the endpoint '{entry}' without a name; write NAME={entry} with the name that "
            f"routers shall know it by."
        )
    return Path(entry).name or entry, entry


def _is_endpoint(place: str) -> bool:
    return place.startswith(("http://", "https://"))
