"""treadle: shrink, combine and serve any Hugging Face model on the machine you have."""

from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Callable[..., Any]:  # Any: each verb has its own signature
    """Return the verb called `name`, importing its family on first use."""
    if name.startswith("_"):
        raise AttributeError(name)
    from treadle.verbs import VERBS

    if name not in VERBS:
        raise AttributeError(f"module 'treadle' has no verb '{name}'; it has {', '.join(VERBS)}")
    return VERBS[name].function()


def __dir__() -> list[str]:
    from treadle.verbs import VERBS

    return [*globals(), *VERBS]
