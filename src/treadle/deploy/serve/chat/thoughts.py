"""What a model thinks before it answers, parted from the answer while both come."""

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.deploy.serve.chat.pieces import ChatPiece

__all__ = ["BEGIN", "END", "ThoughtReader", "require_parser", "thinks"]

BEGIN, END = "<think>", "</think>"
"""The marks of DeepSeek-R1, Qwen3, SmolLM3 and most others."""
_PARSERS = ("auto", "think", "none")


def require_parser(name: str) -> str:
    """Return `name` if it says how thoughts are read.

    Raises:
        SettingsError: It does not.
    """
    if name not in _PARSERS:
        raise SettingsError(f"No reasoning parser '{name}'. {near(name, list(_PARSERS))}")
    return name


def thinks(chat_template: str, parser: str) -> bool:
    """Return whether answers are looked through for thoughts; auto: where the template knows."""
    return END in chat_template if parser == "auto" else parser == "think"


class ThoughtReader:
    """Parts an answer that begins with thoughts; one that does not goes on as it is.

    Args:
        is_inside: Whether the prompt has opened them already.
    """

    def __init__(self, is_inside: bool) -> None:
        self._is_inside = is_inside
        self._is_over = False
        """Whether all that comes is the answer."""
        self._is_start = True
        """Whether only blanks came since the last mark."""
        self._held = ""

    def feed(self, text: str) -> list[ChatPiece]:
        """Take in what is new; return what is certain now, as thoughts and text."""
        self._held += text
        if not self._is_inside and not self._is_over and not self._opens():
            return []
        thought = ""
        if self._is_inside:
            thought = self._think()
        shown = ""
        if self._is_over:
            shown = self._after_blanks()
        found = [ChatPiece("thought", thought), ChatPiece("text", shown)]
        return [piece for piece in found if piece.text]

    def _opens(self) -> bool:
        """Return whether it is certain how the answer begins, and note how."""
        start = self._held.lstrip()
        if start.startswith(BEGIN):
            self._is_inside, self._held = True, start[len(BEGIN) :]
        elif not BEGIN.startswith(start):
            self._is_over, self._is_start = True, False
        return self._is_inside or self._is_over

    def _think(self) -> str:
        at = self._held.find(END)
        if at >= 0:
            self._is_inside, self._is_over = False, True
            thought, self._held = self._held[:at].rstrip(), self._held[at + len(END) :]
            thought = thought.lstrip() if self._is_start else thought
            self._is_start = True
            return thought
        if self._is_start:
            self._held = self._held.lstrip()
        # Blanks at the end may be the last of it.
        body = self._held.rstrip()
        doubtful = next((n for n in range(len(END) - 1, 0, -1) if body.endswith(END[:n])), 0)
        certain = body[: len(body) - doubtful].rstrip()
        self._held = self._held[len(certain) :]
        self._is_start = self._is_start and not certain
        return certain

    def _after_blanks(self) -> str:
        """Return what is shown of an answer: behind thoughts, without the blanks that part them."""
        text = self._held.lstrip() if self._is_start else self._held
        self._held = ""
        self._is_start = self._is_start and not text
        return text

    def finish(self) -> list[ChatPiece]:
        """Return what was held back."""
        rest, self._held = self._held, ""
        if self._is_inside:
            rest = rest.rstrip()
            return [ChatPiece("thought", rest)] if rest else []
        return [ChatPiece("text", rest)] if rest else []
