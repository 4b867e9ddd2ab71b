"""Shapes of written values: each reads plain data (reporting all that is wrong) and gives its JSON Schema."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

Path = tuple[str | int, ...]


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    path: Path
    message: str
    at_key: bool = False
    """The field's name is wrong, not its value."""


class Invalid:
    """What a shape gives for data that does not fit; the flaws say why."""


INVALID = Invalid()
Flaws = list[Flaw]
FLAWS_MAX = 100
"""Of one document; what comes after them is not looked at. Each is words, and the nearest name is worth a search."""


class Shape(Protocol):
    def read(self, data: object, path: Path, flaws: Flaws) -> Any:
        """The value, or INVALID with at least one flaw added."""

    def schema(self) -> dict[str, Any]: ...


class Scalar(msgspec.Struct, frozen=True, kw_only=True):
    """One value made from text or a number by `make`, which raises ValueError saying what is wrong."""

    expected: str
    """In words, with an example: `a duration such as 30d or 12h`."""
    make: Callable[[Any], Any]
    types: tuple[type, ...] = (str,)
    json_schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})

    def read(self, data: object, path: Path, flaws: Flaws) -> Any:
        if not isinstance(data, self.types) or (isinstance(data, bool) and bool not in self.types):
            flaws.append(Flaw(path=path, message=f"expected {self.expected}, found {describe(data)}"))
            return INVALID
        try:
            return self.make(data)
        except ValueError as error:
            flaws.append(Flaw(path=path, message=f"{error}; expected {self.expected}"))
            return INVALID

    def schema(self) -> dict[str, Any]:
        return {**self.json_schema, "description": self.expected}


class ListOf(msgspec.Struct, frozen=True, kw_only=True):
    item: Shape
    least: int = 0
    most: int = 10_000

    def read(self, data: object, path: Path, flaws: Flaws) -> Any:
        if not isinstance(data, list):
            flaws.append(Flaw(path=path, message=f"expected a list, found {describe(data)}"))
            return INVALID
        if not self.least <= len(data) <= self.most:
            flaws.append(Flaw(path=path, message=f"expected {self.least} to {self.most} items, found {len(data)}"))
            return INVALID
        items: list[Any] = []
        for index, item in enumerate(data):
            if len(flaws) >= FLAWS_MAX:
                return INVALID
            items.append(self.item.read(item, (*path, index), flaws))
        return INVALID if INVALID in items else tuple(items)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema(), "minItems": self.least, "maxItems": self.most}


LABELS_MAX = 256
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def label_flaw(name: object, value: object) -> str:
    """What is wrong with one label; empty: nothing."""
    if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):
        return f"{describe(name)} is no label's name; expected letters, digits, '-', '.', '_', at most 63"
    if not isinstance(value, str) or not value or len(value) > 200:
        return f"expected text as the value of label {name!r}, found {describe(value)}"
    if not value.isprintable():
        return f"{describe(value)} has characters that do not print (line breaks, control or direction marks)"
    return ""


class Labels(msgspec.Struct, frozen=True):
    """name: text pairs, as a sorted tuple."""

    def read(self, data: object, path: Path, flaws: Flaws) -> Any:
        if not isinstance(data, Mapping):
            flaws.append(Flaw(path=path, message=f"expected labels such as {{app: web}}, found {describe(data)}"))
            return INVALID
        if len(data) > LABELS_MAX:
            flaws.append(Flaw(path=path, message=f"expected at most {LABELS_MAX} labels, found {len(data)}"))
            return INVALID
        before = len(flaws)
        for name, value in data.items():
            if message := label_flaw(name, value):
                flaws.append(Flaw(path=(*path, name), message=message))
        return INVALID if len(flaws) > before else tuple(sorted(data.items()))

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "maxProperties": LABELS_MAX,
            "propertyNames": {"pattern": f"^{_LABEL_NAME.pattern}$"},
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 200},
            "description": "labels such as {app: web}; all must match",
        }


class Field(msgspec.Struct, frozen=True, kw_only=True):
    shape: Shape
    to: str = ""
    """Name of the model's field; empty: as written."""
    required: bool = False


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping with known fields; what is read is the dict of those given, by the model's names."""

    fields: dict[str, Field]
    make: Callable[[dict[str, Any]], Any] = dict
    """From that dict to the value; raises ValueError saying what is wrong with the whole."""

    def read(self, data: object, path: Path, flaws: Flaws) -> Any:
        if not isinstance(data, Mapping):
            expected = f"expected the fields {', '.join(self.fields)}"
            flaws.append(Flaw(path=path, message=f"{expected}; found {describe(data)}"))
            return INVALID
        before = len(flaws)
        values = {}
        for name, value in data.items():
            if len(flaws) >= FLAWS_MAX:
                return INVALID
            if (field := self.fields.get(name)) is not None:
                values[field.to or name] = field.shape.read(value, (*path, name), flaws)
            else:
                flaws.append(Flaw(path=(*path, name), message=self._unknown(name), at_key=True))
        for name, field in self.fields.items():
            if field.required and name not in data:
                flaws.append(Flaw(path=path, message=f"field {name!r} is missing"))
        if len(flaws) > before:
            return INVALID
        try:
            return self.make(values)
        except ValueError as error:
            flaws.append(Flaw(path=path, message=str(error)))
            return INVALID

    def _unknown(self, name: object) -> str:
        return f"unknown field {name!r}{nearest(str(name), list(self.fields))}"

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: field.shape.schema() for name, field in self.fields.items()},
            "required": [name for name, field in self.fields.items() if field.required],
            "additionalProperties": False,
        }


class TextOr(msgspec.Struct, frozen=True, kw_only=True):
    """What is written as a text, or as a mapping."""

    text: Scalar
    mapping: Fields

    def read(self, data: object, path: Path, flaws: Flaws) -> Any:
        return (self.text if isinstance(data, str) else self.mapping).read(data, path, flaws)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.text.schema(), self.mapping.schema()]}


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or what is known."""
    close = difflib.get_close_matches(name[:100], known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def dotted(path: Path) -> str:
    """`spec.allow[0].to`; what does not print is escaped."""
    parts = (part if isinstance(part, int) or part.isprintable() else repr(part) for part in path)
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def describe(data: object) -> str:
    """What somebody wrote, in words and short."""
    match data:
        case None:
            return "nothing"
        case bool():
            return "true" if data else "false"
        case str():
            return repr(data if len(data) <= 60 else data[:57] + "...")
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            text = str(data)
            return text if len(text) <= 40 else text[:37] + "..."
