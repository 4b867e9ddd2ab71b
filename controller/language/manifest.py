"""Manifests (YAML or JSON) to the model's values and back."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from ruamel.yaml import YAML

from controller.language import bulk, resources, scalars
from controller.language import intent as intents
from controller.language import rule as rules
from controller.language.fault import Fault, ManifestInvalid
from controller.language.shape import (
    INVALID,
    Field,
    Fields,
    Flaw,
    Flaws,
    Labels,
    Path,
    Scalar,
    describe,
    nearest,
)
from controller.language.tree import Position, Tree, fault_of, load, locate_in
from controller.model.event import Applied, Problem
from controller.model.intent import Intent
from controller.model.inventory import Domain, Link, Network, Node, Service
from controller.model.rule import Rule
from dataplane.visible import visible

__all__ = ["Fault", "ManifestInvalid"]

API_VERSION = "netstitch/v1"
MAX_INTENT_BYTES = 64 * 1024
"""Of one intent, however it is written."""
MAX_FAULTS = 100
"""After so many the rest of a text is not read."""
Value = Intent | Rule | Network | Service | Node | Link | Domain


class _Kind(msgspec.Struct, frozen=True, kw_only=True):
    model: type[Value]
    metadata: Fields
    spec: Fields
    print_spec: Callable[[Any], dict[str, Any]]


def _metadata(name: Scalar, **fields: Field) -> Fields:
    return Fields(fields={"name": Field(shape=name, required=True), **fields})


_LABELS = Field(shape=Labels())
_TENANT = Field(shape=scalars.NAME, required=True)

_KINDS: dict[str, _Kind] = {
    "Domain": _Kind(
        model=Domain,
        metadata=_metadata(scalars.NAME, labels=_LABELS),
        spec=resources.DOMAIN,
        print_spec=resources.print_domain,
    ),
    "Network": _Kind(
        model=Network,
        metadata=_metadata(scalars.NETWORK_NAME, labels=_LABELS),
        spec=resources.NETWORK,
        print_spec=resources.print_network,
    ),
    "Service": _Kind(
        model=Service,
        metadata=_metadata(scalars.SERVICE_NAME, labels=_LABELS),
        spec=resources.SERVICE,
        print_spec=resources.print_service,
    ),
    "Node": _Kind(
        model=Node,
        metadata=_metadata(scalars.NAME, labels=_LABELS),
        spec=resources.NODE,
        print_spec=resources.print_node,
    ),
    "Link": _Kind(
        model=Link,
        metadata=_metadata(scalars.NAME, labels=_LABELS),
        spec=resources.LINK,
        print_spec=resources.print_link,
    ),
    "Rule": _Kind(model=Rule, metadata=_metadata(scalars.NAME), spec=rules.RULE, print_spec=rules.print_rule),
    "Intent": _Kind(
        model=Intent,
        metadata=_metadata(scalars.NAME, tenant=_TENANT, labels=_LABELS),
        spec=intents.INTENT,
        print_spec=intents.print_intent,
    ),
}
_ANY = Scalar(expected="text", make=str, types=(object,))
_DOCUMENTS = {
    kind.model: Fields(
        fields={
            "apiVersion": Field(shape=_ANY),
            "kind": Field(shape=_ANY),
            "metadata": Field(shape=kind.metadata, required=True),
            "spec": Field(shape=kind.spec, required=True),
        }
    )
    for kind in _KINDS.values()
}
KINDS: tuple[str, ...] = tuple(_KINDS)
PLURALS: dict[str, str] = {f"{kind.lower()}s": kind for kind in KINDS}
_BY_MODEL = {kind.model: name for name, kind in _KINDS.items()}
_SHOWN_ONLY, _REVISION = "status", "revision"
"""Fields, one of them of the metadata, that are shown and not read: what was shown can be applied."""
"""What `stitch get -o yaml` adds; ignored, so that what was printed can be applied."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest that is well-formed in itself."""

    kind: str
    name: str
    value: Value
    data: dict[str, Any]
    """As written, as JSON has it."""
    file: str
    positions: dict[Path, Position]


def parse(
    text: str | bytes, file: str = "<stdin>", *, tenant_of: Callable[[Mapping[str, Any]], str] | None = None
) -> tuple[Document, ...]:
    """All manifests of a YAML (or JSON) text. Raises ManifestInvalid with everything that is wrong.

    `tenant_of` says of an intent's manifest that names no tenant whose it is, or raises ValueError.
    """
    documents: list[Document] = []
    faults: list[Fault] = []
    seen: dict[tuple[str, str], int] = {}
    for tree in _manifests(load(text, file)):
        if len(faults) >= MAX_FAULTS:
            line, column = locate_in(tree.positions, ())
            message = f"{len(faults)} faults; from here on nothing was checked"
            faults.append(Fault(file=file, line=line, column=column, message=message))
            break
        flaws: Flaws = []
        data = tree.data if tenant_of is None else _with_tenant(tree.data, tenant_of, flaws)
        value = _read(data, flaws) if not flaws else None
        if isinstance(value, Intent) and tree.characters > MAX_INTENT_BYTES:
            flaws.append(_too_big(tree.characters))
        if value is None or flaws:
            faults.extend(fault_of(flaw, tree, file) for flaw in flaws)
            continue
        kind = _BY_MODEL[type(value)]
        line, column = locate_in(tree.positions, ("metadata", "name"))
        if (kind, value.name) in seen:
            message = f"{kind} {value.name!r} is in line {seen[kind, value.name]} already"
            faults.append(Fault(file=file, line=line, column=column, message=message))
        seen.setdefault((kind, value.name), line)
        documents.append(
            Document(kind=kind, name=value.name, value=value, data=data, file=file, positions=tree.positions)
        )
    if not documents and not faults:
        faults.append(Fault(file=file, line=1, column=1, message="there is no manifest in it"))
    if faults:
        raise ManifestInvalid(tuple(faults))
    return tuple(documents)


def _with_tenant(data: Any, tenant_of: Callable[[Mapping[str, Any]], str], flaws: Flaws) -> Any:
    """Of an intent that names none."""
    metadata = data.get("metadata") if isinstance(data, Mapping) and data.get("kind") == "Intent" else None
    if not isinstance(metadata, Mapping) or "tenant" in metadata:
        return data
    try:
        return {**data, "metadata": {**metadata, "tenant": tenant_of(data)}}
    except ValueError as error:
        flaws.append(Flaw(path=("metadata", "tenant"), message=f"is missing: {error}"))
        return data


def _manifests(trees: Sequence[Tree]) -> list[Tree]:
    """A document may be a list of manifests."""
    manifests: list[Tree] = []
    for tree in trees:
        if not isinstance(tree.data, list):
            manifests.append(tree)
            continue
        positions: list[dict[Path, Position]] = [{} for _ in tree.data]
        keys: list[dict[Path, Position]] = [{} for _ in tree.data]
        for source, target in ((tree.positions, positions), (tree.keys, keys)):
            for path, position in source.items():
                if path and isinstance(path[0], int):
                    target[path[0]][path[1:]] = position
        manifests.extend(
            Tree(data=data, positions=positions[index], keys=keys[index]) for index, data in enumerate(tree.data)
        )
    return manifests


def read(objects: Sequence[object]) -> tuple[tuple[Applied, ...], tuple[Problem, ...]]:
    """Manifests that came as JSON objects. The paths of problems start with the manifest's index."""
    applied_ones: list[Applied] = []
    problems: list[Problem] = []
    seen: set[tuple[str, str]] = set()
    for index, data in enumerate(objects):
        if len(problems) >= MAX_FAULTS:
            problems.append(Problem(path=(index,), message=f"{len(problems)} faults; from here on nothing was checked"))
            break
        flaws: Flaws = []
        fast = bulk.convert(data) if _is_small(data) else None
        value = fast if fast is not None else _read(data, flaws)
        problems.extend(Problem(path=(index, *flaw.path), message=flaw.message) for flaw in flaws)
        if value is None:
            continue
        kind = _BY_MODEL[type(value)]
        if (kind, value.name) in seen:
            message = f"{kind} {value.name!r} is in the request twice"
            problems.append(Problem(path=(index, "metadata", "name"), message=message))
        seen.add((kind, value.name))
        applied_ones.append(Applied(kind=kind, content=msgspec.json.encode(value)))
    return ((), tuple(problems)) if problems else (tuple(applied_ones), ())


def _is_small(data: object) -> bool:
    return isinstance(data, Mapping) and data.get("kind") == "Intent" and _size_bytes(data) <= MAX_INTENT_BYTES


def decode_intents(body: bytes) -> tuple[Intent, ...]:
    """A JSON array of intents, in bulk. Raises ManifestInvalid with everything that is wrong, and where."""
    decoded = bulk.decode(body, MAX_INTENT_BYTES)
    if decoded and len(decoded) == len({intent.name for intent in decoded}):
        return decoded
    intents: list[Intent] = []
    for document in parse(body, "<json>"):
        if not isinstance(document.value, Intent):
            line, column = locate(document, ("kind",))
            raise ManifestInvalid((Fault(file="<json>", line=line, column=column, message="kind: expected Intent"),))
        intents.append(document.value)
    return tuple(intents)


def applied(document: Document) -> Applied:
    return Applied(kind=document.kind, content=msgspec.json.encode(document.value))


def model_of(kind: str) -> type[Value]:
    """The model's type of a kind. Raises KeyError."""
    return _KINDS[kind].model


def locate(document: Document, path: Sequence[str | int]) -> tuple[int, int]:
    """Line and column (from 1) of the value at `path`, or of the nearest that encloses it."""
    return locate_in(document.positions, tuple(path))


def _read(data: object, flaws: Flaws) -> Value | None:
    """The value of one manifest, or None with flaws."""
    if not isinstance(data, Mapping):
        expected = "expected a manifest (apiVersion, kind, metadata, spec)"
        flaws.append(Flaw(path=(), message=f"{expected}, found {describe(data)}"))
        return None
    name = data.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        if "kind" in data:
            message = f"unknown kind {describe(name)}{nearest(str(name), KINDS)}"
            flaws.append(Flaw(path=("kind",), message=message))
        else:
            flaws.append(Flaw(path=(), message=f"field 'kind' is missing; one of {', '.join(KINDS)}"))
        return None
    if kind.model is Intent and (size := _size_bytes(data)) > MAX_INTENT_BYTES:
        flaws.append(_too_big(size))
        return None
    if data.get("apiVersion") != API_VERSION:
        given = describe(data.get("apiVersion"))
        flaws.append(Flaw(path=("apiVersion",), message=f"expected {API_VERSION}, found {given}"))
    said = {name: value for name, value in data.items() if name != _SHOWN_ONLY}
    if isinstance(metadata := data.get("metadata"), Mapping):
        said["metadata"] = {name: value for name, value in metadata.items() if name != _REVISION}
    values = _DOCUMENTS[kind.model].read(said, (), flaws)
    if values is INVALID or flaws:
        return None
    value = kind.model(**values["metadata"], **values["spec"])
    if isinstance(value, Domain) and value.certificate:
        from controller.model import root_certificate  # slow to import, and only this kind needs it

        if misfit := root_certificate.misfit(value.certificate, value.name, value.key):
            flaws.append(Flaw(path=("spec", "certificate"), message=misfit))
            return None
    return value


def _too_big(size: int) -> Flaw:
    return Flaw(
        path=(), message=f"one intent of {size:,} bytes; at most {MAX_INTENT_BYTES:,} are read: make several of it"
    )


def _size_bytes(data: Mapping[Any, Any]) -> int:
    """As JSON, aliases written out."""
    try:
        return len(msgspec.json.encode(data))
    except (ValueError, TypeError, OverflowError):  # what JSON cannot say, the shapes will refuse
        return len(repr(data))


def read_intent(data: object, flaws: Flaws) -> Intent | None:
    """The intent of one manifest, or None with flaws."""
    value = _read(data, flaws)
    return value if isinstance(value, Intent) else None


def to_manifest(value: Value) -> dict[str, Any]:
    """`{apiVersion, kind, metadata, spec}`; reading it gives an equal value."""
    name = _BY_MODEL[type(value)]
    metadata: dict[str, Any] = {"name": value.name}
    if isinstance(value, Intent):
        metadata["tenant"] = value.tenant
    if not isinstance(value, Rule) and value.labels:
        metadata["labels"] = dict(value.labels)
    return {"apiVersion": API_VERSION, "kind": name, "metadata": metadata, "spec": _KINDS[name].print_spec(value)}


def print_yaml(manifests: Sequence[dict[str, Any]]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 1 << 20  # a text that is folded loses spaces
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    yaml.dump_all(list(manifests), stream)
    if visible(stream.getvalue()) != stream.getvalue():  # what does not print is quoted, and stays what it is
        yaml.allow_unicode = False
        stream = io.StringIO()
        yaml.dump_all(list(manifests), stream)
    return stream.getvalue()


def schema(kind: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a kind's manifest. Raises KeyError for an unknown kind."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind},
            "metadata": _KINDS[kind].metadata.schema(),
            "spec": _KINDS[kind].spec.schema(),
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
    }
