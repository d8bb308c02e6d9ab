"""The progress of a sweep as a page that loads itself again and is written anew meanwhile."""

import datetime
import html
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from treadle.app.sweep.jobs import CellJob
from treadle.app.sweep.writing import replace
from treadle.core.errors import CapacityError

__all__ = ["Board"]

_REFRESH_SECONDS = 3
_FILE = "progress.html"
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{refresh}<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }}
progress {{ width: 100%; height: 1.2rem; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ text-align: left; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }}
.failed {{ color: #c0392b; }}
</style>
</head>
<body>
<h1>{title}</h1>
"""

_SILENCE_SECONDS = 120
"""A sweep that runs writes twice a minute."""
_NEWS = """<p class="failed" id="news" role="status"></p>
<script>
function tell() {{
  const silent = Date.now() / 1000 - {written:.0f};
  document.getElementById("news").textContent = silent < {silence} ? "" :
    "No news for " + Math.floor(silent / 60) + " minutes: the sweep may have been killed; " +
    "run the same command again, and it goes on.";
}}
tell();
setInterval(tell, 5000);
</script>
"""

logger = logging.getLogger(__name__)


class Board:
    """What is done, what runs and what waits, on a page."""

    def __init__(self, title: str, out: Path, num_workers: int, jobs: Sequence[CellJob]) -> None:
        self._title, self._file, self._num_workers = title, out / _FILE, num_workers
        self._states = {job.folder: (job.label, "waits", "") for job in jobs}
        self._seconds: list[float] = []
        self._num_waiting = len(jobs)
        self._is_broken = False

    @property
    def seconds(self) -> float:
        """Seconds of all jobs that ended."""
        return sum(self._seconds)

    def there(self, job: CellJob) -> None:
        """Note that a job's results were there already."""
        self._states[job.folder] = (job.label, "there already", "")
        self._num_waiting -= 1

    def began(self, job: CellJob) -> None:
        """Note that a job runs."""
        self._states[job.folder] = (job.label, "runs", f"since {_now()}")
        self.write()

    def ended(self, job: CellJob, error: str, seconds: float) -> None:
        """Note that a job ended."""
        state = ("failed", error) if error else ("done", f"{seconds:.1f} s")
        self._states[job.folder] = (job.label, *state)
        self._seconds.append(seconds)
        self._num_waiting -= 1
        self.write()

    def write(self, end: str = "", links: Iterable[str] = ()) -> None:
        """Write the page; with `end` it says how the sweep ended, and loads itself no more."""
        try:
            replace(self._file, self._text(end, links))
        except CapacityError as error:
            if not self._is_broken:
                logger.warning("The page of the progress is not current: %s", error)
            self._is_broken = True

    def _text(self, end: str, links: Iterable[str]) -> str:
        refresh = "" if end else f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">\n'
        num_done = len(self._states) - self._num_waiting
        title = html.escape(self._title)
        said = f"{end} " if end else ""
        said += f"{num_done} of {len(self._states)} jobs{self._left()}."
        written = f"Last written at {time.strftime('%Y-%m-%d %H:%M:%S %Z')}."
        linked = "".join(f'<p><a href="{link}">{link}</a></p>\n' for link in links)
        order = {"failed": 0, "runs": 1, "done": 2, "there already": 3, "waits": 4}
        states = sorted(self._states.values(), key=lambda state: order[state[1]])
        rows = "\n".join(
            f'<tr class="{state.split()[0]}"><td>{html.escape(label)}</td><td>{state}</td>'
            f"<td>{html.escape(detail)}</td></tr>"
            for label, state, detail in states
        )
        return (
            _HEAD.format(refresh=refresh, title=title)
            + f'<progress max="{len(self._states)}" value="{num_done}"></progress>\n'
            + f"<p>{html.escape(said)} <strong>{written}</strong></p>\n{linked}"
            + ("" if end else _NEWS.format(written=time.time(), silence=_SILENCE_SECONDS))
            + "<table>\n<tr><th>Cell</th><th>State</th><th></th></tr>\n"
            + f"{rows}\n</table>\n</body>\n</html>\n"
        )

    def _left(self) -> str:
        """Return how long the rest takes if its jobs are like those that ended."""
        if not self._seconds or not self._num_waiting:
            return ""
        mean = self.seconds / len(self._seconds)
        left = datetime.timedelta(seconds=round(mean * self._num_waiting / self._num_workers))
        return f", about {left} left"


def _now() -> str:
    return time.strftime("%H:%M:%S")
