"""`treadle chat`: the same answers here and behind a server, by stdin and typed."""

import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from inspect import signature
from shutil import copytree

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from treadle.app.chat import chat
from treadle.cli import main
from treadle.core.errors import DataError, SettingsError
from treadle.runtime import SamplingParams
from treadle.runtime.answer.talk import TALK

from .servers import eventually, loaded, running

SETTINGS = {"temperature": 0.0, "max_tokens": 5}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answers(llm, *texts: str, system: str | None = None) -> list[str]:
    """Return what the runtime answers to a conversation."""
    talk = [{"role": "system", "content": system}] if system else []
    found = []
    for text in texts:
        talk.append({"role": "user", "content": text})
        (output,) = llm.chat(talk, SamplingParams(**SETTINGS))
        found.append(output.outputs[0].text)
        talk.append({"role": "assistant", "content": found[-1]})
    return found


@pytest.mark.parametrize("is_remote", [False, True])
def test_lines_are_messages_of_one_conversation(
    chatty, server, llm, is_remote, monkeypatch, capsys
):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nand you?\n"))
    where = server.url if is_remote else str(chatty)
    words = ["--temperature", "0", "--max-tokens", "5", "--system", "be"]
    assert main(["chat", where, *words]) == 0
    expected = answers(llm, "hello", "and you?", system="be")
    assert capsys.readouterr().out == "".join(text + "\n" for text in expected)


def test_drafts_change_no_answer(chatty, llm, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nhello\n"))
    words = ["--temperature", "0", "--max-tokens", "5", "--system", "be", "--speculate", "suffix"]
    assert main(["chat", str(chatty), *words]) == 0
    expected = answers(llm, "hello", "hello", system="be")
    assert capsys.readouterr().out == "".join(text + "\n" for text in expected)


def test_typing_commands_and_speed(chatty, llm, monkeypatch):
    typed = iter(
        ["hello", "/again", "/rest", "/reset", "hello", "/system be", "/again", "hello", "x" * 2000,
         "/help", "/exit"]
    )  # fmt: skip
    out = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    chat(str(chatty), **SETTINGS)
    said = out.getvalue()
    (plain,), (told,) = answers(llm, "hello"), answers(llm, "hello", system="be")
    assert said.count(f"{plain}\n") == 3
    assert said.count(f"{told}\n") == 1
    assert said.count("5 tokens, the first after") == 4
    assert said.count(" a second") == 4
    for note in ("Did you mean", "A new conversation", "Nothing was answered yet", "/system"):
        assert note in said
    assert "context" in said  # the long message was refused and the talk went on


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(chatty, monkeypatch):
    out = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", out)

    def read(_: str) -> str:
        if "again" in out.getvalue():
            raise EOFError
        out.write("again")
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", read)
    chat(str(chatty), **SETTINGS)
    assert "Ctrl+D leaves." in out.getvalue()


def test_a_server_that_refuses_or_is_not_there(chatty, server, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    with pytest.raises(SettingsError, match="No model 'other' here"):
        chat(server.url, name="other", **SETTINGS)
    with pytest.raises(SettingsError, match="cannot be reached"):
        chat("http://127.0.0.1:1", **SETTINGS)
    with pytest.raises(SettingsError, match="treadle serve MODEL --speculate suffix"):
        chat(server.url, speculate="suffix", **SETTINGS)
    with pytest.raises(SettingsError, match="--name is for a server"):
        chat(str(chatty), name="other", **SETTINGS)
    with running(loaded(chatty), keys=["one"]) as found:
        with pytest.raises(SettingsError, match="API key is missing"):
            chat(found.url, **SETTINGS)
        chat(found.url + "/v1", api_key="one", **SETTINGS)
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        monkeypatch.setenv("TREADLE_API_KEY", "one, two")
        chat(found.url, **SETTINGS)
        with pytest.raises(SettingsError, match="API key"):
            chat(found.url, api_key="three", **SETTINGS)
        monkeypatch.delenv("TREADLE_API_KEY")
        monkeypatch.setenv("OPENAI_API_KEY", "one")
        chat(found.url, **SETTINGS)


@pytest.fixture(scope="module")
def stuck(chatty, tmp_path_factory):
    """A model that says one word for ever: its blocks add nothing, and one token is longest."""
    folder = copytree(chatty, tmp_path_factory.mktemp("stuck") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 400}))
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[:] = 0
    embedding = weights["model.embed_tokens.weight"]
    embedding[:] = 0.01
    embedding[AutoTokenizer.from_pretrained(folder)(" c").input_ids[-1]] = 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def stuck_server(stuck):
    with running(loaded(stuck)) as found:
        yield found


@pytest.mark.parametrize("is_remote", [False, True])
def test_an_answer_that_goes_round_is_stopped_and_remembered_once(
    stuck, stuck_server, is_remote, monkeypatch, capsys
):
    where = stuck_server.url if is_remote else str(stuck)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\r\n \nand you?"))
    chat(where)  # up to 1024 tokens: more than the context has left
    said = capsys.readouterr()
    for answer in said.out.splitlines():
        assert set(answer.split()) == {"c"}
        assert 240 <= len(answer) <= 240 + 30
    assert said.out.count("\n") == 2
    assert said.err.count("Stopped: the answer repeats itself (--allow-repeats lets it).") == 2
    if is_remote:  # what was not read any more was not written either
        last = stuck_server.serving.metrics.recent
        assert eventually(lambda: last and last[0]["finish_reason"] == "abort")
        assert last[0]["prompt_tokens"] < 100  # the first answer went along told once
        assert last[0]["new_tokens"] < 300


@pytest.mark.parametrize("is_remote", [False, True])
def test_answers_that_are_cut_off_say_why(stuck, stuck_server, is_remote, monkeypatch, capsys):
    where = stuck_server.url if is_remote else str(stuck)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    chat(where, max_tokens=100, allow_repeats=True)
    said = capsys.readouterr()
    assert said.out.split() == ["c"] * 100
    assert "cut off: it has 100 tokens; --max-tokens lets it have more." in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    chat(where, allow_repeats=True)
    said = capsys.readouterr()
    assert 300 < len(said.out.split()) < 400
    assert "cut off: its context is full; /reset forgets the conversation." in said.err


def test_a_server_without_http(chatty):
    with pytest.raises(SettingsError, match=r"^Found 'localhost:8000', .*write http://localhost:8"):
        chat("localhost:8000")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_pipe_that_is_no_text(chatty, errors, monkeypatch, capsys):
    source = io.TextIOWrapper(io.BytesIO(b"hello\ncaf\xe9\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", source)
    with pytest.raises(DataError, match=r"no text in UTF-8 behind its line [01] .* iconv -t utf-8"):
        chat(str(chatty), **SETTINGS)


def test_whoever_reads_the_answers_may_leave(stuck, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\nhello\n"))
        chat(str(stuck), max_tokens=3)  # ends, and says nothing
        print("what else is written goes nowhere", file=nobody)


class Foreign(BaseHTTPRequestHandler):
    """Answers as OpenAI does: it knows neither min_p nor repetition_penalty."""

    asked: list[dict] = []  # noqa: RUF012  # of the class, on purpose

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if "min_p" in body:
            message = "Unrecognized request argument supplied: min_p"
            self.reply(400, json.dumps({"error": {"message": message}}).encode())
            return
        chunk = {"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]}
        if body["messages"][-1]["content"] == "break off":
            self.reply(200, f"data: {json.dumps(chunk)}\n".encode(), 10)
            return
        self.reply(200, f": here\n\ndata: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def reply(self, status: int, content: bytes, missing: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + missing))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_knows_openais_settings_only(monkeypatch, capsys):
    server = HTTPServer(("127.0.0.1", 0), Foreign)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
        chat(f"http://127.0.0.1:{server.server_port}", name="gpt")
        assert capsys.readouterr().out == "hello\nhello\n"
        asked = list(Foreign.asked)
        monkeypatch.setattr("sys.stdin", io.StringIO("break off\n"))
        with pytest.raises(SettingsError, match="broke off"):
            chat(f"http://127.0.0.1:{server.server_port}", name="gpt")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    own = [{"min_p", "repetition_penalty"} & set(body) for body in asked]
    assert own == [{"min_p", "repetition_penalty"}, set(), set()]
    assert asked[1]["max_tokens"] == 1024
    assert asked[1]["top_p"] == TALK["top_p"]


def test_the_help_says_what_talk_samples_by_and_contradictions_are_refused(chatty):
    for name in ("top_p", "min_p", "repetition_penalty"):
        assert signature(chat).parameters[name].default is None
        assert f"{TALK[name]};" in chat.__doc__
    assert signature(chat).parameters["temperature"].default == TALK["temperature"]
    with pytest.raises(SettingsError, match=r"top_p=0\.5 has no effect"):
        chat(str(chatty), temperature=0.0, top_p=0.5)
    with pytest.raises(SettingsError, match="max_tokens"):
        chat("http://127.0.0.1:1", max_tokens=0)
    with pytest.raises(SettingsError, match="in brackets"):
        chat("http://::1:8000")
