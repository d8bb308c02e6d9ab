"""Errors as OpenAI's clients know them: a status, and an object that says what to mend."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from treadle.core.errors import (
    CapacityError,
    CheckpointError,
    DataError,
    SettingsError,
    TreadleError,
)

__all__ = ["ApiError", "from_treadle"]


class ApiError(Exception):
    """What is wrong with a request, or why it cannot be answered now."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the object that OpenAI's clients read."""
        error = {
            "message": self.message,
            "type": _kind(self.status),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def to_anthropic(self) -> dict[str, Any]:  # Any: JSON values
        """Return the object that Anthropic's clients read."""
        kind = _ANTHROPIC.get(self.status, "api_error" if self.status >= 500 else _WRONG)
        # By these words agents know that they must shorten the conversation.
        words = "prompt is too long: " if self.code == "context_length_exceeded" else ""
        error = {"type": kind, "message": words + self.message}
        return {"type": "error", "error": {**error, "details": {"error_code": self.code}}}

    def response(self, path: str) -> JSONResponse:
        """Return it as an HTTP response, in the words of the interface that has `path`."""
        is_anthropic = path.startswith("/v1/messages")
        found = self.to_anthropic() if is_anthropic else self.to_dict()
        return JSONResponse(found, self.status, self.headers)


_WRONG = "invalid_request_error"
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _kind(status: int) -> str:
    kinds = {
        401: "authentication_error",
        404: "not_found_error",
        429: "rate_limit_error",
        503: "service_unavailable_error",
    }
    return kinds.get(status, "server_error" if status >= 500 else _WRONG)


def from_treadle(error: TreadleError) -> ApiError:
    """Return an error of the runtime as one of the interface; a model's own is the server's."""
    if isinstance(error, CheckpointError):
        return ApiError(500, str(error), "engine_error")
    codes = (
        (CapacityError, "capacity_exceeded"),
        (DataError, "invalid_input"),
        (SettingsError, "invalid_value"),
    )
    code = next((code for kind, code in codes if isinstance(error, kind)), "unsupported")
    return ApiError(400, str(error), code)
