"""Values at and beyond what a JSON Schema (of OpenAPI) says, made from the schema itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.beyond_written import HUGE, VAST

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]
WRONG: tuple[Any, ...] = (
    None, True, 1.5, HUGE, -HUGE, VAST, float("nan"), float("inf"), "\x00", "\ud800", "a\nb", [], [[]], {}, {"\x00": 1},
)  # fmt: skip


class Unbounded(AssertionError):
    """A schema that does not say how large something may be."""


def resolved(schema: Schema, components: Schema) -> Schema:
    name = schema.get("$ref", "").rpartition("/")[2]
    return resolved(components[name], components) if name else schema


def kinds(schema: Schema, components: Schema) -> list[Schema]:
    """What it may be, each by itself."""
    schema = resolved(schema, components)
    return [kind for part in schema.get("anyOf", ()) for kind in kinds(part, components)] or [schema]


def places(schema: Schema, components: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every place in it, with what may stand there; items stand at 0."""
    for kind in kinds(schema, components):
        yield path, kind
        for name, inner in kind.get("properties", {}).items():
            yield from places(inner, components, (*path, name))
        if "items" in kind:
            yield from places(kind["items"], components, (*path, 0))


def beyond(schema: Schema) -> Iterator[Any]:
    """What is none of it, by its type and its bounds. Raises Unbounded."""
    match schema.get("type"):
        case "null":
            return
        case "integer":
            if not {"minimum", "maximum"} <= schema.keys():
                raise Unbounded(f"{schema}")
            yield from (schema["minimum"] - 1, schema["maximum"] + 1, 2**63, -(2**63) - 1, 2**64, "1", [1])
            yield from WRONG
        case "number":
            if not {"minimum", "maximum"} <= schema.keys():
                raise Unbounded(f"{schema}")
            yield from (schema["minimum"] - 1, schema["maximum"] + 1, 2**64, [1])
            yield from (value for value in WRONG if value != 1.5)
        case "boolean":
            yield from (value for value in (*WRONG, 0, 1, 2, "true") if value is not True)
        case "string":
            most = schema.get("maxLength")
            if most is None and not {"pattern", "enum"} & schema.keys():
                raise Unbounded(f"{schema}")
            yield from ("a" * (100_000 if most is None else most + 1), "\U0010ffff" * ((most or 10_000) + 1), 1)
            is_text = not {"pattern", "enum"} & schema.keys()
            yield from (value for value in WRONG if not (is_text and isinstance(value, str) and value != "\ud800"))
            if schema.get("minLength"):
                yield ""
            if "enum" in schema:
                yield "none of them"
        case "array":
            yield from (value for value in WRONG if not isinstance(value, list))
            yield from (1, "a", [None], [1])
            if "maxItems" in schema:
                yield ["a"] * (schema["maxItems"] + 1)
        case "object":
            yield from (value for value in WRONG if not isinstance(value, dict))
            yield from (1, "a")
        case _:
            raise Unbounded(f"{schema}")


def within(schema: Schema) -> Iterator[Any]:
    """At its bounds."""
    match schema.get("type"):
        case "integer" | "number":
            yield from (schema["minimum"], schema["maximum"])
        case "boolean":
            yield from (True, False)
        case "string" if "maxLength" in schema and "pattern" not in schema:
            yield from ("a" * schema["maxLength"], "a" * schema.get("minLength", 0), "\x00", "\u202e", "\x1b[2J")
