"""`treadle run`: a recipe from the command line, and its report."""

from collections.abc import Iterator
from pathlib import Path

from treadle.recipe import load_recipe, run_recipe

__all__ = ["run"]


def run(
    recipe: Path, *, out: Path | None = None, dry_run: bool = False, fresh: bool = False
) -> Iterator[str]:
    """Run the steps of a recipe and draw the report of all their results.

    A step whose result already exists (same settings, same inputs) is skipped, so the same command
    goes on where an interrupted one stopped.

    Args:
        recipe: YAML file.
        out: Folder for all artefacts (default: the recipe's own `out`).
        dry_run: Print the plan and do nothing.
        fresh: Run every step, whatever results exist.

    Returns:
        What was done, a line for each step.
    """
    yield from run_recipe(recipe, out=out, dry_run=dry_run, fresh=fresh)
    if not dry_run:
        from treadle.page import write_page

        checked = load_recipe(recipe, out)
        page = write_page([checked.out], checked.out / "report.html", checked.name)
        yield f"report: {page}"
