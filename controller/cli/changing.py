"""`stitch apply` and `stitch delete`: manifests from files, problems back to their lines, waiting for the outcome."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from controller.cli.client import Client, Json, ManifestsRefused
from controller.cli.errors import AnswerIsNo, InputInvalid
from controller.cli.render import cell, reasons
from controller.cli.tenant import Tenants

if TYPE_CHECKING:
    from controller.language.manifest import Document

WORKING = frozenset({"Pending", "Negotiating", "Installing"})
"""Phases that an intent goes through by itself; the others last."""
_WITHOUT_PHASE = {"intents": "Pending"}
"""What a resource is whose status says no phase; networks of other domains have none."""
_POLL_S = 0.1
_READ_BYTES = 20 * 1024 * 1024
"""More than the language takes; the rest of an endless input is not read."""


def read_documents(client: Client, files: Sequence[str]) -> tuple["Document", ...]:
    """All manifests of all files (`-`: standard input). The controller is asked only where an intent names no tenant.
    Raises InputInvalid with everything that is wrong."""
    from controller.cli.front_ends import front_end, read_with
    from controller.language.manifest import ManifestInvalid, parse

    documents: list[Document] = []
    faults: list[str] = []
    tenant_of = Tenants(client).of
    for file in files:
        name = "<stdin>" if file == "-" else file
        try:
            text = read_input(file)
            foreign = front_end(file)
            read = (
                parse(text, name, tenant_of=tenant_of)
                if foreign is None
                else read_with(foreign, text, name, tenant_of=tenant_of)
            )
            documents.extend(read)
        except ManifestInvalid as error:
            faults.extend(map(str, error.faults))
    faults.extend(_repeated(documents))
    if faults:
        raise InputInvalid("\n".join(faults))
    return tuple(documents)


def apply(
    client: Client, documents: Sequence["Document"], *, wait_s: float | None, if_match: str | None = None
) -> None:
    """Raises InputInvalid with file:line:column for what the controller does not accept; AnswerIsNo."""
    with _located(documents):
        results = client.apply([document.data for document in documents], if_match=if_match)
    for result in results:
        print(result, flush=True)
    if wait_s is not None:
        deadline = time.monotonic() + wait_s
        refusals: list[str] = []
        for kind in ("Network", "Link", "Intent"):
            names = [document.name for document in documents if document.kind == kind]
            refusals += _wait_until_active(client, f"{kind.lower()}s", names, deadline, wait_s)
        if refusals:
            raise AnswerIsNo("\n".join(refusals))


def preview(client: Client, documents: Sequence["Document"], *, if_match: str | None = None) -> Json:
    """The answer to a dry run. Raises as `apply`."""
    with _located(documents):
        return client.preview([document.data for document in documents], if_match=if_match)


@contextlib.contextmanager
def _located(documents: Sequence["Document"]) -> Iterator[None]:
    """What the controller does not accept, as InputInvalid with file:line:column."""
    from controller.language.manifest import locate
    from controller.language.shape import dotted

    try:
        yield
    except ManifestsRefused as error:
        lines = []
        for path, message in error.problems:
            match path:
                case (int(index), *inner) if 0 <= index < len(documents):
                    document = documents[index]
                    line, column = locate(document, inner)
                    where = dotted(tuple(inner))
                    lines.append(f"{document.file}:{line}:{column}: {f'{where}: ' if where else ''}{message}")
                case _:
                    lines.append(message)
        raise InputInvalid("\n".join(lines)) from error


def _wait_until_active(client: Client, kind: str, names: Sequence[str], deadline: float, wait_s: float) -> list[str]:
    """Says each phase on standard error. Which are not Active in time, or will not be, and why."""
    open_names = dict.fromkeys(names, "nothing is known of it yet")
    refusals: list[str] = []
    if open_names:
        for resource in client.watch(kind, deadline=deadline):
            name = resource["metadata"].get("name") if resource is not None else None
            if resource is not None and name in open_names:
                _follow(kind, str(name), resource["status"], open_names, refusals)
            if not open_names:
                break
    late = (f"{kind}/{name} is not Active after {wait_s:g} s: {last}" for name, last in open_names.items())
    return [*refusals, *late]


def _follow(kind: str, name: str, status: Json, open_names: dict[str, str], refusals: list[str]) -> None:
    phase = "deleted" if status.get("deleted") else str(status.get("phase", _WITHOUT_PHASE.get(kind, "Active")))
    why = reasons(status)
    text = f"{phase}: {why}" if why else phase
    if phase in WORKING:
        if text != open_names[name]:
            print(f"{kind}/{name} {text}", file=sys.stderr, flush=True)
        open_names[name] = text
        return
    del open_names[name]
    if phase == "Active":
        paths = status.get("paths")
        path = f", path {cell(paths)}" if paths else ""
        if kind == "intents":
            print(f"intents/{name} Active{path}{f' ({why})' if why else ''}", flush=True)
    else:
        refusals.append(f"{kind}/{name} is {text}")


def delete(
    client: Client,
    references: Sequence[tuple[str, str]],
    wait_s: float | None,
    *,
    ignore_not_found: bool = False,
    if_match: str | None = None,
) -> None:
    """All or none. Raises AnswerIsNo with everything that is in the way, or (with `wait_s`) is not gone in time."""
    for result in client.delete(references, ignore_not_found=ignore_not_found, if_match=if_match):
        print(result, flush=True)
    if wait_s is None:
        return
    deadline = time.monotonic() + wait_s
    late: list[str] = []
    for kind, name in references:
        while (left := _left(client, kind, name)) is not None:
            if time.monotonic() > deadline:
                late.append(f"{kind}/{name} is not gone after {wait_s:g} s: {left}")
                break
            time.sleep(_POLL_S)
    if late:
        raise AnswerIsNo("\n".join(late))


def _left(client: Client, kind: str, name: str) -> str | None:
    """What is left of it; None: nothing."""
    try:
        status = client.get(kind, name)["status"]
    except AnswerIsNo:
        return None
    return f"{status.get('phase', 'there')} {reasons(status)}".strip()


def references_of(documents: Sequence["Document"]) -> list[tuple[str, str]]:
    """What depends on others first: the opposite of the order in which they are written."""
    from controller.language.manifest import PLURALS

    plurals = {kind: plural for plural, kind in PLURALS.items()}
    return [(plurals[document.kind], document.name) for document in reversed(documents)]


def read_input(file: str) -> bytes:
    """Of a file, or standard input (`-`). Raises InputInvalid."""
    try:
        if file == "-":
            text = sys.stdin.buffer.read(_READ_BYTES)
            if not text.strip():
                raise InputInvalid("<stdin>: nothing came in: see what the command before the | says")
            return text
        with open(file, "rb") as opened:
            return opened.read(_READ_BYTES)
    except IsADirectoryError as error:
        raise InputInvalid(f"{file} is a directory: name the files in it") from error
    except FileNotFoundError as error:
        raise InputInvalid(f"{file or repr(file)}: there is no such file{_why_not(file)}") from error
    except OSError as error:
        raise InputInvalid(f"{file}: cannot be read: {error.strerror}") from error


def _why_not(file: str) -> str:
    if any(character in file for character in "*?["):
        return ": the shell found none that fits, or the pattern is quoted"
    if "://" in file:
        return f"; fetch it first: curl -fsS {file} | stitch apply -f -"
    if "," in file:
        return "; several files are given each with -f"
    return ""


def _repeated(documents: Sequence["Document"]) -> list[str]:
    from controller.language.manifest import locate

    seen: dict[tuple[str, str], str] = {}
    faults: list[str] = []
    for document in documents:
        line, column = locate(document, ("metadata", "name"))
        place = f"{document.file}:{line}:{column}"
        key = (document.kind, document.name)
        if key in seen:
            faults.append(f"{place}: {document.kind} {document.name!r} is at {seen[key]} already")
        seen.setdefault(key, place)
    return faults
