"""Answers as people and programs read them. Plain and stable where the output is no terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from controller.cli.errors import InputInvalid
from controller.cli.kinds import Column, columns

Json = dict[str, Any]
_GAP = "   "


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


def show_change(kind: str, resource: Json, output: Output) -> None:
    """One line of a watch (a document in YAML)."""
    match output:
        case Output.JSON:
            print(json.dumps(resource, ensure_ascii=False), flush=True)
        case Output.YAML:
            print(f"---\n{as_yaml([resource])}", end="", flush=True)
        case Output.SENTENCE:
            print(sentence(kind, resource), flush=True)
        case Output.TABLE | Output.WIDE:
            shown = columns(kind, wide=output is Output.WIDE)
            print(_GAP.join(cells(resource, shown)).rstrip(), flush=True)


def sentence(kind: str, resource: Json) -> str:
    """Raises InputInvalid for what is no intent."""
    if kind != "intents":
        raise InputInvalid(f"-o sentence: only intents are written as sentences, not {kind}")
    return str(resource["status"].get("sentence", ""))


def as_yaml(documents: Sequence[Json]) -> str:
    from controller.language.manifest import print_yaml

    return print_yaml(documents)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """By rich on a terminal; elsewhere columns with spaces, never cut."""
    lines = [list(titles), *map(list, rows)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=None, pad_edge=False, header_style="bold")
        for title in titles:
            shown.add_column(title, overflow="fold")
        for line in lines[1:]:
            shown.add_row(*map(Text, line))
        Console().print(shown)
        return
    widths = [max(len(line[place]) for line in lines) for place in range(len(titles))]
    for line in lines:
        print(_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def cells(resource: Json, shown: Sequence[Column]) -> list[str]:
    return [cell(at(resource, column.path)) for column in shown]


def at(resource: Any, path: str) -> Any:
    """What is at a dotted path; None where there is nothing."""
    for field in path.split("."):
        if not isinstance(resource, dict):
            return None
        resource = resource.get(field)
    return resource


def cell(value: Any) -> str:
    """A value in one line without line breaks or control characters."""
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
    return "".join(character if character.isprintable() else " " for character in text) or "-"


def reasons(status: Mapping[str, Any]) -> str:
    """An intent's conditions in one line; those of its phase without naming it again."""
    conditions = status.get("conditions") or []
    phase = f"{status.get('phase')}: "
    return "; ".join(cell(one).removeprefix(phase) for one in conditions)
