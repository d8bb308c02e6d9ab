"""What configs must agree on for weights of one name to mean the same, and what may differ."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from treadle.combine.merge.inputs.by_layer import (
    CYCLES,
    INDICES,
    LEADING,
    LISTS,
    PERIODS,
    SOURCES,
    TAPS,
    TRAILING,
    LayerOrigin,
    moved,
    overruled,
)
from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.towers import depth_keys
from treadle.combine.merge.recipe.extras import ALLOW_DIFFERENT
from treadle.core.errors import CheckpointError

__all__ = [
    "Difference",
    "differences",
    "kind_of",
    "require_agreement",
    "require_one_kind",
]

Config = Mapping[str, Any]  # Any: JSON values of config.json
Kind = Literal["computes", "bounds", "idle", "unknown"]

_IDLE = re.compile(
    r"_name_or_path|(torch_)?dtype|transformers(_version|\.js_config)|use_cache|return_dict"
    r"|output_(attentions|hidden_states|scores|router_logits|past)|architectures|auto_map|model_type"
    r"|(id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params)"
    r"|.*_token_(ids?|index)|.*_token_indices|vocab_size|.*_vocab_size|tokenizer_class"
    r"|(add_)?cross_attention|is_encoder_decoder|pruned_heads|gradient_checkpointing.*"
    r"|initializ.*|.*_init(_std|_value|_range|_strategy)?|init_.*|.*init_(std|range|scale|factor)"
    r"|.*drop(out|path)?(_rate|_prob|_p)?|.*_dropout(_.*)?|.*drop|.*_drop_rate|drop_.*|layer_?drop"
    r"|.*pdrop|.*layerdrop|.*jitter_noise|.*noise.*|.*aux_loss.*|.*_loss(_.*)?|.*z_loss.*|.*_coef"
    r"|pretraining_tp|_?attn_implementation.*|_experts_implementation.*|torchscript|use_bfloat16"
    r"|tie_.*|chunk_size_feed_forward|keys_to_ignore.*|prefix|unsloth.*|treadle.*|summary_.*"
    r"|(min|max)_(length|new_tokens)|temperature|top_[kp]|do_sample|num_beams.*|.*repetition_penalty"
    r"|repetition_penalty|no_repeat.*|.*mask_(time|feature).*|mask_(time|feature).*|apply_spec.*"
    r"|use_(mamba_)?kernels?.*|.*_kernels?_path|use_flash.*|_?(commit_hash|flash_attn.*)"
    r"|hidden_size|n_embd|d_model|d_ff|n_inner|ffn_dim|(moe_|.*expert_|.*mlp_)?intermediate_size"
    r"|ctc_.*|classifier.*|length_penalty|early_stopping|.*bad_words.*|forced_.*|suppress_.*"
)
"""What says nothing about an answer, or what is decided elsewhere: tokens, ties, classes, sizes."""
_BOUNDS = re.compile(
    r"(.*_)?max_.*position.*|n_positions|n_ctx|.*sliding_window(_size)?|model_max_length|seq_len.*"
    r"|max_seq.*|use_sliding_window|(original_)?max_position_embeddings|attention_window|.*max_len.*"
)
"""What bounds how far a model looks; inside the bound weights mean the same."""
_COMPUTES = re.compile(
    r".*(rope|rotary|theta|norm|eps|softcap|scal|multiplier|mup|alibi|bias|head|kv|conv|stat|expert"
    r"|rout|topk|moe|score|hidden|intermediate|dim|width|size|kernel|stride|group|attention|attn|qk"
    r"|residual|parallel|embed|patch|image|logit|activation|act_fn|_act|gate|gating|ffn|mlp|inner"
    r"|sparse|position|temporal|mrope|rank|lora|window|chunk|dilat|feature|channel|n_layer|depth"
    r"|layers|freq|beta|gamma|alpha|slope|mamba|ssm|time_step|dt_|d_model|d_ff|d_kv|causal|clip"
    r"|temperature_tuning|interleav|fraction|ratio|temp|offset|period|tokens_per|token_layout|pool"
    r"|merge|project|downsample|shuffle|aspect|tile|select|swiglu|limit|factor|bucket|relative"
    r"|interpol|pad(ding)?_mode|altup|laurel|per_layer|lru|memory|recur|hash|index|hybrid|layer).*"
    r"|n_inner|mscale.*|truncate|type|is_decoder|scoring.*|feed_forward.*|hc_.*|expand|n_embd"
    r"|n_head|d_.*|num_codebooks|.*jitter_eps"
)
"""What a model computes with."""
_BY_LAYER = LISTS | CYCLES | INDICES | TAPS | SOURCES | LEADING | TRAILING | PERIODS
_ROPE_KINDS = {"su": "longrope", "mrope": "default"}
"""What configs of before transformers 5 called kinds of rotary positions -> their names now."""
_ROPE_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "partial_rotary_factor": 1}
"""What transformers takes where rotary parameters leave it out."""
_SHOWN = 60


class Difference(NamedTuple):
    """A key of two configs with different values."""

    key: str
    """With the keys of the configs around it, dotted."""
    first: Any  # Any: JSON values
    other: Any  # Any: JSON values

    @property
    def kind(self) -> Kind:
        """What the key is about."""
        around, _, name = self.key.rpartition(".")
        return kind_of(name, around)

    def __str__(self) -> str:
        return f"{self.key} ({_shown(self.first)} and {_shown(self.other)})"


def kind_of(key: str, around: str = "") -> Kind:
    """Return what a key of config.json is about; `around` are those of the mappings around it."""
    if _IDLE.fullmatch(key):
        return "idle"
    if "rope" in around:  # also the length that a model was trained on stretches the angles
        return "computes"
    if _BOUNDS.fullmatch(key):
        return "bounds"
    return "computes" if _COMPUTES.fullmatch(key) else "unknown"


def differences(first: Config, other: Config, prefix: str = "") -> Iterator[Difference]:
    """Yield the keys whose values differ; those that speak by layer are compared by layer."""
    if "rope" in prefix:
        first, other = _rope_now(first), _rope_now(other)
    depths = {*depth_keys(first, "encoder"), *depth_keys(first, "decoder"), *depth_keys(first, "")}
    for key in dict.fromkeys([*first, *other]):
        ours, theirs = first.get(key), other.get(key)
        is_apart = key in depths or _is_by_layer(key, ours, theirs) or kind_of(key) == "idle"
        if ours == theirs or is_apart:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from differences(ours, theirs, f"{prefix}{key}.")
        else:
            yield Difference(f"{prefix}{key}", ours, theirs)


def _rope_now(rope: Config) -> Config:
    """Return rotary parameters in today's words: of `type` and `rope_type` the latter counts."""
    found = {key: value for key, value in rope.items() if value is not None}
    kind = found.pop("type", None)
    kind = found.get("rope_type", kind)
    if isinstance(kind, str):
        found["rope_type"] = _ROPE_KINDS.get(kind, kind)
    return {k: v for k, v in found.items() if k not in _ROPE_DEFAULTS or v != _ROPE_DEFAULTS[k]}


def _is_by_layer(key: str, *values: Any) -> bool:  # Any: JSON values
    """Whether a key speaks of single layers; many may also hold one value for all of them."""
    if key in LISTS and not any(isinstance(value, list | str) for value in values):
        return key in PERIODS
    return key in _BY_LAYER


def require_agreement(
    parent: Model,
    models: Sequence[Model],
    allowed: Sequence[str],
    spelling: Callable[[Config], Config | None],
) -> Iterator[str]:
    """Check that the models compute alike, and yield notes on what else differs.

    Args:
        parent: Whose config the output takes.
        models: All models of the merge.
        allowed: Keys that may differ.
        spelling: For what a config leaves to transformers' defaults; None where it is unknown.

    Raises:
        CheckpointError: They do not.
    """
    for model in models:
        pair = [spelling(one.config) for one in (parent, model)]
        types = {one.config.get("model_type") for one in (parent, model)}
        is_known = None not in pair and len(types) == 1
        ours, theirs = pair if is_known else (parent.config, model.config)
        assert ours is not None
        assert theirs is not None
        found = list(differences(ours, theirs))
        if not is_known:  # a key that one config leaves out may have its value by default
            left_out = [d for d in found if None in (d.first, d.other)]
            yield from _noted(parent, model, left_out)
            found = [d for d in found if d not in left_out]
        refused = [d for d in found if d.kind == "computes" and not _is_allowed(d.key, allowed)]
        if refused:
            raise _refusal(parent, model, refused)
        yield from _noted(parent, model, found)


def require_one_kind(
    config: Config, columns: Sequence[tuple[Model, Sequence[LayerOrigin]]], allowed: Sequence[str]
) -> None:
    """Check that the layers that become one layer are of one kind.

    Args:
        config: What speaks of their tower in the output's config.
        columns: The models of a tower, each with where every layer of the output comes from.
        allowed: Keys that may differ.

    Raises:
        CheckpointError: They are not.
    """
    (leader, origins), *others = columns
    said = moved({**origins[0].config, **config}, origins)
    for model, theirs in others:
        also = moved({**origins[0].config, **config}, theirs)
        keys = {*said[0], *also[0]} - {*said[1], *also[1]} - overruled(origins[0].config)
        found = [
            Difference(key, said[0].get(key, config.get(key)), also[0].get(key, config.get(key)))
            for key in sorted(keys)
            if not _is_allowed(key, allowed)
        ]
        if found := [one for one in found if one.first != one.other]:
            raise _refusal(leader, model, found)


def _refusal(first: Model, other: Model, found: Sequence[Difference]) -> CheckpointError:
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    keys = ", ".join(dict.fromkeys(d.key for d in found))
    return CheckpointError(
        f"The configs of '{first.ref}' and '{other.ref}' differ in what the models compute: "
        f"{', '.join(map(str, found[:3]))}{more}; merge models that compute alike. If you know "
        f"that the weights mean the same, allow it with --allow-different {keys} "
        f"({ALLOW_DIFFERENT} in a YAML recipe): the output takes the first of the two values."
    )


def _noted(first: Model, other: Model, found: Sequence[Difference]) -> Iterator[str]:
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        yield (
            f"The configs of '{first.ref}' and '{other.ref}' differ in "
            f"{', '.join(map(str, found[:5]))}{more}: the output has the first of the two values."
        )


def _is_allowed(key: str, allowed: Sequence[str]) -> bool:
    return any(key == one or f".{key}.".find(f".{one}.") >= 0 for one in allowed)


def _shown(value: Any) -> str:  # Any: JSON values
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
