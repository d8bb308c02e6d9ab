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
        raise AttributeError(_unknown(name))
    if (table := VERBS[name].methods()) is not None:
        table.actions = {one.name: _in_python(name, one.name) for one in VERBS[name].actions}
    return VERBS[name].function()


def _unknown(name: str) -> str:
    """Return what to say of a name that is no verb's."""
    from treadle.verbs import VERBS

    actions = {
        _in_python(verb.name, one.name): one.name for verb in VERBS.values() for one in verb.actions
    }
    spelt = name.replace("-", "_")
    meant = [key for key, one in actions.items() if one.replace("-", "_") == spelt]
    hint = f"the action of that name is {' or '.join(meant)}; " if meant else ""
    return (
        f"module 'treadle' has no verb '{name}'; {hint}it has the verbs {', '.join(VERBS)} and the "
        f"actions {', '.join(actions)}"
    )


def _in_python(verb: str, action: str) -> str:
    """Return what an action is called in Python, where names have no hyphens."""
    return f"{verb}_{action}".replace("-", "_")


def __dir__() -> list[str]:
    from treadle.verbs import VERBS

    actions = (
        _in_python(verb.name, action.name) for verb in VERBS.values() for action in verb.actions
    )
    return [*globals(), *VERBS, *actions]
