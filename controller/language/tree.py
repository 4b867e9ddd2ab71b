"""YAML or JSON text -> plain data, each part with its line and column. Bounded in size, depth and aliases."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from controller.language.fault import Fault, ManifestInvalid
from controller.language.shape import Flaw, Path, dotted

MAX_BYTES = 16 << 20
"""10,000 intents as people indent them; the API takes 8 MiB without spaces."""
MAX_PARTS = 1_000_000
DOCUMENT_PARTS = 10
"""A document costs about as much as so many values."""
MAX_DEPTH = 32

Position = tuple[int, int]

_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """One document."""

    data: Any
    positions: dict[Path, Position]
    """Where each value starts; lines and columns count from 1."""
    keys: dict[Path, Position]
    """Where the key of each field starts."""
    characters: int = 0
    """Of the document, with its comments; 0: it is part of one."""


def locate_in(positions: Mapping[Path, Position], path: Path) -> Position:
    """Of the value at `path`, or of the nearest that encloses it: what an alias stands for has no place of its own."""
    return next((positions[path[:end]] for end in range(len(path), -1, -1) if path[:end] in positions), (1, 1))


def fault_of(flaw: Flaw, tree: Tree, file: str) -> Fault:
    line, column = (tree.keys.get(flaw.path) if flaw.at_key else None) or locate_in(tree.positions, flaw.path)
    where = dotted(flaw.path)
    return Fault(file=file, line=line, column=column, message=f"{where}: {flaw.message}" if where else flaw.message)


def load(text: str | bytes, file: str) -> tuple[Tree, ...]:
    """The documents of `text`; empty ones are left out. Raises ManifestInvalid."""
    if len(text) > MAX_BYTES:
        raise _invalid(
            file, 1, 1, f"{len(text):,} bytes are too many; at most {MAX_BYTES:,} are read: split it into several files"
        )
    if isinstance(text, bytes):
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            before = text[: error.start]
            line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
            raise _invalid(file, line, column, f"byte 0x{text[error.start]:02x} is no UTF-8; expected text") from error
    else:
        decoded = text
    try:
        return tuple(_documents(_parse_events(decoded), file))
    except UnicodeEncodeError as error:
        raise _invalid(file, *_place_of_character(decoded), "half a character (a surrogate); expected text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(str(part).strip() for part in (error.context, error.problem) if part)
        raise _invalid(file, line, column, f"not well-formed YAML or JSON: {message}") from error
    except yaml.YAMLError as error:
        line, column = _place_of_character(decoded)
        raise _invalid(
            file, line, column, f"a character that YAML does not allow: {str(error).splitlines()[0]}"
        ) from error


def _parse_events(text: str) -> Iterator[Any]:
    """libyaml's events: 20 times as fast as a parser in Python, and each knows its place."""
    events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)  # type: ignore[no-untyped-call]
    return events


def _invalid(file: str, line: int, column: int, message: str) -> ManifestInvalid:
    return ManifestInvalid((Fault(file=file, line=line, column=column, message=message),))


def _place_of_character(text: str) -> Position:
    """Of the first character outside YAML 1.2 §5.1."""
    allowed = re.compile("[\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
    match = allowed.match(text)
    end = match.end() if match else 0
    return text.count("\n", 0, end) + 1, end - (text.rfind("\n", 0, end) + 1) + 1


def _documents(events: Iterator[Any], file: str) -> Iterator[Tree]:
    begin = parts = 0
    for event in events:
        if type(event).__name__ != "DocumentStartEvent":
            continue
        builder = _Builder(events, file, parts + DOCUMENT_PARTS)
        data = builder.value(next(events), (), 0)
        parts = builder.parts
        end = next(events).end_mark.index
        if data is not None:
            yield Tree(data=data, positions=builder.positions, keys=builder.keys, characters=end - begin)
        begin = end


class _Builder:
    """Builds one document from the parser's events, so that nothing is composed that is not bounded."""

    def __init__(self, events: Iterator[Any], file: str, parts: int) -> None:
        """`parts`: of the documents before."""
        self._events = events
        self._file = file
        self.parts = parts
        self._anchors: dict[str, tuple[Any, int]] = {}
        self.positions: dict[Path, Position] = {}
        self.keys: dict[Path, Position] = {}

    def value(self, event: Any, path: Path, depth: int) -> Any:
        line, column = _position(event)
        self.positions[path] = line, column
        before = self.parts
        self._count(1, line, column)
        if depth > MAX_DEPTH:
            raise _invalid(self._file, line, column, f"nested more than {MAX_DEPTH} deep")
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event.anchor, line, column)
        if event.tag is not None and str(event.tag) not in ("!", "tag:yaml.org,2002:str"):
            raise _invalid(self._file, line, column, f"tag {event.tag} is not supported: write plain YAML")
        value: Any
        if kind == "ScalarEvent":
            plain = event.implicit[0] and event.tag is None
            value = _scalar(event.value) if plain else event.value
        elif kind == "SequenceStartEvent":
            value = self._sequence(path, depth)
        else:
            value = self._mapping(path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self.parts - before
        return value

    def _count(self, parts: int, line: int, column: int) -> None:
        self.parts += parts
        if self.parts > MAX_PARTS:
            raise _invalid(self._file, line, column, f"more than {MAX_PARTS:,} values (aliases count as often as used)")

    def _alias(self, anchor: str, line: int, column: int) -> Any:
        if anchor not in self._anchors:
            raise _invalid(self._file, line, column, f"alias *{anchor} has no anchor &{anchor} before it")
        value, parts = self._anchors[anchor]
        self._count(parts, line, column)
        return value

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            items.append(self.value(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            line, column = _position(event)
            if type(event).__name__ != "ScalarEvent":
                raise _invalid(self._file, line, column, "a field's name must be plain text")
            key = event.value
            if key in fields:
                raise _invalid(self._file, line, column, f"field {key!r} is given twice")
            self.keys[(*path, key)] = line, column
            fields[key] = self.value(next(self._events), (*path, key), depth + 1)
        return fields


def _position(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(text: str) -> str | int | float | bool | None:
    """YAML 1.2 §10.3.2 core schema, without octal, hexadecimal, infinity and not-a-number."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text[0] in "tT"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text
