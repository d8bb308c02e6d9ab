"""How answers and searches are asked for, checked."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from inspect import signature
from typing import Any

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.runtime.decode.base import Controller
from treadle.runtime.decode.tables import CONTROLLERS
from treadle.runtime.engine import Engine
from treadle.runtime.request import SamplingParams
from treadle.runtime.typed import require

__all__ = ["AskedSearch", "check_options"]

_OPTIONS = [
    p.name for p in signature(Engine.submit).parameters.values() if p.kind is p.KEYWORD_ONLY
]
Extract = Callable[[str], str | None]


class AskedSearch:
    """How a search is asked for, checked.

    Args:
        controller: Its name, its settings, or itself.
        max_tokens: Of a branch behind the prompt; None for what the controller says.
        seed: Of its draws.
        ignore_eos: Whether tokens that end a text are like any others.
        scorer: See `LLM.search`.
        extract: See `LLM.search`.
    """

    def __init__(
        self,
        controller: Controller | str | Mapping[str, Any],  # Any: a method's settings
        max_tokens: int | None,
        seed: int | None,
        ignore_eos: bool,
        scorer: object = None,
        extract: Extract | None = None,
    ) -> None:
        if not isinstance(controller, Controller):  # one of the caller's own stands in no table
            controller = CONTROLLERS.resolve(controller)
        self.controller = controller
        most = self.controller.num_tokens if max_tokens is None else max_tokens
        self.params = SamplingParams(
            temperature=0, max_tokens=most, seed=seed, ignore_eos=ignore_eos
        )
        expected = "a callable on text, which returns what it comes to"
        require(extract is None or callable(extract), "extract", extract, expected)
        self.scorer, self.extract = scorer, extract
        unused = controller.unused(scorer is not None, extract is not None)
        if unused is not None:
            raise SettingsError(
                f"{unused} has no effect with the controller '{controller.name}'; leave it out, or "
                f"choose a controller that asks for it (best_of, tree_of_thoughts without ask; "
                f"self_consistency for extract)."
            )

    @classmethod
    def beams(cls, params: SamplingParams) -> "AskedSearch":
        """Return what `beam_width` asks for."""
        found = cls({"method": "beam", "width": params.beam_width}, None, None, False)
        found.params = replace(params, n=1, beam_width=None)
        return found


def check_options(options: Mapping[str, object]) -> None:
    """Refuse what `submit` does not know, and say where sampling parameters go.

    Raises:
        SettingsError: There is such a thing.
    """
    names = [item.name for item in fields(SamplingParams)]
    for name in options:
        if name in names:
            raise SettingsError(
                f"{name} is a sampling parameter; give it inside of SamplingParams({name}=...)."
            )
        if name not in _OPTIONS:
            raise SettingsError(f"No option '{name}' of a request. {near(name, _OPTIONS)}")
