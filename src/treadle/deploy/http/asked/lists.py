"""Parameters that are ignored or refused, and why."""

from typing import Any

__all__ = ["IGNORED", "NEUTRAL", "REFUSED"]

IGNORED = {
    "metadata": "Notes of the client; nothing is stored.",
    "store": "Nothing is stored.",
    "service_tier": "There is one tier.",
    "safety_identifier": "Nobody is told.",
    "prompt_cache_key": "Equal starts of texts share the cache anyway; see cache_salt.",
    "prompt_cache_retention": "The cache keeps what was used last.",
    "prompt_cache_options": "The cache keeps what was used last.",
}
"""Parameters that are accepted and change nothing, and why that is right."""
REFUSED = {
    "audio": "the models here write text only",
    "functions": "it gave way to tools",
    "function_call": "it gave way to tool_choice",
    "modalities": "the models here write text only",
    "prediction": "predicted outputs are not implemented",
    "verbosity": "no model here takes it; say so in the prompt",
    "web_search_options": "nothing here reaches the web",
    "suffix": "the models here were not trained to fill a gap",
    "dimensions": "a model's vectors have one length",
}
"""Parameters of OpenAI's interface that are refused, and why."""
NEUTRAL: dict[str, tuple[Any, ...]] = {  # Any: JSON values
    "background": (False,),
    "function_call": ("none", "auto"),
    "mcp_servers": ([],),
    "modalities": (["text"],),
    "n": (1,),
    "suffix": ("",),
    "verbosity": ("medium",),
}
"""Values of refused parameters that ask for what happens anyway; some clients always send them."""
