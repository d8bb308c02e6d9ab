"""What vectors are made of, as JSON; and what makes them."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.method import first_mistake
from treadle.core.ports import Embedder
from treadle.core.registry import near

__all__ = [
    "EncoderFeatures",
    "Features",
    "StateFeatures",
    "StaticFeatures",
    "embedder_of",
    "features_named",
]


class _Folder(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    """Of the model; it does not travel with the features."""
    hash: str = ""
    """Of what it held when the features were chosen; empty: nobody looked yet."""


class StaticFeatures(_Folder):
    """The mean of fixed vectors of tokens."""

    kind: Literal["static"] = "static"


class StateFeatures(_Folder):
    """The mean of a causal language model's hidden states behind a block, each at length 1."""

    kind: Literal["states"] = "states"
    layer: Annotated[int, Field(ge=0)] | None = None
    """Blocks that the states have run through; 0 are the embeddings (default: half of them)."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """The last ones of a longer text are read."""


class EncoderFeatures(_Folder):
    """The states of an encoder: of its first token, or their mean."""

    kind: Literal["encoder"] = "encoder"
    pooling: Literal["mean", "first"] = "mean"
    max_tokens: Annotated[int, Field(ge=4)] = 512
    """The last ones of a longer text are read."""


Features = Annotated[
    NgramFeatures | StaticFeatures | StateFeatures | EncoderFeatures, Field(discriminator="kind")
]
"""Of what vectors are made."""
_KINDS: dict[str, type[NgramFeatures | StaticFeatures | StateFeatures | EncoderFeatures]] = {
    "ngrams": NgramFeatures,
    "static": StaticFeatures,
    "states": StateFeatures,
    "encoder": EncoderFeatures,
}
_FORMS = ["ngrams", "static:FOLDER", "states:MODEL", "encoder:FOLDER"]


def features_named(name: str) -> Features:
    """Return the features that a text names: ngrams, static:FOLDER, states:MODEL, encoder:FOLDER.

    Settings stand behind a question mark, as in states:MODEL?layer=8.

    Raises:
        SettingsError: It names none, or a setting is refused.
    """
    place, _, query = name.partition("?")
    kind, _, folder = place.partition(":")
    if kind not in _KINDS or (kind == "ngrams") == bool(folder):
        raise SettingsError(f"'{name}' names no encoder of texts. {near(place, _FORMS)}")
    given = dict(parse_qsl(query, keep_blank_values=True))
    try:
        return _KINDS[kind].model_validate(given | ({"folder": folder} if folder else {}))
    except ValidationError as error:
        found = first_mistake(error)
        raise SettingsError(
            f"encoder '{name}': {found.setting} = {found.value!r} is refused: {found.expected}; "
            f"change it."
        ) from error


def embedder_of(features: Features) -> Embedder:
    """Return what makes vectors of texts.

    Raises:
        CheckpointError: The model is missing, or is not the one that the features were chosen with.
    """
    found = _opened(features)
    if not isinstance(features, NgramFeatures) and features.hash not in ("", found.hash):
        raise CheckpointError(
            f"'{features.folder}' is not the model that the vectors were made with (its hash is "
            f"{found.hash[:12]}, and {features.hash[:12]} was expected); put that one there again, "
            f"or train the router anew."
        )
    return found


def _opened(features: Features) -> Embedder:
    if isinstance(features, NgramFeatures):
        from treadle.model.embed.ngrams import NgramEmbedder

        return NgramEmbedder(features)
    if isinstance(features, StaticFeatures):
        from treadle.model.embed.static import StaticEmbedder

        return StaticEmbedder(Path(features.folder))
    if isinstance(features, EncoderFeatures):
        from treadle.model.embed.encoder import EncoderEmbedder

        return EncoderEmbedder(Path(features.folder), features.pooling, features.max_tokens)
    from treadle.model.embed.states import StateEmbedder
    from treadle.model.load import resolve

    return StateEmbedder(resolve(features.folder), features.layer, features.max_tokens)
