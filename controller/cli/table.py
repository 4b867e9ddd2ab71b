"""Tables of text: columns that fit the terminal, and are left out before a word of them is broken."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

GAP = "   "
READABLE = 24
"""Text in words is not folded to less."""


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Fitted to a terminal; elsewhere as wide as it is."""
    lines = [list(titles), *map(list, rows)]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    fitted = fit(lines, width)
    for line in fitted:
        print(line)
    if left_out := len(titles) - shown_columns(lines, width):
        print(f"({left_out} more column{'s' if left_out > 1 else ''} in a wider window)", file=sys.stderr)


def fit(lines: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Columns of equal width. Where `width` is too little, text is folded between words, then columns are left out
    from the right; never the first, and no word is broken."""
    count = shown_columns(lines, width)
    widths = [max(len(line[place]) for line in lines) for place in range(count)]
    if width is not None:
        least = [_least(lines, place) for place in range(count)]
        while _total(widths) > width:
            widest = max(range(count), key=lambda place: (widths[place] - least[place], widths[place]))
            if widths[widest] <= least[widest]:
                break
            widths[widest] = max(least[widest], widths[widest] - (_total(widths) - width))
    lines_fitted = []
    for line in lines:
        folded = [_folded(cell, width) for cell, width in zip(line, widths, strict=False)]
        for part in range(max(map(len, folded))):
            cells = (columns[part] if part < len(columns) else "" for columns in folded)
            lines_fitted.append(GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return lines_fitted


def shown_columns(lines: Sequence[Sequence[str]], width: int | None) -> int:
    count = len(lines[0])
    while width is not None and count > 1 and _total([_least(lines, place) for place in range(count)]) > width:
        count -= 1
    return count


def _least(lines: Sequence[Sequence[str]], place: int) -> int:
    """What a column needs so that no word of it is broken, and its title is not."""
    cells = [line[place] for line in lines]
    longest_word = max(len(word) for cell in cells for word in (cell.split() or [""]))
    return max(len(cells[0]), longest_word, min(READABLE, max(map(len, cells))))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _folded(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) or [""]


class Following:
    """A table that goes on: its header once, and columns that stay where they are as far as what comes fits."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = list(titles)
        self._widths = [len(title) for title in titles]
        self._began = False

    def show(self, rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        for row in rows if self._began else [self._titles, *rows]:
            print(GAP.join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip())
        sys.stdout.flush()
        self._began = True
