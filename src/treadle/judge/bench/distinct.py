"""Lists in which nothing may stand twice."""

__all__ = ["distinct"]


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of which none stands twice.

    Raises:
        ValueError: One does.
    """
    again = next((one for place, one in enumerate(values) if one in values[:place]), None)
    if again is not None:
        raise ValueError(f"'{again}' is given twice; give each once")
    return values
