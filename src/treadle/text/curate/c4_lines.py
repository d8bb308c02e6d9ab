"""C4's rules on lines, the only published filter here that changes the text it keeps."""

import re

__all__ = ["clean_lines"]

# Raffel et al. 2020, section 2.2, with the numbers of its released code.
_MIN_WORDS = 5
_LINE_ENDS = (".", "?", "!", '"')
_ELLIPSIS = "..."
_POLICIES = (
    *("terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


def clean_lines(text: str) -> str:
    """Return the lines that end a sentence, have five words, and are no notice or script.

    Wikipedia's citation marks are removed from what stays.
    """
    return "\n".join(filter(None, map(_cleaned, text.split("\n"))))


def _cleaned(line: str) -> str:
    line = _CITATION.sub("", line.strip()) if "[" in line else line.strip()
    if (
        not line.endswith(_LINE_ENDS)
        or line.endswith(_ELLIPSIS)
        or line.count(" ") < _MIN_WORDS - 1
    ):
        return ""
    lowered = line.lower()
    if "javascript" in lowered or any(policy in lowered for policy in _POLICIES):
        return ""
    return line if len(line.split()) >= _MIN_WORDS else ""
