"""The kinds of things that one can ask for, and how they are shown in a table."""

from dataclasses import dataclass

from controller.cli.errors import InputInvalid

KINDS = (
    "intents", "networks", "services", "hosts", "nodes", "links", "paths", "domains", "rules", "agreements", "tunnels",
    "entries", "flows", "drops", "events", "findings", "incidents", "plugins", "policies", "tokens",
)  # fmt: skip
MANIFESTS = ("domains", "networks", "services", "nodes", "links", "rules", "intents")
"""Those that are written as manifests; the others follow from them."""
SCHEMA_FILES = ("config", "agent", "policy", "topology")
"""Files that programs read, for `stitch schema`."""
ROWS = frozenset({"flows", "drops"})
"""Answered as flat rows, read from the nodes each time; all others are resources."""
_SINGULAR = {f"{kind[:-3]}y" if kind.endswith("ies") else kind[:-1]: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    path: str
    """Fields of the resource, joined by dots."""
    wide: bool = False
    """Only with -o wide."""
    form: str = ""
    """How a value is shown: `age` (of a Unix time), `left` (of seconds), `time` (local), `protocol`."""


def _columns(*narrow: tuple[str, ...], wide: tuple[tuple[str, ...], ...] = ()) -> tuple[Column, ...]:
    name = () if narrow[0][0] in ("NODE", "INTENT") else (Column("NAME", "metadata.name"),)
    return (*name, *(_column(*column) for column in narrow), *(_column(*column, wide=True) for column in wide))


def _column(title: str, path: str, form: str = "", *, wide: bool = False) -> Column:
    return Column(title, path, wide, form)


COLUMNS: dict[str, tuple[Column, ...]] = {
    "intents": _columns(
        ("TENANT", "metadata.tenant"),
        ("PHASE", "status.phase"),
        ("PREDICTED MS", "status.predicted.latency_ms"),
        ("MEASURED MS", "status.measured.latency_ms"),
        ("MBIT/S", "status.measured.bandwidth_mbps"),
        ("AGE", "status.created_s", "age"),
        ("PATH", "status.paths"),
        ("CONDITIONS", "status.conditions"),
        wide=(("LABELS", "metadata.labels"), ("SEGMENTS", "status.segments")),
    ),
    "networks": _columns(
        ("PREFIXES", "spec.prefixes"),
        ("TRUST", "spec.trust"),
        ("AGE", "status.created_s", "age"),
        ("CAPABILITIES", "spec.capabilities"),
        ("ATTACHMENTS", "spec.attachments"),
        ("LEARNT FROM", "status.learnt_from"),
        wide=(("SOURCE", "status.source"), ("GATEWAYS", "spec.gateways"), ("LABELS", "metadata.labels")),
    ),
    "rules": _columns(
        ("WHEN", "spec.when"),
        ("THEN", "status.consequence"),
        ("PRIORITY", "spec.priority"),
        ("INTENTS", "status.intents"),
        ("AGE", "status.created_s", "age"),
        wide=(("EXPLAIN", "spec.explain"),),
    ),
    "plugins": _columns(
        ("GROUP", "spec.group"),
        ("VERSION", "spec.version"),
        ("ORIGIN", "spec.origin"),
        ("STATE", "status.phase"),
        ("CONTAINED", "status.contained"),
        ("REASON", "status.reason"),
    ),
    "tokens": _columns(
        ("ROLE", "spec.role"),
        ("TENANTS", "spec.tenants"),
        ("STATE", "status.phase"),
        ("CREATED", "status.created_s", "time"),
        ("EXPIRES", "status.expires_s", "time"),
        ("LAST USED", "status.last_used_s", "age"),
    ),
    "policies": _columns(
        ("ACCEPT", "spec.accept"),
        ("TRANSIT", "spec.transit"),
        ("FILE", "status.loaded.file"),
        ("LOADED", "status.loaded.at_s", "age"),
        wide=(
            ("ADVERTISE", "spec.advertise"),
            ("LEARN", "spec.learn"),
            ("OFFER", "spec.offer"),
            ("NEIGHBOUR", "spec.neighbour"),
            ("BY", "status.loaded.by"),
        ),
    ),
    "services": _columns(
        ("ADDRESSES", "spec.addresses"),
        ("PORTS", "spec.ports"),
        ("AGE", "status.created_s", "age"),
        ("LEARNT FROM", "status.learnt_from"),
        wide=(("SOURCE", "status.source"),),
    ),
    "hosts": _columns(
        ("PHASE", "status.phase"),
        ("NETWORK", "spec.network"),
        ("NODE", "spec.node"),
        ("PORT", "spec.port"),
        ("MAC", "spec.mac"),
        ("ADDRESSES", "spec.addresses"),
        ("HEARD SINCE", "status.heard_since_s", "age"),
        ("FITS", "status.fits"),
        wide=(("SOURCE", "status.source"), ("LABELS", "metadata.labels")),
    ),
    "nodes": _columns(
        ("ROLE", "spec.role"),
        ("LOCATOR", "spec.locator"),
        ("PHASE", "status.phase"),
        ("DRAIN", "status.drain.phase"),
        ("ENTRIES", "status.entries"),
        ("AGE", "status.created_s", "age"),
        ("REASON", "status.reason"),
        wide=(
            ("UNREACHABLE", "status.unreachable_since_s", "age"),
            ("AGENT", "spec.agent"),
            ("WIREGUARD", "status.wireguard"),
            ("DATAPLANE", "status.capabilities.dataplane"),
            ("SEGMENTS", "status.capabilities.h_encaps_segments"),
            ("METERS", "status.capabilities.meters"),
            ("MTU", "status.capabilities.mtu"),
            ("KERNEL", "status.capabilities.kernel"),
            ("SOFTWARE", "status.software"),
        ),
    ),
    "links": _columns(
        ("A", "spec.a"),
        ("B", "spec.b"),
        ("DOMAIN", "spec.domain"),
        ("DELAY MS", "spec.delay_ms"),
        ("RATE MBIT", "spec.rate_mbit"),
        ("TRUST", "spec.trust"),
        ("CARRIER", "status.carrier"),
        ("DRAIN", "status.drain.phase"),
        ("SOURCE", "status.source"),
        ("DISCOVERY", "status.discovery"),
        ("AGE", "status.created_s", "age"),
        wide=(
            ("PHASE", "status.phase"),
            ("DIFFERENCES", "status.differences"),
            ("COST", "spec.cost"),
            ("LOSS %", "status.facts.loss_percent.value"),
            ("MEASURED", "status.measured"),
            ("MEASURED DIFFERENCES", "status.measured_differences"),
            ("MTU", "spec.mtu"),
            ("SRLG", "spec.srlg"),
        ),
    ),
    "domains": _columns(
        ("SID BLOCK", "spec.sid_block"),
        ("ENDPOINT", "spec.endpoint"),
        ("TRUST", "spec.trust"),
        ("LEADS TO", "status.leads_to"),
        ("AGE", "status.created_s", "age"),
        wide=(("KEY", "spec.key"), ("STATUS", "status")),
    ),
    "agreements": _columns(
        ("STANDING", "status.standing"),
        ("OFFEROR", "spec.offeror"),
        ("ACCEPTOR", "spec.acceptor"),
        ("BORDER", "spec.border"),
        ("LEFT", "status.expires_in_s", "left"),
        ("OWNER", "status.owner"),
        ("REASON", "status.reason"),
        wide=(("REVISION", "spec.revision"), ("ENCRYPTION", "spec.encryption"), ("LATENCY US", "status.latency_us")),
    ),
    "paths": _columns(
        ("HEADEND", "spec.headend"),
        ("ENDPOINT", "spec.endpoint"),
        ("REQUIRE", "spec.require"),
        ("PATHS", "status.nodes"),
        ("OWNERS", "status.owners"),
        wide=(("MEASURED", "status.measured"), ("AROUND", "status.around"), ("WAITING FOR", "status.waiting_for")),
    ),
    "tunnels": _columns(
        ("UP", "status.up"),
        ("PEER", "spec.peer_endpoint"),
        ("HANDSHAKE", "status.latest_handshake_s", "age"),
        ("SENT BYTES", "status.sent_bytes"),
        ("RECEIVED BYTES", "status.received_bytes"),
        ("AGREEMENTS", "status.agreements"),
        ("UNREACHABLE", "status.unreachable_since_s", "age"),
        ("REASON", "status.reason"),
        wide=(
            ("PEER KEY", "spec.peer_public_key"),
            ("ALLOWED IPS", "spec.allowed_ips"),
            ("MTU", "status.mtu"),
            ("EPOCH", "status.epoch"),
            ("KEYS SINCE", "status.keys_since_s", "age"),
            ("POST-QUANTUM", "status.post_quantum"),
        ),
    ),
    "entries": _columns(
        ("ACTION", "spec.action"),
        ("PARAMS", "spec.params"),
        ("OWNER", "status.owner"),
        wide=(("MATCH", "spec.match"), ("PRIORITY", "spec.priority"), ("CONFIRMED", "status.confirmed")),
    ),
    "flows": _columns(
        ("NODE", "node"),
        ("INTENT", "intent"),
        ("PROTO", "protocol", "protocol"),
        ("SOURCE", "source_address"),
        ("PORT", "source_port"),
        ("DESTINATION", "destination_address"),
        ("PORT", "destination_port"),
        ("PACKETS", "packets"),
        ("BYTES", "bytes"),
        ("BACK PACKETS", "reverse_packets"),
        ("BACK BYTES", "reverse_bytes"),
        ("SECONDS", "duration_s"),
        wide=(("OWNER", "owner"),),
    ),
    "findings": (
        _column("TIME", "spec.at_s", "time"),
        _column("CAUSE", "spec.cause"),
        _column("ABOUT", "spec.about"),
        _column("P", "spec.p"),
        _column("WHAT", "spec.text"),
        _column("DETECTORS", "spec.detectors", wide=True),
        _column("OWNERS", "spec.owners", wide=True),
    ),
    "incidents": _columns(
        ("PHASE", "status.phase"),
        ("CAUSE", "spec.cause"),
        ("ABOUT", "spec.about"),
        ("BEGAN", "status.began_s", "age"),
        ("SEEN", "status.seen_s", "age"),
        ("FINDINGS", "status.count"),
        ("WHAT", "status.text"),
        wide=(("OWNERS", "spec.owners"), ("PROPOSAL", "status.proposal.sentence"), ("BUDGET", "status.budget")),
    ),
    "events": (
        _column("TIME", "spec.time_s", "time"),
        _column("ABOUT", "spec.about"),
        _column("WHAT", "spec.what"),
        _column("BY", "spec.by"),
        _column("WHY", "spec.why"),
        _column("NUMBER", "metadata.name", wide=True),
        _column("FOR", "spec.serves", wide=True),
    ),
    "drops": _columns(
        ("NODE", "node"), ("REASON", "reason"), ("INTERFACE", "interface"), ("PACKETS", "packets"), ("BYTES", "bytes")
    ),
}
OTHERS = _columns(("SPEC", "spec"), ("STATUS", "status"))


def columns(kind: str, *, wide: bool) -> tuple[Column, ...]:
    return tuple(column for column in COLUMNS.get(kind, OTHERS) if wide or not column.wide)


def plural(word: str) -> str:
    """Of a kind in singular or plural, in any case. Raises InputInvalid."""
    kind = word.lower()
    kind = _SINGULAR.get(kind, kind)
    if kind not in KINDS:
        from difflib import get_close_matches

        near = get_close_matches(kind, KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(KINDS)}"
        raise InputInvalid(f"unknown kind {word!r}: {hint}")
    return kind


def reference(text: str) -> tuple[str, str]:
    """`KIND/NAME` as plural and name. Raises InputInvalid."""
    kind, slash, name = text.partition("/")
    if not slash or not name:
        raise InputInvalid(f"{text!r}: expected KIND/NAME, such as intent/order-processing")
    return plural(kind), name
