"""Text that a terminal shows as it is: what would move, hide or turn other text is written as its code.

Names, reasons and manifests come from others: neighbours, nodes, tenants. Control characters (C0, DEL, C1), marks of
direction, separators of lines and paragraphs, and what else does not print is written as JSON writes it (`\\u202e`), so
that within a JSON string, or a quoted one of YAML, it stays what it is.
"""

import re
from typing import TextIO

_SUSPECT = re.compile(r"[^ -~\n\t]")


def visible(text: str) -> str:
    """Line breaks and tabulators stay."""
    return _SUSPECT.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    character = match.group()
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


class VisibleText:
    """A stream of text, all that is written to it made visible. What else a stream does, it does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
