"""The settings of a GGUF file, by kind; no setting that counts is passed over."""

import math
from collections.abc import Callable
from typing import Any

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.gguf.file import GgufFile

__all__ = ["CONVERT_AGAIN", "GgufSettings", "optional_setting", "require_setting"]

CONVERT_AGAIN = "convert the model again with llama.cpp's convert_hf_to_gguf.py"
_MOST = 2**31 - 1
"""The largest count: llama.cpp holds them in 32 bits."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a whole number": _is_count,
    "a positive whole number": lambda value: _is_count(value) and value > 0,
    "a finite number": _is_number,
    "a positive number": lambda value: _is_number(value) and value > 0,
    "a list of texts": lambda value: (
        isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ),
    "a list of numbers": lambda value: isinstance(value, list) and all(map(_is_number, value)),
}
"""What a setting may have to be, in the words of messages."""
_IDLE = (
    *("vocab_size", "rope.scaling.finetuned", "attention.layer_norm_epsilon"),
    # Of embeddings alone, whose caller says how they are pooled.
    *("pooling_type", "tensor_data_layout"),
)
"""Settings of an architecture that change no number here, nor in llama.cpp's graph of these."""
_NEUTRAL: dict[str, tuple[float | str | bool, ...]] = {
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale"), (0, 1)),
    **dict.fromkeys(("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"), (1,)),
    **dict.fromkeys(("rope.scaling.yarn_ext_factor", "rope.scale_linear"), (1,)),
    "expert_gating_func": (0, 1),  # softmax
    "expert_weights_scale": (0, 1),
    **dict.fromkeys(("expert_count", "expert_used_count", "expert_shared_count"), (0,)),
    **dict.fromkeys(("leading_dense_block_count", "nextn_predict_layers"), (0,)),
    **dict.fromkeys(("attention.clamp_kqv", "attention.max_alibi_bias"), (0,)),
    **dict.fromkeys(("attention.scale", "rope.scaling.alpha"), (0,)),
    **dict.fromkeys(("rope.scaling.yarn_log_multiplier", "attention.sliding_window"), (0,)),
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), (0,)),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
}
"""Settings that are refused unless they have a value that says "nothing of the kind"."""


def require_setting(file: GgufFile, key: str, kind: str) -> Any:
    """Return a setting of a file, which is of a kind such as "a whole number".

    Raises:
        CheckpointError: It is not there, or of another kind.
    """
    found = optional_setting(file, key, kind)
    if found is None:
        raise CheckpointError(f"'{file.path}' lacks the setting {key}; {CONVERT_AGAIN}.")
    return found


def optional_setting(file: GgufFile, key: str, kind: str) -> Any:
    """Return a setting of a file, or None where it is not there.

    Raises:
        CheckpointError: It is of another kind.
    """
    found = file.settings.get(key)
    if found is not None and not _KINDS[kind](found):
        raise CheckpointError(
            f"'{file.path}' says {key}: {_shown(found)}, but {kind} was expected; {CONVERT_AGAIN}."
        )
    return found


class GgufSettings:
    """The settings of a file's architecture; it knows which ones were asked for.

    Attributes:
        file: The file.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self._prefix = f"{require_setting(file, 'general.architecture', 'a text')}."
        self._asked: set[str] = set()

    def optional(self, key: str, kind: str) -> Any:
        """Return a setting, or None."""
        self._asked.add(key)
        return optional_setting(self.file, self._prefix + key, kind)

    def value(self, key: str, kind: str, default: Any = None) -> Any:
        """Return a setting, or `default` unless that is None."""
        found = self.optional(key, kind)
        if found is not None:
            return found
        return require_setting(self.file, self._prefix + key, kind) if default is None else default

    def number(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number, the same one for all layers."""
        whole = self.file.settings.get(self._prefix + key)
        if not isinstance(whole, list) or not whole:
            return int(self.value(key, "a positive whole number", default))
        listed = self.value(key, "a list of numbers")
        if len(set(listed)) != 1:
            raise UnsupportedModelError(
                f"'{self.file.path}' has a {key} for each layer ({listed[:4]}...), and one for "
                f"all is read; give the Hugging Face folder of the model."
            )
        if not _KINDS["a positive whole number"](listed[0]):
            raise CheckpointError(
                f"'{self.file.path}' says {key}: {listed[0]} for every layer, but a positive whole "
                f"number was expected; {CONVERT_AGAIN}."
            )
        return int(listed[0])

    def pattern(self, key: str, default: int) -> int | list[Any]:
        """Return every how many layers something comes, or a list that says it of each layer."""
        whole = self.file.settings.get(self._prefix + key)
        if not isinstance(whole, list):
            return int(self.value(key, "a positive whole number", default))
        self._asked.add(key)
        return whole

    def require_all_known(self) -> None:
        """Require that each setting was asked for, changes nothing or says that nothing is there.

        Raises:
            UnsupportedModelError: One says something that is not computed with.
        """
        for name, value in self.file.settings.items():
            key = name.removeprefix(self._prefix)
            if key == name or key in self._asked or key in _IDLE:
                continue
            if key not in _NEUTRAL or not any(value == none for none in _NEUTRAL[key]):
                raise UnsupportedModelError(
                    f"'{self.file.path}' says {name}: {_shown(value)}, which is not computed with; "
                    f"give the Hugging Face folder of the model."
                )


def _shown(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    said = repr(value[:4] if isinstance(value, list) else value)
    return f"{said[:60]}..." if len(said) > 60 or (isinstance(value, list) and value[4:]) else said
