"""The driver: load models, serve them until a signal comes."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.arguments import checked
from treadle.core.errors import SettingsError
from treadle.core.sizes import Bytes
from treadle.deploy.serve.settings import ServeEngineSettings

if TYPE_CHECKING:
    from treadle.deploy.serve.door import Door
    from treadle.deploy.serve.opening import Opened

__all__ = ["serve"]

_logger = logging.getLogger(__name__)
_KEY_VARIABLE = "TREADLE_API_KEY"


@checked
def serve(
    models: list[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: Path | None = None,
    uds_mode: str = "600",
    allow_host: tuple[str, ...] = (),
    allow_origin: tuple[str, ...] = (),
    adapter: tuple[str, ...] = (),
    router: tuple[str, ...] = (),
    api_key: tuple[str, ...] = (),
    max_requests: int = 256,
    max_body_bytes: Bytes = 4 << 20,
    timeout_seconds: float = 600.0,
    drain_seconds: float = 60.0,
    tool_parser: str = "auto",
    reasoning_parser: str = "auto",
    engine: ServeEngineSettings | None = None,
) -> None:
    """Serve models behind OpenAI's and Anthropic's HTTP interfaces, with a status page at /.

    SIGTERM or Ctrl+C ends it: requests that run or wait are answered, new ones refused with 503; a
    second signal ends it at once.

    Args:
        models: Hugging Face folders, GGUF files, packaged:smollm2, or hub ids; NAME=MODEL gives one
            another name for clients, and several names of one MODEL share its weights. Of a
            bundle, each model, and the bundle's own name (or auto) for the one that it chooses.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on; 0 takes a free one.
        uds: Unix socket to listen on instead; made here, and removed at the end.
        uds_mode: Who may connect to it, as chmod writes it: 600 is you alone, 660 your group, too.
        allow_host: Further names that clients may call the server by, such as a proxy's; * for any.
            Without it, those that it listens on.
        allow_origin: Origins whose pages may use the server from a browser, such as
            https://app.example.org; * for all pages of the web.
        adapter: LoRA adapters as NAME=FOLDER, or MODEL/NAME=FOLDER where there are several models;
            each appears as a model.
        router: Folders of routers, which treadle route makes, as FOLDER or NAME=FOLDER: who asks
            for auto, or that name, is answered by the model that the router chooses. The models
            must be served by the names under which it knows them.
        api_key: Keys that clients must show one of; also read from TREADLE_API_KEY, parted by
            commas.
        max_requests: Answers that run or wait; more are refused with 429.
        max_body_bytes: Of a request.
        timeout_seconds: Of an answer, waiting included.
        drain_seconds: Time that requests have to end after SIGTERM.
        tool_parser: How the model writes calls of tools: hermes (and Qwen), llama3 or mistral; auto
            reads it off the chat template.
        reasoning_parser: How the model marks what it thinks before it answers: think (between
            <think> and </think>) or none; auto looks where the chat template knows the marks.
        engine: How each model is held and shared out.

    Raises:
        SettingsError: The port is in use, a name stands twice, or a router's models are missing.
        CheckpointError: A model or a router cannot be read.
    """
    from treadle.deploy.http.limits import ServerLimits
    from treadle.deploy.http.server import Server
    from treadle.deploy.serve.app import make_app
    from treadle.deploy.serve.catalogue import Catalogue
    from treadle.deploy.serve.chat.calls import require_format
    from treadle.deploy.serve.chat.thoughts import require_parser
    from treadle.deploy.serve.door import open_door
    from treadle.deploy.serve.opening import open_all
    from treadle.deploy.serve.serving import Serving

    limits = ServerLimits(
        max_requests, max_body_bytes, timeout_seconds, drain_seconds=drain_seconds
    )
    tool_format, thoughts = require_format(tool_parser), require_parser(reasoning_parser)
    keys = _keys(api_key)
    # The door comes before the models load: a port in use, or a name that is none, is said at once.
    with open_door(host, port, uds, uds_mode, allow_host, allow_origin) as door:
        opened = open_all(models, adapter, engine or ServeEngineSettings(), router)
        serving = Serving(Catalogue(*opened), limits, tool_format, thoughts)
        if not keys:
            _warn(door)
        _announce(door.address, opened)
        app = make_app(serving, keys, door.visitors)
        Server(app, serving, is_behind_proxy=uds is not None).run([door.socket])


def _warn(door: "Door") -> None:
    """Say who may use a server that asks for no key, where that is more than this machine."""
    who = "Other machines" if door.is_public else ""
    who = "All pages of the web" if door.visitors.takes_any_origin else who
    if who:
        _logger.warning(
            "%s can reach this server, and it asks for no key: whoever finds it may use its "
            "models. Give --api-key or set %s.",
            *(who, _KEY_VARIABLE),
        )


def _announce(address: str, opened: "Opened") -> None:
    _logger.info("Serving %s at %s", ", ".join(opened.names), address)


def _keys(given: Sequence[str]) -> list[str]:
    """Return the keys of the setting and the environment."""
    own = [key.strip() for key in os.environ.get(_KEY_VARIABLE, "").split(",")]
    found = [*given, *filter(None, own)]
    for key in found:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise SettingsError(
                "An API key is empty or has blanks or characters beyond ASCII, which no header can "
                "carry; choose another."
            )
    return found
