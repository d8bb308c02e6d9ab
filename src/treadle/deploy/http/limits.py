"""What a server takes at most."""

from dataclasses import dataclass

from treadle.core.errors import SettingsError

__all__ = ["ServerLimits"]


@dataclass(frozen=True)
class ServerLimits:
    """The bounds of a server, checked."""

    max_requests: int = 256
    """Answers that run or wait; more are refused with 429."""
    max_body_bytes: int = 4 << 20
    timeout_seconds: float = 600.0
    """Of an answer, waiting included."""
    body_seconds: float = 30.0
    """In which a body must come."""
    drain_seconds: float = 60.0
    """Time that running requests have to end after SIGTERM."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("max_requests", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"Found {name}={getattr(self, name)}; give at least 1.")
        for name in ("timeout_seconds", "body_seconds", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"Found {name}={getattr(self, name)}; give more than 0.")
