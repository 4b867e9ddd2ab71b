"""JSON Schemas of the files that programs read, from the types that read them: `config`, `agent`, `policy`, `topology`.

Descriptions are the docstrings below the fields of those types, so that file, code and documentation say the same.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _config() -> Schema:
    from controller.config import Config

    return _of_type(Config, "What `stitchd --config FILE` reads")


def _agent() -> Schema:
    from dataplane.host_api import AgentConfig

    return _of_type(AgentConfig, "What `stitch-agent --config FILE` reads")


def _policy() -> Schema:
    from controller.language.policy import POLICY

    return {"$schema": DIALECT, "title": "Which offers of other domains stitchd accepts (YAML)", **POLICY.schema()}


def _topology() -> Schema:
    from topologies.topology import Topology

    schema = _of_type(Topology, "What `stitch lab up FILE` reads (YAML)")
    records = schema["$defs"]
    topology = records["Topology"]
    del topology["description"]  # of the look-ups that programs have
    for section, section_schema in topology["properties"].items():
        if section not in ("name", "links"):  # in the file each is a mapping from its name to the rest
            record = records[section_schema["items"]["$ref"].rpartition("/")[2]]
            del record["properties"]["name"]
            record["required"].remove("name")
            topology["properties"][section] = {"type": "object", "additionalProperties": section_schema["items"]}
    topology["required"].remove("services")
    return schema


FILES: dict[str, Callable[[], Schema]] = {
    "config": _config,
    "agent": _agent,
    "policy": _policy,
    "topology": _topology,
}
"""By the name that `stitch schema` takes; those of `kinds.SCHEMA_FILES`."""


def _of_type(kind: type, title: str) -> Schema:
    (reference,), components = msgspec.json.schema_components([kind], schema_hook=_schema_of_path, ref_template="#/$defs/{name}")  # fmt: skip # noqa: E501
    for record in _records(kind):
        if record.__name__ in components:
            _describe(components[record.__name__], record)
    return {"$schema": DIALECT, "title": title, **reference, "$defs": components}


def _schema_of_path(kind: type) -> Schema:
    if kind is Path:
        return {"type": "string", "description": "An absolute path."}
    raise NotImplementedError(f"no JSON Schema for {kind!r}")


def _records(kind: type) -> list[type]:
    """The type itself, and all records in its fields."""
    records: list[type] = []
    waiting: list[Any] = [msgspec.inspect.type_info(kind)]
    while waiting:
        described = waiting.pop()
        if isinstance(described, msgspec.inspect.StructType) and described.cls not in records:
            records.append(described.cls)
            waiting += [field.type for field in described.fields]
        for inner in ("item_type", "item_types", "key_type", "value_type", "types"):
            inner_type = getattr(described, inner, None)
            waiting += inner_type if isinstance(inner_type, tuple) else [inner_type] if inner_type is not None else []
    return records


def _describe(schema: Schema, record: type) -> None:
    names = {field.name: field.encode_name for field in msgspec.structs.fields(record)}
    for field, text in _field_docstrings(record).items():
        shown = schema["properties"].get(names.get(field, ""))
        if shown is not None:
            shown["description"] = text


def _field_docstrings(record: type) -> dict[str, str]:
    """PEP 257: a string after an assignment documents it; Python keeps it in the source only."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    if not isinstance(definition, ast.ClassDef):
        return {}
    docstrings = {}
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            text = ast.literal_eval(after.value) if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                docstrings[before.target.id] = inspect.cleandoc(text)
    return docstrings
