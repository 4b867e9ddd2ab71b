"""What one controller knows, and how it comes back from the store."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from controller.fulfillment.assembly import Changes
from controller.fulfillment.fabric import Fabric
from controller.fulfillment.graph import Graph
from controller.fulfillment.numbering import Kind
from controller.fulfillment.plan_paths import SrPolicies, known, links
from controller.fulfillment.realize import Needed, Realized
from controller.fulfillment.rule_engine import NO_RULES, RuleEngine, rule_engine
from controller.model import happening
from controller.model.advertising import Heard, OwnAdvertisements, Telling
from controller.model.agreement import Envelope, Unreadable, opened_advertisement, opened_mandate
from controller.model.discovery import (
    HeardHost,
    LinkDelay,
    LldpCounts,
    PathMeasurement,
    PortMeasurement,
    RemoteSystem,
)
from controller.model.drain import Drain
from controller.model.event import PeerMet, Record
from controller.model.finding import Finding
from controller.model.incident import Incident
from controller.model.intent import Value
from controller.model.inventory import Aliases, Domain, Inventory, Link, Network, Node, Service
from controller.model.node_entries import NodeState
from controller.model.persistent import PersistentMap
from controller.model.policy import Policy
from controller.model.provenance import Provenance
from controller.model.rule import Rule
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import IntentRecord, Session, Standing, Stitch
from controller.model.told import Told
from controller.model.tunnel_keys import BorderKeys
from controller.reconcile import stored_paths, tables
from controller.reconcile.claims_in_force import ClaimsInForce
from controller.reconcile.identifiers import loaded
from controller.reconcile.suspicions import Suspicion
from dataplane.decoding import from_json
from dataplane.host_api import NodeDescription, PartRefused

SR_POLICIES = "sr_policies/"
"""Before the name of one: where it is awaited beside stitches; before headend and number: as owner of entries."""


class Outgoing(Value, frozen=True, kw_only=True):
    """A message that its receiver has not taken yet."""

    peer: str
    message: Envelope
    about: str
    """Agreement."""
    until_s: int = 0
    """Then it is of no use any more; 0: of a release that did not say."""
    unasked: bool = False
    """Nothing that stands depends on it."""

    def keys(self) -> tuple[str]:
        return (self.about,)

    def due_s(self) -> float:
        return self.until_s or math.inf


class Retry(Value, frozen=True, kw_only=True):
    """A message that could not be delivered."""

    attempts: int
    next_s: float
    reason: str
    final: bool = False
    """The peer has refused it for good."""

    def due_s(self) -> float:
        return self.next_s


class Closed(Value, frozen=True, kw_only=True):
    """An id of another domain's that is not used again."""

    until_s: int
    reason: str
    peer: str = ""
    """Who offered it; empty: our operator has ended it, or of a release that did not say."""
    told: Told = Told.SPENT

    def keys(self) -> tuple[str, ...]:
        return (tables.peer_key(self.peer),)

    def due_s(self) -> float:
        return self.until_s


class NodeStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node is with what it shall have."""

    reachable: bool = True
    """As far as we know."""
    reason: str = ""
    """Why it is not."""
    unreachable_s: float | None = None
    """Unix time since when it is not."""
    described: bool = False
    """It has said what it is since this controller started."""
    description: NodeDescription | None = None
    """The newest, with counters and handshakes."""
    generation: int = 0
    state: NodeState | None = None
    """What it shall have, of `generation`."""
    confirmed: int = -1
    """Generation that it was last seen to have; -1: none since it was last connected."""
    rejected: str = ""
    """Why it refused a part of `generation`."""
    refused: tuple[PartRefused, ...] | None = None
    """As NodeRejected.refused."""
    remote_systems: tuple[RemoteSystem, ...] = ()
    """That it hears on its links now."""
    lldp_counts: LldpCounts = LldpCounts()
    heard_hosts: tuple[HeardHost, ...] = ()
    """At its ports for hosts, whether a network has them meanwhile or not."""
    measured_ports: tuple[PortMeasurement, ...] = ()
    measured_paths: tuple[PathMeasurement, ...] = ()

    def refuses(self, names: Collection[str]) -> bool:
        """Whether any of these owners, tunnels and ports is without what it shall have."""
        return bool(self.why(names))

    def why(self, names: Collection[str]) -> str:
        """What it said of these alone: of what else is refused there nobody else learns."""
        if self.refused is None or not self.rejected:
            return self.rejected
        return "; ".join(dict.fromkeys(each.reason for each in self.refused if each.part in names))

    def has(self, generation: int, names: Collection[str]) -> bool:
        """Whether what these own is as a generation has it."""
        if self.confirmed >= generation:
            return True
        return bool(self.rejected) and self.generation >= generation and not self.refuses(names)

    @property
    def settled(self) -> bool:
        return self.reachable and self.confirmed == self.generation and not self.rejected


class Touched(msgspec.Struct, frozen=True):
    """Names of what a step has put or dropped."""

    intent_records: tuple[str, ...] = ()
    stitches: tuple[str, ...] = ()
    sr_policies: tuple[str, ...] = ()
    awaiting: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


def parts_at(node: str, stitch: Stitch, inventory_links: Mapping[str, Link], sr_policies: SrPolicies) -> set[str]:
    """What of a node a stitch needs, as NodeRejected.refused names it."""
    plan = stitch.plan
    connection = plan.connection
    parts = {plan.owner}
    for network, hosts in (
        (connection.source_network, connection.sources),
        (connection.destination_network, connection.destinations),
    ):
        parts |= {f"networks/{network}" for host in hosts if host.node == node}
    for way in (plan.ingress, plan.egress):
        link = inventory_links.get(way.border) if way is not None and way.node == node else None
        parts |= {f"tunnels/{link.a.border}"} if link is not None else set()
    for key, number in stitch.ids.items():
        headend, kind, _ = key.split(" ", 2)
        if kind == Kind.SR_POLICY:
            parts.add(f"{SR_POLICIES}{headend}/{number}")
    for id in plan.sr_policies:
        parts |= sr_policy_parts(known(id, sr_policies))  # also at the switches on its way
    parts.add(f"nodes/{node}")
    return parts | {f"links/{link}" for link in links(plan, sr_policies)}


def sr_policy_parts(policy: SrPolicy) -> set[str]:
    """Both directions of it, as owners of its entries."""
    ends = zip((policy.headend, policy.endpoint), policy.numbers, strict=True)
    return {f"{SR_POLICIES}{node}/{number}" for node, number in ends} if policy.candidate_paths else set()


def parts_refused(
    standing: NodeStanding, node: str, stitch: Stitch, inventory_links: Mapping[str, Link], sr_policies: SrPolicies
) -> Collection[str]:
    """The same where the node refuses anything; else nobody asks for it."""
    return parts_at(node, stitch, inventory_links, sr_policies) if standing.rejected else ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Whatever grows with the number of intents is a PersistentMap; what grows with that of nodes and links, a dict."""

    own: str
    policy: Policy
    policy_loaded: Provenance | None = None
    """Where it comes from."""
    # ---- persisted
    inventory: Inventory = Inventory()
    rules: dict[str, Rule] = msgspec.field(default_factory=dict)
    intent_records: PersistentMap[IntentRecord] = tables.intent_records()
    stitches: PersistentMap[Stitch] = tables.stitches()
    """Oldest first."""
    sr_policies: PersistentMap[SrPolicy] = tables.sr_policies()
    """All that stitches name, by SrPolicyId.name."""
    bundles: PersistentMap[Session] = tables.bundles()
    """What stitches of the same bundle have agreed with the next domain: the same object is in all of them."""
    outbox: PersistentMap[Outgoing] = PersistentMap(keys=Outgoing.keys, due=Outgoing.due_s)
    closed: PersistentMap[Closed] = PersistentMap(keys=Closed.keys, due=Closed.due_s)
    descriptions: dict[str, NodeDescription] = msgspec.field(default_factory=dict)
    """What of a node's description its entries depend on."""
    counters: PersistentMap[int] = PersistentMap()
    """`start` (how often this controller was), `serial` (of plans and agreements: in their names), `owner` (of whom
    they are for)."""
    numbers: PersistentMap[int] = PersistentMap()
    """Numbers of own networks at their edges (those of plans are in their stitches); this and the next two as
    `Identifiers` has them."""
    last_numbers: PersistentMap[int] = PersistentMap()
    rests: PersistentMap[int] = PersistentMap()
    profiles: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """Sizes of each node's tables and counters, as its P4Info says."""
    routes: PersistentMap[Heard] = PersistentMap(keys=Heard.keys, due=Heard.due_s)
    """That neighbours say they have."""
    drains: dict[str, Drain] = msgspec.field(default_factory=dict)
    """`nodes/NAME` and `links/NAME` that are to be passed by."""
    provenance: PersistentMap[Provenance] = PersistentMap()
    """Of `networks/NAME`, `intents/NAME`, ...; what an earlier release stored has none."""
    incidents: PersistentMap[Incident] = PersistentMap()
    tunnel_keys: dict[str, BorderKeys] = msgspec.field(default_factory=dict)
    """Of borders where keys were renewed, or are."""
    # ---- known anew after a restart
    findings: tuple[Finding, ...] = ()
    """The newest."""
    findings_seen: int = 0
    """So many there were."""
    findings_beyond: int = 0
    """Of which nothing came, since there were too many."""
    suspicions: dict[str, Suspicion] = msgspec.field(default_factory=dict)
    """Findings that are not yet enough to be an incident, by what they are about."""
    rule_engine: RuleEngine = NO_RULES
    """The rules, compiled."""
    agreements: PersistentMap[str] = PersistentMap()
    """Agreement -> name of its stitch."""
    ids: PersistentMap[tuple[int, int]] = PersistentMap()
    taken: PersistentMap[int] = PersistentMap()
    """The numbers that are in use, as `Identifiers` has them."""
    nodes: dict[str, NodeStanding] = msgspec.field(default_factory=dict)
    retries: PersistentMap[Retry] = PersistentMap(due=Retry.due_s)
    peers: dict[str, PeerMet] = msgspec.field(default_factory=dict)
    """Who was last met there."""
    down: dict[str, float] = msgspec.field(default_factory=dict)
    """Links that cannot be used -> Unix time from which they can; infinite while an end has no carrier."""
    services_down: dict[str, float] = msgspec.field(default_factory=dict)
    """The same of services that traffic passes."""
    doubts: dict[str, float] = msgspec.field(default_factory=dict)
    """Node and which part of it (`nodes/NAME`, `links/NAME`), with a space between -> Unix time since when it does not
    confirm what it shall have of that."""
    stubs: dict[str, float] = msgspec.field(default_factory=dict)
    """Such parts that new paths do not pass where there is another way -> Unix time from which they do; infinite while
    they are doubted."""
    losses: dict[str, float] = msgspec.field(default_factory=dict)
    """Links of which the operator says no loss -> percent, as it is measured."""
    link_delays: dict[str, LinkDelay] = msgspec.field(default_factory=dict)
    """Links that take, or took lately, longer than is declared."""
    delays: dict[str, int] = msgspec.field(default_factory=dict)
    """Of these the ones of which what is measured counts in paths -> us."""
    without_way: frozenset[str] = frozenset()
    """Neighbours that we have refused something for want of a way, or ended it, and not told since of one."""
    way_back_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Neighbour -> Unix time when what it refused is, or was last, asked again since it said that it has a way."""
    reaches: PersistentMap[Heard] = PersistentMap(keys=Heard.keys)
    """Of the routes, those that plans may use."""
    tellings: dict[str, Telling] = msgspec.field(default_factory=dict)
    """By neighbour."""
    own_advertisements: OwnAdvertisements = OwnAdvertisements()
    advertises: bool = False
    """What was stored of routes, and is to be told, has been looked at since the start."""
    flaps: dict[str, float] = msgspec.field(default_factory=dict)
    """Route -> Unix time until which its shares of changes are used."""
    learnt: dict[str, frozenset[str]] = msgspec.field(default_factory=dict)
    """Domain -> networks and services of its that others have told."""
    unadvertised: frozenset[str] = frozenset()
    """Networks and services that nobody advertises any more, and that are kept since an intent leads to them."""
    awaiting: PersistentMap[dict[str, int]] = tables.awaiting()
    """Courses, intents as `intents/NAME`, and SR Policies as `sr_policies/NAME`: generation that each node has yet to
    confirm."""
    restored: frozenset[str] = frozenset()
    """Of those: what is awaited only because this controller was started."""
    fabric: Fabric = Fabric(
        inventory=Inventory(),
        descriptions={},
        entries={},
        locators={},
        ports={},
        links_towards={},
        links={},
        border_ports={},
        edge_policies={},
    )
    graph: Graph | None = None
    """As it was last needed."""
    realized: Realized = Realized()
    needed: Needed = Needed()
    """What all that has begun will need in the end, as it was last counted."""
    unrealized: Changes = msgspec.field(default_factory=lambda: Changes(set(), set()))
    """What is other than `realized` was made from."""
    uncounted: Changes = msgspec.field(default_factory=lambda: Changes(set(), set()))
    """The same of `needed`."""
    claims: ClaimsInForce | None = None
    """Claims of the intents: follows from them, and is brought up to date where it is used."""
    pursuits: PersistentMap[float] = tables.times()
    """Intents that lack something, or have an end -> when they are to be looked at if nothing else happens; at once
    after a restart."""
    ticked_s: float = 0.0
    """When the clock last told the time."""
    audited_s: float = 0.0
    touched: Touched = Touched()
    """By the step that made this of the state before."""


RECORDS: dict[str, tuple[str, type[Any]]] = {
    "Domain": ("domains", Domain),
    "Network": ("networks", Network),
    "Service": ("services", Service),
    "Node": ("nodes", Node),
    "Link": ("links", Link),
    "Aliases": ("aliases", Aliases),
    "Rule": ("rules", Rule),
    "Intent": ("intent_records", IntentRecord),
    "Course": ("stitches", Stitch),
    "SrPolicy": ("sr_policies", SrPolicy),
    "Bundle": ("bundles", Session),
    "Outbox": ("outbox", Outgoing),
    "Closed": ("closed", Closed),
    "Description": ("descriptions", NodeDescription),
    "Counter": ("counters", int),
    "Route": ("routes", Heard),
    "Provenance": ("provenance", Provenance),
    "Drain": ("drains", Drain),
    "Number": ("numbers", int),
    "LastNumber": ("last_numbers", int),
    "Rest": ("rests", int),
    "Profile": ("profiles", dict[str, int]),
    "Incident": ("incidents", Incident),
    "TunnelKeys": ("tunnel_keys", BorderKeys),
}
"""Kind of record -> table and type."""
INVENTORY_TABLES = ("domains", "networks", "services", "nodes", "links", "aliases")


def load(records: Iterable[Record], own: str, policy: Policy) -> State:
    """Raises ValueError for a record that cannot be read. What `is_of_version_1` is left out."""
    stored: dict[str, dict[str, Any]] = {table: {} for table, _ in RECORDS.values()}
    inside: dict[str, bytes] = {}
    """Stitches that were stored with their paths."""
    for record in records:
        if record.content is None or record.kind == happening.RECORD:
            continue
        if record.kind not in RECORDS:
            raise ValueError(f"record {record.kind}/{record.name}: unknown kind (store of another version?)")
        if is_of_version_1(record):
            continue
        stored[RECORDS[record.kind][0]][record.name] = read(record)
        if record.kind == "Course" and stored_paths.is_former(record.content):
            inside[record.name] = record.content
    inventory = Inventory(**{table: stored.pop(table) for table in INVENTORY_TABLES})
    bundles: dict[str, Session] = stored["bundles"]
    sr_policies: dict[str, SrPolicy] = {policy.id.name: policy for policy in stored["sr_policies"].values()}
    stitches: dict[str, Stitch] = {}
    for name, stitch in sorted(stored["stitches"].items(), key=lambda item: item[1].serial):
        if name in inside:
            stitch, policies = stored_paths.as_now(stitch, inside[name])
            sr_policies = {policy.id.name: policy for policy in policies} | sr_policies
        stitches[name] = _as_now(_with_session(stitch, bundles), stored["intent_records"])
    ids, taken = loaded(stored["numbers"], stitches.values(), sr_policies.values())
    return State(
        own=own,
        policy=policy,
        pursuits=tables.times(dict.fromkeys(stored["intent_records"], 0.0)),
        inventory=inventory,
        rules=stored["rules"],
        rule_engine=rule_engine(stored["rules"].values()),
        intent_records=tables.intent_records(sorted(stored["intent_records"].items(), key=lambda item: item[1].serial)),
        stitches=tables.stitches(stitches),
        sr_policies=tables.sr_policies(sr_policies),
        bundles=tables.bundles(bundles),
        outbox=PersistentMap(stored["outbox"], keys=Outgoing.keys, due=Outgoing.due_s),
        closed=PersistentMap(stored["closed"], keys=Closed.keys, due=Closed.due_s),
        descriptions=stored["descriptions"],
        counters=PersistentMap(stored["counters"]),
        routes=PersistentMap(stored["routes"], keys=Heard.keys, due=Heard.due_s),
        provenance=PersistentMap(stored["provenance"]),
        incidents=PersistentMap(sorted(stored["incidents"].items(), key=lambda item: item[1].serial)),
        agreements=PersistentMap(_agreements(stitches)),
        numbers=PersistentMap(stored["numbers"]),
        last_numbers=PersistentMap(stored["last_numbers"]),
        rests=PersistentMap(stored["rests"]),
        profiles=stored["profiles"],
        drains=stored["drains"],
        tunnel_keys=stored["tunnel_keys"],
        ids=PersistentMap(ids),
        taken=PersistentMap(taken),
        nodes={name: NodeStanding() for name in inventory.nodes},
        stubs={
            part: math.inf
            for policy in sr_policies.values()
            for part in policy.around
            if "/" in part and part not in stored["drains"]
        },
    )


def read(record: Record) -> Any:
    """What a record of one of RECORDS says; None: that there is no such thing. Raises ValueError."""
    if record.content is None:
        return None
    try:
        value = from_json(record.content, RECORDS[record.kind][1])
        for session in _sessions(value):
            opened_mandate(session.terms.mandate)
            if not session.terms.flows:
                raise Unreadable("its terms are about no flow")
        if isinstance(value, Heard):
            opened_advertisement(value.route.advertisement)
    except (msgspec.MsgspecError, Unreadable) as error:
        raise ValueError(f"record {record.kind}/{record.name} cannot be read: {error}") from error
    return value


def _sessions(value: object) -> Iterator[Session]:
    """Those of a record that are found by mandate and by flow, so that they must have both."""
    if isinstance(value, Session):
        yield value
    elif isinstance(value, Stitch):
        yield from (session for session in (value.upstream, value.downstream) if session is not None)


def _with_session(stitch: Stitch, bundles: Mapping[str, Session]) -> Stitch:
    if not stitch.plan.bundle:
        return stitch
    return msgspec.structs.replace(stitch, downstream=bundles.get(stitch.plan.bundle))


def _as_now(stitch: Stitch, intent_records: Mapping[str, IntentRecord]) -> Stitch:
    """What an earlier release has stored does not say when its intent ends, or of what is agreed that it is renewed."""
    upstream, downstream = (
        msgspec.structs.replace(session, standing=Standing.RENEWING)
        if session is not None and session.agreement is not None and session.standing == Standing.OFFERED
        else session
        for session in (stitch.upstream, stitch.downstream)
    )
    if (upstream, downstream) != (stitch.upstream, stitch.downstream):
        stitch = msgspec.structs.replace(stitch, upstream=upstream, downstream=downstream)
    intent_record = intent_records.get(stitch.plan.owner.removeprefix("intents/"))
    if intent_record is None or stitch.upstream is not None or stitch.expires_s is not None:
        return stitch
    return msgspec.structs.replace(stitch, expires_s=intent_record.expires_s)


class _Side(msgspec.Struct):
    offer_signature: str = ""


class _SignedOnce(msgspec.Struct):
    """What of a stored stitch or message tells the release that wrote it."""

    upstream: _Side | None = None
    downstream: _Side | None = None
    message: dict[str, Any] = {}


def is_of_version_1(record: Record) -> bool:
    """Agreements and messages of the releases before mandates: nobody's word stands behind their origin, and no
    neighbour takes them any more. They are not loaded, and what intents need is offered anew."""
    if record.content is None or record.kind not in ("Course", "Outbox"):
        return False
    try:
        stored = from_json(record.content, _SignedOnce)
    except msgspec.MsgspecError:
        return False
    sides = [side for side in (stored.upstream, stored.downstream) if side is not None]
    return any(side.offer_signature for side in sides) or "type" in stored.message


def _agreements(stitches: Mapping[str, Stitch]) -> dict[str, str]:
    return {
        session.terms.id: name
        for name, stitch in stitches.items()
        for session in (stitch.upstream, stitch.downstream)
        if session is not None
    }
