"""Answers as people and programs read them. Plain and stable where the output is no terminal."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from controller.cli.errors import InputInvalid
from controller.cli.kinds import Column, columns
from controller.cli.table import Following, table
from controller.cli.times import age, local, span
from dataplane.visible import visible

Json = dict[str, Any]


class Output(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    SENTENCE = "sentence"


class Written(StrEnum):
    """How an intent can be written."""

    JSON = "json"
    YAML = "yaml"
    SENTENCE = "sentence"


class Brief(StrEnum):
    TABLE = "table"
    JSON = "json"


class Detail(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class Tree(StrEnum):
    TREE = "tree"
    JSON = "json"


def show(kind: str, answer: Json | list[Json], output: Output) -> None:
    """A resource or row, or several."""
    match output:
        case Output.JSON:
            print(json.dumps(answer, indent=2, ensure_ascii=False))
        case Output.YAML:
            print(as_yaml(answer if isinstance(answer, list) else [answer]), end="")
        case Output.SENTENCE:
            for row in answer if isinstance(answer, list) else [answer]:
                print(sentence(kind, row))
        case Output.TABLE | Output.WIDE:
            rows = answer if isinstance(answer, list) else [answer]
            shown = columns(kind, wide=output is Output.WIDE)
            table([column.title for column in shown], [cells(row, shown) for row in rows])


class Changes:
    """What a watch shows: first what is there, then each as it changes."""

    def __init__(self, kind: str, output: Output) -> None:
        self._kind, self._output = kind, output
        self._columns = columns(kind, wide=output is Output.WIDE)
        self._table = Following([column.title for column in self._columns])

    def show(self, resources: Sequence[Json]) -> None:
        if self._output in (Output.TABLE, Output.WIDE):
            self._table.show([self._row(resource) for resource in resources])
            return
        for resource in resources:
            match self._output:
                case Output.JSON:
                    print(json.dumps(resource, ensure_ascii=False), flush=True)
                case Output.YAML:
                    print(f"---\n{as_yaml([resource])}", end="", flush=True)
                case _:
                    print(sentence(self._kind, resource), flush=True)

    def _row(self, resource: Json) -> list[str]:
        row = cells(resource, self._columns)
        if not resource.get("status", {}).get("deleted"):
            return row
        at_phase = next(
            (n for n, column in enumerate(self._columns) if column.title in ("PHASE", "STANDING", "STATE")), 1
        )
        return ["DELETED" if place == at_phase else "-" if place else text for place, text in enumerate(row)]


def sentence(kind: str, resource: Json) -> str:
    """Raises InputInvalid for what is no intent."""
    if kind != "intents":
        raise InputInvalid(f"-o sentence: only intents are written as sentences, not {kind}")
    return str(resource["status"].get("sentence", ""))


def as_yaml(documents: Sequence[Json]) -> str:
    from controller.language.manifest import print_yaml

    return print_yaml(documents)


def cells(resource: Json, shown: Sequence[Column]) -> list[str]:
    return [_formed(column, at(resource, column.path)) for column in shown]


_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


def _formed(column: Column, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        match column.form:
            case "age" if value > 0:
                return age(value)
            case "age":
                return "-"
            case "time":
                return local(value)
            case "left":
                return span(value)
            case "protocol":
                return _PROTOCOLS.get(int(value), str(value))
    return cell(value)


def at(resource: Any, path: str) -> Any:
    """What is at a dotted path; None where there is nothing."""
    for field in path.split("."):
        if not isinstance(resource, dict):
            return None
        resource = resource.get(field)
    return resource


def cell(value: Any) -> str:
    """A value in one line; what does not print is written as its code."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3f}"
        case str():
            text = value
        case list():
            text = ("; " if isinstance(value[0], dict) else " ").join(map(cell, value)) if value else ""
        case {"name": str(name)}:
            text = name
        case {"path": list(path)}:
            text = cell(path)
        case {"type": str(condition)}:
            reason = value.get("message") or value.get("reason") or ""
            text = f"{condition}: {reason}" if reason else condition
        case dict():
            text = " ".join(f"{name}={cell(part)}" for name, part in value.items() if part not in (None, "", [], {}))
        case _:
            text = "" if value is None else str(value)
    return visible(text.replace("\n", " ").replace("\t", " ")) or "-"


def reasons(status: Mapping[str, Any]) -> str:
    """An intent's conditions in one line; those of its phase without naming it again."""
    conditions = status.get("conditions") or []
    phase = f"{status.get('phase')}: "
    return "; ".join(cell(condition).removeprefix(phase) for condition in conditions)
