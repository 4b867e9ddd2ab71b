"""The pipeline's P4Info as frozen values: tables, actions, counters and packet metadata by id and by name.

Names are the aliases of the P4Info. Source: P4Runtime specification §6.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from finsy.proto import p4i
from google.protobuf import text_format

from dataplane.reasons import MISSES, PuntReason

P4INFO_FILE = Path(__file__).parents[2] / "p4src" / "stitch.p4info.txtpb"


class MatchType(enum.Enum):
    EXACT = "exact"
    LPM = "lpm"
    TERNARY = "ternary"
    RANGE = "range"


class P4InfoInvalid(ValueError):
    """The P4Info names something that this target cannot realize."""


@dataclass(frozen=True, slots=True)
class MatchField:
    id: int
    name: str
    bitwidth: int
    match_type: MatchType


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of an action, or a field of packet metadata."""

    id: int
    name: str
    bitwidth: int
    refers_to: tuple[tuple[str, str], ...] = ()
    """Tables and fields that have to have its value before an entry says it (`@refers_to`)."""


@dataclass(frozen=True, slots=True)
class Action:
    id: int
    name: str
    params: tuple[Param, ...]


@dataclass(frozen=True, slots=True)
class DefaultAction:
    """What a miss does; constant in this pipeline."""

    action: Action
    params: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Table:
    id: int
    name: str
    size: int
    fields: tuple[MatchField, ...]
    actions: tuple[Action, ...]
    """What an entry may do, in the order of the P4Info."""
    default_only: tuple[Action, ...]
    default_action: DefaultAction
    entry_restriction: str
    """The condition that every entry meets, in p4-constraints' language; empty: none."""

    @cached_property
    def field_by_id(self) -> Mapping[int, MatchField]:
        return {field.id: field for field in self.fields}

    @cached_property
    def field_by_name(self) -> Mapping[str, MatchField]:
        return {field.name: field for field in self.fields}

    @cached_property
    def action_by_id(self) -> Mapping[int, Action]:
        return {action.id: action for action in self.actions}

    @cached_property
    def action_by_name(self) -> Mapping[str, Action]:
        return {action.name: action for action in self.actions}

    @property
    def has_priority(self) -> bool:
        """P4Runtime §9.1: the priority is > 0 where a field is ternary or a range, else 0."""
        return any(field.match_type in (MatchType.TERNARY, MatchType.RANGE) for field in self.fields)


@dataclass(frozen=True, slots=True)
class Counter:
    id: int
    name: str
    size: int


@dataclass(frozen=True)
class P4Info:
    message: p4i.P4Info = field(compare=False, repr=False)
    """As read; what GetForwardingPipelineConfig returns. Never changed."""
    tables: tuple[Table, ...]
    counters: tuple[Counter, ...]
    packet_in: tuple[Param, ...]
    packet_out: tuple[Param, ...]

    @cached_property
    def table_by_id(self) -> Mapping[int, Table]:
        return {table.id: table for table in self.tables}

    @cached_property
    def table_by_name(self) -> Mapping[str, Table]:
        return {table.name: table for table in self.tables}

    @cached_property
    def counter_by_name(self) -> Mapping[str, Counter]:
        return {counter.name: counter for counter in self.counters}

    @cached_property
    def counter_by_id(self) -> Mapping[int, Counter]:
        return {counter.id: counter for counter in self.counters}


def load(path: Path = P4INFO_FILE) -> P4Info:
    """Raises P4InfoInvalid where the file is no P4Info that this target can realize, OSError where it is not there."""
    try:
        message = text_format.Parse(path.read_text(), p4i.P4Info())
    except text_format.ParseError as error:
        raise P4InfoInvalid(f"{path}: no P4Info in text format: {error}") from error
    return view(message)


def view(message: p4i.P4Info) -> P4Info:
    """The typed view of `message`. Raises P4InfoInvalid."""
    actions = {action.preamble.id: _action(action) for action in message.actions}
    metadata = {entry.preamble.alias: entry for entry in message.controller_packet_metadata}
    return P4Info(
        message=message,
        tables=tuple(_table(table, actions) for table in message.tables),
        counters=tuple(Counter(c.preamble.id, c.preamble.alias, c.size) for c in message.counters),
        packet_in=_metadata(metadata, "packet_in"),
        packet_out=_metadata(metadata, "packet_out"),
    )


def resized(p4info: P4Info, sizes: Mapping[str, int]) -> P4Info:
    """The same pipeline with other sizes of tables and counters, by name."""
    message = p4i.P4Info()
    message.CopyFrom(p4info.message)
    for table in message.tables:
        table.size = sizes.get(table.preamble.alias, table.size)
    for counter in message.counters:
        counter.size = sizes.get(counter.preamble.alias, counter.size)
    return view(message)


def differences(ours: p4i.P4Info, theirs: p4i.P4Info, limit: int = 5) -> tuple[str, ...]:
    """In words, what `theirs` has otherwise than `ours`; empty where they mean the same. At most `limit`.

    Sizes are the target's to say, and are not compared.
    """
    ours, theirs = _without_sizes(ours), _without_sizes(theirs)
    lines: list[str] = []
    for kind in ("tables", "actions", "counters", "controller_packet_metadata"):
        mine = {entry.preamble.alias: entry for entry in getattr(ours, kind)}
        other = {entry.preamble.alias: entry for entry in getattr(theirs, kind)}
        lines += [f"{kind}: {name!r} is missing" for name in mine if name not in other]
        lines += [f"{kind}: {name!r} is unknown to this target" for name in other if name not in mine]
        lines += [f"{kind}: {name!r} differs" for name in mine if name in other and mine[name] != other[name]]
    if not lines and ours != theirs:
        lines = [
            f"{descriptor.name} differs"
            for descriptor in ours.DESCRIPTOR.fields
            if getattr(ours, descriptor.name) != getattr(theirs, descriptor.name)
        ] or ["unknown fields differ"]
    if len(lines) > limit:
        lines[limit:] = [f"and {len(lines) - limit} more"]
    return tuple(lines)


def _without_sizes(message: p4i.P4Info) -> p4i.P4Info:
    plain = p4i.P4Info()
    plain.CopyFrom(message)
    for table in plain.tables:
        table.size = 0
    for counter in plain.counters:
        counter.size = 0
    return plain


def _action(message: p4i.Action) -> Action:
    return Action(
        id=message.preamble.id,
        name=message.preamble.alias,
        params=tuple(Param(p.id, p.name, p.bitwidth, _refers_to(p.annotations)) for p in message.params),
    )


def _metadata(messages: Mapping[str, p4i.ControllerPacketMetadata], alias: str) -> tuple[Param, ...]:
    if alias not in messages:
        raise P4InfoInvalid(f"P4Info: controller_packet_metadata {alias!r} is missing")
    return tuple(Param(field.id, field.name, field.bitwidth) for field in messages[alias].metadata)


def _table(message: p4i.Table, actions: Mapping[int, Action]) -> Table:
    name = message.preamble.alias
    extras = (message.implementation_id, message.direct_resource_ids, message.is_const_table)
    if any(extras) or message.idle_timeout_behavior:
        raise P4InfoInvalid(f"P4Info: table {name!r} is constant or has a profile, direct resources or idle timeouts")
    default_id = message.const_default_action_id
    if not default_id or default_id not in actions:
        raise P4InfoInvalid(f"P4Info: table {name!r} has no constant default action")
    default = actions[default_id]
    default_only = p4i.ActionRef.Scope.DEFAULT_ONLY
    return Table(
        id=message.preamble.id,
        name=name,
        size=message.size,
        fields=tuple(_match_field(name, field) for field in message.match_fields),
        actions=tuple(actions[ref.id] for ref in message.action_refs if ref.scope != default_only),
        default_only=tuple(actions[ref.id] for ref in message.action_refs if ref.scope == default_only),
        default_action=DefaultAction(default, tuple((param.name, _default(name, default)) for param in default.params)),
        entry_restriction=_entry_restriction(message.preamble.annotations),
    )


def _match_field(table: str, message: p4i.MatchField) -> MatchField:
    try:
        match_type = MatchType(p4i.MatchField.MatchType.Name(message.match_type).lower())
    except ValueError as error:
        raise P4InfoInvalid(f"P4Info: {table}.{message.name}: match type {message.match_type} is not known") from error
    return MatchField(message.id, message.name, message.bitwidth, match_type)


def _default(table: str, action: Action) -> int:
    """The only parameter of a default action: why it drops or punts."""
    return MISSES[table] if action.name == "drop" else PuntReason.NO_NEIGHBOR


def _refers_to(annotations: Iterable[str]) -> tuple[tuple[str, str], ...]:
    references = (re.fullmatch(r"@refers_to\((\w+) , (\w+)\)", annotation) for annotation in annotations)
    return tuple((match[1], match[2]) for match in references if match)


def _entry_restriction(annotations: Iterable[str]) -> str:
    for annotation in annotations:
        if restriction := re.fullmatch(r'@entry_restriction\("(.*)"\)', annotation):
            return restriction[1]
    return ""
