"""`treadle chat`: a conversation in the terminal, with a model here or behind a server."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TextIO

from treadle.app.remote_chat import Piece, RemoteChat
from treadle.core.errors import DataError, SettingsError, TreadleError
from treadle.core.registry import near
from treadle.runtime.address import is_address, is_place, key_of_environment
from treadle.runtime.answer.talk import TALK, RepeatWatch
from treadle.runtime.request import SamplingParams

__all__ = ["chat"]

Message = dict[str, str]
_COMMANDS = {
    "/help": "show this",
    "/reset": "forget the conversation",
    "/system": "TEXT: say how the model is to behave, and begin anew",
    "/again": "answer the last message once more",
    "/exit": "leave, as Ctrl+D does",
}
_REPEATS = "repeats"


Answerer = Callable[[list[Message]], Generator[Piece]]


def chat(
    model: str,
    *,
    system: str | None = None,
    name: str | None = None,
    api_key: str | None = None,
    max_tokens: int = 1024,
    temperature: float = TALK["temperature"],
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    allow_repeats: bool = False,
    seed: int | None = None,
    weights: str = "auto",
    num_threads: int | None = None,
    speculate: str = "none",
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
        max_tokens: Of an answer at most; the context may end before.
        temperature: 0 always takes the most probable token.
        top_p: Choose among the most probable tokens that together reach this probability (default:
            0.9; 1 at temperature 0).
        min_p: Drop tokens less probable than this fraction of the most probable one (default: 0.05;
            0 at temperature 0).
        repetition_penalty: Above 1, makes tokens that the conversation has less probable (default:
            1.05; 1 at temperature 0).
        allow_repeats: Let an answer say the same over and over; else it is stopped where it does.
        seed: Same seed, same answers.
        weights: How matrices are held: fp32, fp16, q8, q4_0 or q4_1; auto keeps the codes of a
            quantised model.
        num_threads: Threads of the native step (default: the physical cores).
        speculate: What guesses tokens, where that pays: suffix, ngram, recycling, or the folder of
            a smaller model; answers stay the same.
        trust_remote_code: Run code that the checkpoint brings along.

    Raises:
        SettingsError: The server cannot be reached, or refuses.
        CheckpointError: The model cannot be read.
    """
    own = {"top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    sampling |= {name: value for name, value in TALK.items() if name in own and temperature > 0}
    sampling |= {name: value for name, value in own.items() if value is not None}
    SamplingParams(**sampling)  # refuses here what a server would refuse at the first message
    if is_address(model):
        _refuse_drafter(speculate)
        remote = RemoteChat(model, name, api_key or key_of_environment())
        answer: Answerer = lambda talk: remote.answer(talk, sampling)  # noqa: E731
    elif is_place(model):
        raise SettingsError(
            f"Found '{model}', which is no model; write http://{model} if a server is there."
        )
    else:
        for flag, value in (("--name", name), ("--api-key", api_key)):
            if value is not None:
                raise SettingsError(
                    f"{flag} is for a server, and '{model}' is a model; leave it out."
                )
        options = {"weights": weights, "num_threads": num_threads, "speculate": speculate}
        answer = _local(model, sampling, trust_remote_code=trust_remote_code, **options)
    talk = _Talk(answer, system, max_tokens, not allow_repeats)
    try:
        if sys.stdin.isatty():
            talk.interact(sys.stdin)
        else:
            for line in _lines(sys.stdin):
                if line.strip():
                    talk.say(line.rstrip("\r\n"))
    except BrokenPipeError:  # whoever read the answers has gone, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_drafter(speculate: str) -> None:
    if speculate != "none":
        raise SettingsError(
            f"--speculate is for a model of this machine; start the server with it instead: "
            f"treadle serve MODEL --speculate {speculate}."
        )


def _lines(source: TextIO) -> Iterator[str]:
    """Give the lines of a pipe.

    Raises:
        DataError: One is no UTF-8.
    """
    num_read = 0
    try:
        for line in source:
            line.encode()  # where the locale is C, bytes that are no text come as half characters
            yield line
            num_read += 1
    except UnicodeError as error:
        raise DataError(
            f"The input is no text in UTF-8 behind its line {num_read} ({error}); convert it, as "
            f"with iconv -t utf-8."
        ) from error


def _local(model: str, sampling: dict[str, Any], **options: Any) -> Answerer:  # Any: settings
    """Return what answers with a model of this machine."""
    from treadle.runtime import LLM

    llm = LLM(model, max_num_seqs=1, **options)
    params = SamplingParams(**sampling)

    def answer(messages: list[Message]) -> Generator[Piece]:
        (request,) = requests = llm.submit(llm.prompts.chat(messages), params)
        seen = {request.id: 0}
        try:
            while request.finish_reason is None:
                llm.step()
                delta = llm.delta(request, 0, seen)
                if delta is not None:
                    yield Piece(delta.text, len(delta.token_ids), delta.finish_reason)
        finally:
            llm.close(requests)

    return answer


class _Talk:
    """A conversation and how it is shown."""

    def __init__(
        self, answer: Answerer, system: str | None, max_tokens: int, stops_repeats: bool
    ) -> None:
        self._answer, self._max_tokens, self._stops_repeats = answer, max_tokens, stops_repeats
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
        shown = _Shown()
        try:
            with contextlib.closing(self._answer(self.messages)) as pieces:
                self._show(pieces, shown)
        except KeyboardInterrupt:
            self._write(" …")
        except TreadleError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": shown.watch.once()})
        self._write("\n")
        self._tell(shown, began)

    def _show(self, pieces: Iterator[Piece], shown: "_Shown") -> None:
        for piece in pieces:
            shown.first = shown.first or time.perf_counter()
            shown.num_tokens += piece.num_tokens
            shown.reason = piece.finish_reason or shown.reason
            self._write(piece.text)
            if shown.watch.feed(piece.text) and self._stops_repeats:
                shown.reason = _REPEATS
                return

    def _tell(self, shown: "_Shown", began: float) -> None:
        """Say why an answer ended early, and on a terminal how fast it came."""
        if shown.reason == _REPEATS:
            self._note("Stopped: the answer repeats itself (--allow-repeats lets it).")
        elif shown.reason == "length":
            is_full = shown.num_tokens < self._max_tokens
            where = "its context is full; /reset forgets the conversation"
            most = f"it has {self._max_tokens} tokens; --max-tokens lets it have more"
            self._note(f"The answer is cut off: {where if is_full else most}.")
        if self._is_terminal and shown.num_tokens:
            seconds = time.perf_counter() - shown.first
            later = shown.num_tokens - 1
            speed = f", then {later / seconds:.1f} a second" if later else ""
            self._note(
                f"{shown.num_tokens} tokens, the first after {shown.first - began:.2f} s{speed}"
            )

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _note(self, text: str) -> None:
        """Say something that is no answer; where answers go into a pipe, beside them."""
        if self._is_terminal:
            self._write(f"\033[2m{text}\033[0m\n")
        else:
            sys.stderr.write(f"{text}\n")


class _Shown:
    """An answer as far as it was shown."""

    def __init__(self) -> None:
        self.watch = RepeatWatch()
        self.first = 0.0
        self.num_tokens = 0
        self.reason: str | None = None
