"""`treadle report`: result files to one HTML page."""

from pathlib import Path

__all__ = ["report"]


def report(
    results: list[Path], *, out: Path = Path("report.html"), title: str = "treadle report"
) -> str:
    """Draw one self-contained HTML page from result files.

    Args:
        results: Result files, or folders that hold them at any depth.
        out: Page to write.
        title: Heading of the page.

    Returns:
        The path of the page.
    """
    from treadle.page import write_page

    return str(write_page(results, out, title))
