"""What is known of scripts: which are written without blanks, and how wide their characters are shown.

The names in capitals are parts of character classes, for regular expressions.
"""

import re

UNSPACED = "\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\uff01-\uff60\U00020000-\U0003fffd"
"""Chinese, Japanese and the like, with their punctuation. Korean has blanks."""
WIDE = UNSPACED + "\u1100-\u115f\u3130-\u318f\uac00-\ud7a3\ufe30-\ufe4f\uff00\uffe0-\uffe6"
"""Korean too."""
CLOSING_QUOTES = "\"'\u201d\u2019\u300d\u300f)\uff09"
"""What may stand between the end of a sentence and the blank after it."""

_NARROW, _WIDE = 10, 21
LINE_WIDTH = 42 * _NARROW
"""Of a subtitle: 42 narrow characters, or 20 wide ones."""

_WIDE_CHARACTER = re.compile(f"[{WIDE}]")


def count_wide(text: str) -> int:
    """How many of its characters are wide."""
    return len(_WIDE_CHARACTER.findall(text))


def width(text: str) -> int:
    """How much of a `LINE_WIDTH` a text takes."""
    wide = count_wide(text)
    return wide * _WIDE + (len(text) - wide) * _NARROW


def fitting(text: str) -> int:
    """How many characters of a text without blanks fit into a line at least."""
    return LINE_WIDTH // (_WIDE if _WIDE_CHARACTER.search(text) else _NARROW)
