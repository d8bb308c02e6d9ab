"""Fetching a model from the hub, where the network allows it."""

from pathlib import Path

from treadle.core.errors import CheckpointError

__all__ = ["downloaded"]


def downloaded(name: str) -> Path:
    """Return the folder into which the hub's client fetched the model `name`.

    Raises:
        CheckpointError: It could not.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
            )
        )
    except Exception as error:  # the hub client raises many unrelated types
        raise CheckpointError(
            f"'{name}' is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}); "
            f"download it where the network allows and give its folder."
        ) from error
