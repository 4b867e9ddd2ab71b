"""Files in a form that a plugin reads: `stitch apply -f orders.csv` with a front end named csv."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from controller.language.fault import Fault, ManifestInvalid
from controller.language.manifest import Document, parse
from controller.model.plugin import Plugin
from controller.plugins.hooks import FRONT_ENDS, installed
from controller.plugins.process import PluginFailed, Worker

OWN = frozenset({"", "yaml", "yml", "json"})
"""Suffixes that no plugin takes over."""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    line: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    manifest: dict[str, Any]


def front_end(file: str) -> Plugin | None:
    """The plugin for files with this suffix; None: the file holds manifests."""
    suffix = Path(file).suffix.removeprefix(".").lower()
    if suffix in OWN:
        return None
    return next((plugin for plugin in installed() if plugin.group == FRONT_ENDS and plugin.name == suffix), None)


def read_with(
    plugin: Plugin, text: bytes, file: str, *, tenant_of: Callable[[Mapping[str, Any]], str]
) -> tuple[Document, ...]:
    """What is wrong stands at the line that the plugin names. Raises ManifestInvalid."""
    try:
        answer = asyncio.run(_ask(plugin, text.decode(), file))
        rows = msgspec.convert(answer, type=list[Row])
    except UnicodeDecodeError as error:
        raise _invalid(file, 1, f"it is no UTF-8: {error.reason}") from error
    except PluginFailed as error:
        raise _invalid(file, 1, str(error)) from error
    except msgspec.ValidationError as error:
        raise _invalid(file, 1, f"plugin {plugin.name} ({plugin.origin}) answered nonsense: {error}") from error
    return documents(rows, file, tenant_of)


def documents(rows: Sequence[Row], file: str, tenant_of: Callable[[Mapping[str, Any]], str]) -> tuple[Document, ...]:
    """Raises ManifestInvalid."""
    compiled: list[Document] = []
    faults: list[Fault] = []
    for row in rows:
        try:
            (document,) = parse(json.dumps(row.manifest), file, tenant_of=tenant_of)
            compiled.append(msgspec.structs.replace(document, positions={(): (row.line, 1)}))
        except ManifestInvalid as error:
            faults += [msgspec.structs.replace(fault, line=row.line, column=1) for fault in error.faults]
    if faults:
        raise ManifestInvalid(tuple(faults))
    return tuple(compiled)


async def _ask(plugin: Plugin, text: str, file: str) -> Any:
    worker = Worker(plugin)
    try:
        return await worker.call(text=text, file=file)
    finally:
        await worker.close()


def _invalid(file: str, line: int, message: str) -> ManifestInvalid:
    return ManifestInvalid((Fault(file=file, line=line, column=1, message=message),))
