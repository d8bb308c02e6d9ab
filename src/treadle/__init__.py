"""treadle: shrink, combine and serve any Hugging Face model on the machine you have."""

from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Callable[..., Any]:  # Any: each verb has its own signature
    """Return the verb (or "verb_action") called `name`, importing its family on first use."""
    if name.startswith("_"):
        raise AttributeError(name)
    from treadle.verbs import VERBS

    verb_name, _, action_name = name.partition("_")
    if verb_name in VERBS and (action := VERBS[verb_name].action(action_name)):
        return action.function()
    if name not in VERBS:
        raise AttributeError(f"module 'treadle' has no verb '{name}'; it has {', '.join(VERBS)}")
    return VERBS[name].function()


def __dir__() -> list[str]:
    from treadle.verbs import VERBS

    actions = (f"{verb.name}_{action.name}" for verb in VERBS.values() for action in verb.actions)
    return [*globals(), *VERBS, *actions]
