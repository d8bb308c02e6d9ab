"""The page itself: what the template shows, and the file."""

import contextlib
import os
from pathlib import Path

from treadle.core.errors import SettingsError
from treadle.page.content import content
from treadle.page.sources import Run, find

__all__ = ["write_page"]

_TEMPLATE = "report.html.jinja"


def write_page(results: list[Path], out: Path, title: str) -> Path:
    """Draw one self-contained HTML page from result files.

    The page needs no script and no network, follows the reader's light or dark theme, and equal
    results give equal bytes. It is written beside and renamed into place.

    Args:
        results: Result files, or folders that hold them at any depth (hidden folders are skipped).
        out: Page to write; its folder is made where it is missing.
        title: Heading of the page.

    Returns:
        The path of the page.

    Raises:
        DataError: There is no result, or a file is not one.
        CheckpointError: A folder's treadle.json is damaged.
        SettingsError: `out` cannot be written.
        ModuleNotFoundError: The extra `report` (jinja2, matplotlib) is not installed.

    """
    out = Path(out)
    if out.is_dir():
        raise SettingsError(
            f"'{out}' is a folder; name the page to write, such as '{out / 'report.html'}'."
        )
    text = _render(find(list(results)), title)
    _replace(out, text)
    return out


def _render(runs: list[Run], title: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(title=title, page=content(runs))


def _replace(out: Path, text: str) -> None:
    beside = out.parent / f".{out.name}.{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, out)
    except OSError as error:
        _forget(beside)
        raise SettingsError(
            f"The page cannot be written to '{out}' ({error.strerror}); give --out a file in a "
            f"folder that you may write to."
        ) from error


def _forget(file: Path) -> None:
    with contextlib.suppress(OSError):  # its folder may be missing, or a file
        file.unlink()
