"""The inventory file: what a new store begins with. Ever after the store is what counts, and the file is compared.

All of the file is one change, so that a store has the whole of it or nothing; it is new as long as it has no inventory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import structlog

from controller import config as configuration
from controller.eastwest.identity import Identity
from controller.errors import ConfigInvalid
from controller.language.manifest import Document, Fault, ManifestInvalid, Value, applied, locate, parse
from controller.model.access import ourselves
from controller.model.event import Applied, Problem
from controller.model.inventory import Domain
from controller.model.provenance import KEY_FILES, SEED
from controller.model.resource import Answer
from controller.model.rule import Rule
from controller.reconcile import State
from controller.shell import Shell

SHOWN = 5
"""Resources that a warning names."""
Log = structlog.typing.FilteringBoundLogger


async def plant(shell: Shell, file: Path, identity: Identity, log: Log) -> None:
    """Raises ManifestInvalid or ConfigInvalid; nothing is stored then."""
    documents = parse(configuration.read(file), str(file))
    values = tuple(_applied(_with_own_key(document.value, identity), document) for document in documents)
    answer = await shell.apply_values(values, by=ourselves(SEED), file=str(file))
    if answer.problems:
        raise ManifestInvalid(tuple(_fault(documents, problem) for problem in answer.problems))
    if answer.conflict:
        raise ConfigInvalid(f"{file}: {answer.conflict}")
    log.info("inventory_seeded", file=str(file), resources=len(documents))


async def compare(shell: Shell, file: Path, identity: Identity, key_dir: Path, log: Log) -> None:
    """Says where the file is not what is stored. Only our own key is what the key directory says, always."""
    own = shell.state.inventory.domains.get(identity.domain)
    if own is not None and _with_own_key(own, identity) != own:
        await _renew_own_key(shell, own, identity, key_dir)
        advice = "neighbours refuse this domain until they pin the new key and certificate (stitch domain add)"
        log.warning("own_key_changed", domain=own.name, key_dir=str(key_dir), advice=advice)
    try:
        documents = parse(configuration.read(file), str(file))
    except (ConfigInvalid, ManifestInvalid) as error:
        log.warning("inventory_unreadable", file=str(file), reason=str(error), advice="the store is used as it is")
        return
    different = list(_differences(shell.state, documents, identity))
    if different:
        names = ", ".join(different[:SHOWN]) + (f" and {len(different) - SHOWN} more" if len(different) > SHOWN else "")
        advice = f"the store is what counts; `stitch diff -f {file}` shows what, `stitch apply -f {file}` uses the file"
        log.warning("inventory_differs", file=str(file), resources=len(different), names=names, advice=advice)


async def _renew_own_key(shell: Shell, own: Domain, identity: Identity, key_dir: Path) -> None:
    value = Applied(kind="Domain", content=msgspec.json.encode(_with_own_key(own, identity)))
    answer: Answer = await shell.apply_values((value,), by=ourselves(KEY_FILES), file=str(key_dir))
    if answer.problems or answer.conflict:
        reason = answer.conflict or answer.problems[0].message
        raise ConfigInvalid(f"{key_dir}: the new key of {own.name} cannot be used: {reason}")


def _differences(state: State, documents: Sequence[Document], identity: Identity) -> Iterator[str]:
    for document in documents:
        stored = _held(state, document)
        if stored != _with_own_key(document.value, identity):
            yield f"{document.kind.lower()}s/{document.name} {'is other' if stored is not None else 'is not there'}"


def _held(state: State, document: Document) -> Value | None:
    match document.kind:
        case "Intent":
            intent_record = state.intent_records.get(document.name)
            return intent_record.intent if intent_record is not None else None
        case "Rule":
            rule: Rule | None = state.rules.get(document.name)
            return rule
        case kind:
            table: dict[str, Value] = getattr(state.inventory, f"{kind.lower()}s")
            return table.get(document.name)


def _with_own_key(value: Value, identity: Identity) -> Value:
    """The manifest of our own Domain needs no key: we know it. So whoever reads it can verify what we signed."""
    if not isinstance(value, Domain) or not value.own:
        return value
    return msgspec.structs.replace(value, key=identity.public_key, certificate=identity.root_certificate)


def _applied(value: Value, document: Document) -> Applied:
    return applied(msgspec.structs.replace(document, value=value))


def _fault(documents: Sequence[Document], problem: Problem) -> Fault:
    first, *path = problem.path or (0,)
    document = documents[int(first)]
    line, column = locate(document, path)
    return Fault(file=document.file, line=line, column=column, message=problem.message)
