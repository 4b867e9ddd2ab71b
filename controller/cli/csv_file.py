"""CSV files that detectors read and write; a name that ends in .gz is compressed."""

import csv
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO, cast

from controller.cli.errors import InputInvalid


def read(file: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[str]]:
    """The columns, by name; those of `optional` that are not there are left out. `-` is standard input."""
    try:
        with _opened(file) as lines:
            rows = csv.reader(lines)
            header = [name.strip() for name in next(rows, [])]
            absent = [name for name in required if name not in header]
            if absent:
                raise InputInvalid(f"{file}:1:1: no column {', '.join(absent)}; the header is: {','.join(header)}")
            wanted = [(name, header.index(name)) for name in (*required, *optional) if name in header]
            columns: dict[str, list[str]] = {name: [] for name, _ in wanted}
            for row in rows:
                if not row:
                    continue
                if len(row) < len(header):
                    raise InputInvalid(
                        f"{file}:{rows.line_num}:1: {len(row)} fields where the header has {len(header)}"
                    )
                for name, place in wanted:
                    columns[name].append(row[place])
    except (OSError, EOFError, zlib.error) as error:
        raise InputInvalid(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputInvalid(f"{file}: not a CSV file: {error}") from error
    return columns


def write(file: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """All of it or nothing: what was there before stays until the new file is whole."""
    if file == "-":
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    replaced(file, gzip.compress(text.getvalue().encode()) if file.endswith(".gz") else text.getvalue().encode())


def replaced(file: str, data: bytes) -> None:
    """What was there before stays until the new file is whole."""
    path = Path(file)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        raise InputInvalid(f"{file}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def numbers(file: str, name: str, texts: Sequence[str], *, empty: float) -> list[float]:
    """`empty`: what an empty field stands for. NaN and infinities are numbers here; detectors say what becomes of
    them."""
    values: list[float] = []
    for line, text in enumerate(texts, start=2):
        try:
            values.append(float(text) if text.strip() else empty)
        except ValueError:
            raise InputInvalid(f"{file}:{line}:1: {name} is {text!r}, which is no number") from None
    return values


def _opened(file: str) -> TextIO:
    if file == "-":
        return sys.stdin
    return cast("TextIO", gzip.open(file, "rt", newline="") if file.endswith(".gz") else Path(file).open(newline=""))
