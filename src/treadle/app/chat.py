"""`treadle chat`: a conversation in the terminal, with a model here or behind a server."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from treadle.app.remote_chat import RemoteChat
from treadle.core.errors import SettingsError, TreadleError
from treadle.core.registry import near
from treadle.runtime.address import is_address, key_of_environment

__all__ = ["chat"]

Message = dict[str, str]
_COMMANDS = {
    "/help": "show this",
    "/reset": "forget the conversation",
    "/system": "TEXT: say how the model is to behave, and begin anew",
    "/again": "answer the last message once more",
    "/exit": "leave, as Ctrl+D does",
}


class Piece(NamedTuple):
    """What is new of an answer."""

    text: str
    num_tokens: int


Answerer = Callable[[list[Message]], Iterator[Piece]]


def chat(
    model: str,
    *,
    system: str | None = None,
    name: str | None = None,
    api_key: str | None = None,
    max_tokens: int | None = None,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int | None = None,
    weights: str = "auto",
    num_threads: int | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Talk with a model: type a message, read the answer as it comes, and its speed.

    Where input is no terminal, each of its lines is a message, and only the answers are written:
    `echo "What is a treadle?" | treadle chat MODEL`. Ctrl+C stops an answer; /help lists what else
    can be typed.

    Args:
        model: Hugging Face folder, GGUF file, packaged:smollm2 or hub id; or the address of a
            server, such as http://127.0.0.1:8000 or unix:/run/serve.sock.
        system: How the model is to behave.
        name: Which of a server's models answers (default: its first).
        api_key: Of the server (default: that of TREADLE_API_KEY, else OPENAI_API_KEY).
        max_tokens: Of an answer (default: what the context has left).
        temperature: 0 always takes the most probable token.
        top_p: Choose among the most probable tokens that together reach this probability.
        seed: Same seed, same answers.
        weights: How matrices are held: fp32, fp16, q8, q4_0 or q4_1; auto keeps the codes of a
            quantised model.
        num_threads: Threads of the native step (default: the physical cores).
        trust_remote_code: Run code that the checkpoint brings along.

    Raises:
        SettingsError: The server cannot be reached, or refuses.
        CheckpointError: The model cannot be read.
    """
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    if temperature > 0:
        sampling["top_p"] = top_p
    if is_address(model):
        remote = RemoteChat(model, name, api_key or key_of_environment())
        answer: Answerer = lambda talk: (Piece(*p) for p in remote.answer(talk, sampling))  # noqa: E731
    else:
        for flag, value in (("--name", name), ("--api-key", api_key)):
            if value is not None:
                raise SettingsError(
                    f"{flag} is for a server, and '{model}' is a model; leave it out."
                )
        options = {"weights": weights, "num_threads": num_threads}
        answer = _local(model, sampling, trust_remote_code=trust_remote_code, **options)
    talk = _Talk(answer, system)
    if sys.stdin.isatty():
        talk.interact(sys.stdin)
    else:
        for line in sys.stdin:
            if line.strip():
                talk.say(line.rstrip("\n"))


def _local(model: str, sampling: dict[str, Any], **options: Any) -> Answerer:  # Any: settings
    """Return what answers with a model of this machine."""
    from treadle.runtime import LLM, SamplingParams

    llm = LLM(model, max_num_seqs=1, **options)
    params = SamplingParams(**sampling)

    def answer(messages: list[Message]) -> Iterator[Piece]:
        (request,) = requests = llm.submit(llm.prompts.chat(messages), params)
        seen = {request.id: 0}
        try:
            while request.finish_reason is None:
                llm.step()
                delta = llm.delta(request, 0, seen)
                if delta is not None:
                    yield Piece(delta.text, len(delta.token_ids))
        finally:
            llm.close(requests)

    return answer


class _Talk:
    """A conversation and how it is shown."""

    def __init__(self, answer: Answerer, system: str | None) -> None:
        self._answer = answer
        self._out: TextIO = sys.stdout
        self._is_terminal = self._out.isatty()
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forget what was said."""
        self._system = system
        self.messages: list[Message] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    def interact(self, source: TextIO) -> None:
        """Read messages and commands until the end of input."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() then edits lines and keeps a history
        self._note("Type a message; /help lists commands, Ctrl+D leaves.")
        while True:
            try:
                line = input("\n> ").strip()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._note("Ctrl+D leaves.")
                continue
            try:
                if line.startswith("/"):
                    if not self._obey(line):
                        return
                elif line:
                    self.say(line)
            except TreadleError as error:
                self._note(f"{error}")

    def _obey(self, line: str) -> bool:
        """Do what a command says; return whether the conversation goes on."""
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return False
        if word == "/help":
            self._note("\n".join(f"{name:8} {text}" for name, text in _COMMANDS.items()))
        elif word in ("/reset", "/system"):
            self.begin(rest.strip() if word == "/system" else self._system)
            self._note("A new conversation.")
        elif word == "/again":
            self._again()
        else:
            self._note(f"No command '{word}'. {near(word, _COMMANDS)}")
        return True

    def _again(self) -> None:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._note("Nothing was answered yet.")
            return
        self.messages.pop()
        self.say(self.messages.pop()["content"])

    def say(self, text: str) -> None:
        """Say something to the model and show its answer; a refused message is forgotten."""
        self.messages.append({"role": "user", "content": text})
        began = time.perf_counter()
        first, num_tokens, parts = 0.0, 0, []
        try:
            for piece in self._answer(self.messages):
                first = first or time.perf_counter()
                num_tokens += piece.num_tokens
                parts.append(piece.text)
                self._write(piece.text)
        except KeyboardInterrupt:
            self._write(" …")
        except TreadleError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": "".join(parts)})
        self._write("\n")
        if self._is_terminal and num_tokens:
            seconds = time.perf_counter() - first
            speed = f", then {(num_tokens - 1) / seconds:.1f} a second" if num_tokens > 1 else ""
            self._note(f"{num_tokens} tokens, the first after {first - began:.2f} s{speed}")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _note(self, text: str) -> None:
        """Say something that is no answer."""
        self._write(f"\033[2m{text}\033[0m\n" if self._is_terminal else f"{text}\n")
