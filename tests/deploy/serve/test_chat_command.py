"""`treadle chat`: the same answers here and behind a server, by stdin and typed."""

import io

import pytest

from treadle.app.chat import chat
from treadle.cli import main
from treadle.core.errors import SettingsError
from treadle.runtime import SamplingParams

from .servers import loaded, running

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
