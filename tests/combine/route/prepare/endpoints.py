"""Endpoints that a test scripts, answer by answer; no test itself."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, object]
"""Status, and what is sent as JSON, or bytes as they are."""


@contextmanager
def endpoint(answer: Callable[[str, dict], Answer]) -> Iterator[str]:
    """Yield the address of a server that answers each body of a path by a function."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            self.reply(json.loads(self.rfile.read(length)))

        def reply(self, body: dict) -> None:
            status, found = answer(self.path, body)
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(body: dict, *texts: str) -> dict:
    """Return what a server says to a body, with these answers."""
    choices = [
        {
            "index": place,
            "text": text,
            "logprobs": {"token_logprobs": [-0.5, -1.5], "text_offset": [0, 1]},
            "finish_reason": "stop",
        }
        for place, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 2 * len(texts)}
    return {"model": body["model"], "choices": choices, "usage": usage}
