"""Headers that say who chose the model of an answer, and whom it was asked of before."""

from collections.abc import Mapping
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ASKED", "ROUTED", "Told", "tell"]

ROUTED, ASKED = "x-treadle-routed", "x-treadle-asked"
_SCOPE = "treadle.told"
_SHOWN = " !#$&'()*+,-./:;<=>?@[]^_`{|}~\""
"""Of ASCII what stands in a header as it is."""


class Told:
    """Adds to the headers of answers what was told of them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        told: dict[str, str] = {}
        scope[_SCOPE] = told

        async def answer(message: Message) -> None:
            if told and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        await self._app(scope, receive, answer)


def tell(request: Request, headers: Mapping[str, str]) -> None:
    """Add headers to the answer of a request; what is not ASCII is written as in addresses."""
    request.scope[_SCOPE].update({name: quote(text, _SHOWN) for name, text in headers.items()})
