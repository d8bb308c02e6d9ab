"""The page: result files to one HTML page; it knows figure kinds, never families."""

from treadle.page.writing import write_page

__all__ = ["write_page"]
