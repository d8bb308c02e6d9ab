"""Thoughts before an answer, sign by sign."""

import pytest

from treadle.core.errors import SettingsError
from treadle.deploy.serve.chat.thoughts import ThoughtReader, require_parser, thinks


@pytest.mark.parametrize(
    ("is_inside", "text", "thought", "answer"),
    [
        (False, "<think>\nhm, <b>\n\n</think>\n\nYes <think>", "hm, <b>", "Yes <think>"),
        (False, " Yes </think>", "", " Yes </think>"),
        (False, "<thin", "", "<thin"),
        (False, "  <think>cut </thi", "cut </thi", ""),
        (False, "<think></think>Yes", "", "Yes"),
        (True, "\nso\n it is\n</think>\n\n{}", "so\n it is", "{}"),
        (True, "never ends ", "never ends", ""),
        (False, "", "", ""),
    ],
)
def test_thoughts_and_answer_are_parted_wherever_pieces_end(is_inside, text, thought, answer):
    for parts in ([text], list(text)):
        reader = ThoughtReader(is_inside)
        found = [piece for part in parts for piece in reader.feed(part)] + reader.finish()
        for kind, expected in (("thought", thought), ("text", answer)):
            assert "".join(piece.text for piece in found if piece.kind == kind) == expected


def test_who_thinks():
    assert thinks("... </think> ...", "auto")
    assert not thinks("plain", "auto")
    assert thinks("plain", "think")
    assert not thinks("</think>", "none")
    with pytest.raises(SettingsError, match=r"No reasoning parser 'thnk'. Did you mean 'think'"):
        require_parser("thnk")
