"""docs/configuration.md: every field of the files that programs read, from their schemas.

`python -m controller.cli.file_reference` writes it, with `--check` it only says whether it is up to date.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from controller.cli.file_schema import FILES, Schema

FILE = Path(__file__).parents[2] / "docs" / "configuration.md"
HEAD = """# Configuration files

Every field of the files that the programs read, made from the types that read them (by `python -m
controller.cli.file_reference`). `stitch schema config|agent|policy|topology` prints the same as JSON Schema, for
editors and checks. A field that is not known is an error.
"""


def text() -> str:
    return HEAD + "".join(_section(name, schema()) for name, schema in FILES.items())


def _section(name: str, schema: Schema) -> str:
    records = schema.get("$defs", {})
    root = _resolved(schema, records)
    names = {title: record for title, record in records.items() if "enum" in record}
    parts = [f"\n## {schema['title']}\n\n`stitch schema {name}`\n", _table(root, names)]
    others = [record for record in records.values() if record is not root and "properties" in record]
    for record in others:
        about = f"\n{record['description']}\n" if "description" in record else ""
        parts.append(f"\n### {record['title']}\n{about}{_table(record, names)}")
    return "".join(parts)


def _resolved(schema: Schema, records: Schema) -> Schema:
    reference = schema.get("$ref")
    return records[reference.rpartition("/")[2]] if reference else schema


def _table(record: Schema, names: Schema) -> str:
    rows = "".join(f"| `{name}` | {kind} | {note} |\n" for name, kind, note in _rows(record, "", names))
    return f"\n| field | type | meaning |\n|---|---|---|\n{rows}"


def _rows(record: Schema, prefix: str, names: Schema) -> Iterator[tuple[str, str, str]]:
    """Fields, and those of what has no name of its own. `names`: the enumerations."""
    for name, field in record["properties"].items():
        note = " ".join(field.get("description", "").split())
        if name not in record.get("required", ()):
            default = field.get("default")
            shown = f"`{json.dumps(default)}`" if default not in (None, "", [], {}) else ""
            note = "; ".join(filter(None, (note.rstrip("."), f"default {shown}" if shown else "optional")))
        yield prefix + name, _type(field, names), note.replace("|", "\\|")
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _rows(inner, f"{prefix}{name}{'[]' if 'items' in field else ''}.", names)


def _type(field: Schema, names: Schema) -> str:
    match field:
        case {"$ref": reference}:
            title = str(reference).rpartition("/")[2]
            return _type(names[title], names) if title in names else f"[{title}](#{title.lower()})"
        case {"anyOf": choices}:
            return " or ".join(
                dict.fromkeys(_type(choice, names) for choice in choices if choice.get("type") != "null")
            )
        case {"enum": values}:
            return ", ".join(map(str, values)) if len(values) <= 6 else f"one of {len(values)} names"
        case {"type": "array", "items": {} as items}:
            return f"list of {_type(items, names)}"
        case {"type": "object", "additionalProperties": {} as items}:
            return f"mapping from name to {_type(items, names)}"
        case _:
            return str(field.get("type", "any"))


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if FILE.read_text() == text():
            return 0
        print(f"{FILE.name} is not up to date: python -m controller.cli.file_reference", file=sys.stderr)
        return 1
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
