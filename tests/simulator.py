"""Several domains in one process: virtual clock, faulty links between controllers, nodes that hold entries.

Everything that is random comes from one seed, so that a failure can be run again. A controller can crash at any
moment: it loses all but what it had persisted. Effects are performed in order; a crash may come between any two.
"""

import base64
import heapq
import ipaddress
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from controller import reconcile
from controller.eastwest.identity import _root_certificate, pem
from controller.eastwest.peer import BATCH_MAX
from controller.fulfillment.acl import PortClasses, Rule
from controller.fulfillment.graph import graph
from controller.fulfillment.paths import sr_policy
from controller.fulfillment.realize import Needed, Realized, need, realize
from controller.language.manifest import applied, parse
from controller.language.policy import parse_policy
from controller.model.access import ourselves
from controller.model.agreement import (
    CAPABILITIES,
    PROTOCOL,
    Acceptance,
    Envelope,
    Greeting,
    Message,
    Terms,
    Unreadable,
    opened,
)
from controller.model.entry import OwnedEntry
from controller.model.event import (
    Applied,
    Apply,
    Approve,
    Connect,
    Decide,
    Delete,
    Deviation,
    Disconnect,
    Effect,
    Event,
    LoadPolicy,
    Log,
    MessageReceived,
    MessageSent,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    PeerMet,
    Persist,
    Record,
    Reference,
    Renew,
    Reply,
    Send,
    SetDrain,
    SyncNode,
    Tick,
)
from controller.model.node_entries import Delta, NodeEntries, NodeState
from controller.model.policy import Policy
from controller.model.resource import Resource
from controller.model.stitch import Stage, Stitch, expired
from controller.reconcile.capacity_check import wanted
from controller.reconcile.identifiers import loaded
from controller.reconcile.state import SR_POLICIES, parts_at, sr_policy_parts
from controller.reconcile.tables import named_sr_policies
from controller.reconcile.transaction import Transaction
from controller.views import resource_view
from dataplane.host_api import (
    BorderStatus,
    Capabilities,
    HostState,
    NodeDescription,
    PartRefused,
    PortRole,
    PortStatus,
    Tunnel,
    TunnelKeys,
)
from dataplane.p4runtime import p4info
from tests.full_rules import compile_rules
from tests.typed_in import typed
from topologies import domain_files
from topologies.topology import Port, Topology
from topologies.topology_file import load

LAB = Path(__file__).parent.parent / "topologies" / "three-domains.yaml"
ORDER_PROCESSING = (LAB.parent / "intents" / "order-processing.yaml").read_text()
START_S = 1_800_000_000.0
BOOT_EPOCH_S = 1_799_000_000
_P4INFO = p4info.load()
SIZES = {table.name: table.size for table in _P4INFO.tables} | {
    counter.name: counter.size for counter in _P4INFO.counters
}
EntryKey = tuple[str, tuple[object, ...], int]


RULE_TABLES = {"source_group", "destination_group", "flow_policy"}
"""What the rules of VRFs come to."""


def untold() -> Topology:
    """The lab, in which nobody has typed in anything of others but key, endpoint and trust."""
    return load(LAB)


def unpooled() -> Topology:
    """The lab, in which domains know nobody under other addresses."""
    lab = typed(load(LAB))
    domains = tuple(msgspec.structs.replace(domain, translation_pool=()) for domain in lab.domains)
    return msgspec.structs.replace(lab, domains=domains)


class SimulatedKeys:
    """Real Ed25519; the private key follows from the domain's name."""

    def __init__(self, domain: str) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(domain.encode().ljust(32, b".")[:32])
        self.said: list[tuple[Message, str]] = []
        """All messages that were ever signed, with their digests."""
        self.public = base64.b64encode(self._private.public_key().public_bytes_raw()).decode()
        self.certificate = pem(_root_certificate(domain, self._private)).decode()

    @property
    def public_key(self) -> str:
        return self.public

    def sign(self, data: bytes) -> bytes:
        signature = self._private.sign(data)
        head, _, payload = data.partition(b"\n")
        _, version, kind = head.decode().split("/")
        if kind not in ("mandate", "advertisement"):
            envelope = Envelope(version=int(version[1:]), kind=kind, payload=payload, signature=signature)
            self.said.append((opened(envelope), envelope.digest))
        return signature

    def verify(self, domain_key: str, data: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(domain_key)).verify(signature, data)
        except (ValueError, InvalidSignature):
            return False
        return True


_KEYS: dict[bytes, EntryKey] = {}


def entry_key(entry: OwnedEntry) -> EntryKey:
    found = _KEYS.get(entry.key)
    if found is None:
        found = _KEYS[entry.key] = entry.table, entry.match, entry.priority
    return found


def _unreadable(message: Envelope) -> str:
    """As the east-west server says it; empty: it can be read."""
    try:
        opened(message)
    except Unreadable as error:
        return str(error)
    return ""


class SimulatedNode:
    """Holds what it is given, and says what it had to change."""

    def __init__(self, topology: Topology, name: str) -> None:
        self.name = name
        self.up = True
        self.entries: dict[EntryKey, OwnedEntry] = {}
        self.host = HostState()
        self.sizes = dict(SIZES)
        """Of its tables and counters."""
        self.writes = 0
        self.generation = -1
        """Of what it was last given."""
        self._keys = 0
        self.renews = False
        """Its borders have a second port."""
        self.renewed: dict[tuple[str, int], TunnelKeys] = {}
        """Keys by border and slot."""
        self.shaken_s = START_S + 1e9
        """When its tunnels last shook hands: in time for all tests, but those about it."""
        self.refused: set[EntryKey] = set()
        """Entries that it does not take."""
        self._told: tuple[object, set[EntryKey], dict[str, int]] | None = None
        self._made_of_it: dict[EntryKey, OwnedEntry] = {}
        """Of what it was told last, being as it was then."""
        self.refusal = ""
        """Of whatever it is told."""
        self.confirms = True
        """It answers what it is told."""
        number = [node.name for node in topology.nodes].index(name) + 1
        self._cut: set[str] = set()
        """Links of its that have no carrier, and interfaces of hosts."""
        self.silent: set[str] = set()
        """Those over which its probes do not come back."""
        self._links = {
            port.number: port.link.name if port.link is not None else port.interface for port in topology.ports(name)
        }
        self._ports = tuple(
            PortStatus(
                number=port.number,
                interface=port.interface,
                role=self._role(topology, port),
                mac=f"02:00:00:00:{number:02x}:{port.number:02x}",
                mtu=port.link.mtu if port.link is not None else 1500,
                carrier=True,
            )
            for port in topology.ports(name)
        )
        self._borders = [
            BorderStatus(
                name=border.name,
                port=border.number,
                mac=f"02:00:00:01:{number:02x}:{border.number:02x}",
                kernel_mac=f"02:00:00:02:{number:02x}:{border.number:02x}",
                public_key=self._key(f"{name}/{border.name}"),
                endpoint=f"{border.address.split('/')[0]}:{border.listen_port}",
                mtu=border.link.tunnel_mtu,
                reaches=(str(ipaddress.ip_interface(border.address).network),),
                up=False,
                latest_handshake_s=0.0,
                received_bytes=0,
                sent_bytes=0,
            )
            for border in topology.borders(name)
        ]

    @staticmethod
    def _role(topology: Topology, port: Port) -> PortRole:
        if port.link is None:
            return PortRole.ATTACHMENT
        return PortRole.UNDERLAY if topology.crosses_domains(port.link) else PortRole.FABRIC

    def describe(self) -> NodeDescription:
        up = {tunnel.border for tunnel in self.host.tunnels}
        return NodeDescription(
            name=self.name,
            software="simulated",
            probes_max=64,
            wireguard="kernel",
            boot_epoch_s=BOOT_EPOCH_S,
            layout="simulated",
            capabilities=Capabilities(dataplane="simulated", kernel="6.1", cpus=2, h_encaps_segments=4, srh_segments=8),
            ports=tuple(
                msgspec.structs.replace(
                    port,
                    carrier=self._links.get(port.number) not in self._cut,
                    silent=self._links.get(port.number) in self.silent,
                )
                for port in self._ports
            ),
            borders=tuple(
                msgspec.structs.replace(
                    border,
                    up=border.name in up,
                    carrier=border.name not in self._cut,
                    latest_handshake_s=self.shaken_s,
                    renews=self.renews,
                    keys=self._renewed_of(border.name),
                )
                for border in self._borders
            ),
            host_state=HostState(),  # which no session reports
        )

    def _renewed_of(self, border: str) -> tuple[TunnelKeys, ...]:
        keys = [keys for (name, _), keys in self.renewed.items() if name == border]
        return tuple(sorted(keys, key=lambda each: each.epoch))

    @property
    def renewed_now(self) -> tuple[TunnelKeys, ...]:
        return tuple(self.renewed[name] for name in sorted(self.renewed))

    def _renew(self, tunnels: Iterable[Tunnel]) -> None:
        """What an agent does of what it is told: its own keys of these epochs, and no others of these borders."""
        wanted = {(tunnel.border, tunnel.epoch): tunnel for tunnel in tunnels}
        borders = {border for border, _ in wanted}
        there = {name: keys for name, keys in self.renewed.items() if name[0] in borders}
        for name, keys in there.items():
            if (name[0], keys.epoch) not in wanted:
                del self.renewed[name]
        for (border, epoch), tunnel in wanted.items():
            known = self.renewed.get((border, epoch % 2))
            if not epoch or (known is not None and (not tunnel.kem_key or known.kem_ciphertext)):
                continue
            assert not tunnel.kem_ciphertext, f"{self.name}: {border} has no keys of epoch {epoch}"
            self._keys += 1
            address = next(each.endpoint for each in self._borders if each.name == border).rpartition(":")[0]
            made = f"{self.name}/{self._keys}/{epoch}"
            self.renewed[border, epoch % 2] = TunnelKeys(
                epoch=epoch,
                public_key=self._key(made),
                endpoint=f"{address}:{51_000 + epoch % 2}",
                kem_key=b"" if tunnel.kem_key else f"to {made}".encode(),
                kem_ciphertext=f"{made} to {tunnel.kem_key.decode()}".encode() if tunnel.kem_key else b"",
            )

    def shake_hands(self, other: "SimulatedNode", border: str) -> None:
        """With those of the newest epoch that both have of each other; then what leaves takes it."""
        pairs = [
            ({tunnel.epoch: tunnel for tunnel in node.host.tunnels if tunnel.border == border})
            for node in (self, other)
        ]
        for epoch in sorted(pairs[0].keys() & pairs[1].keys() - {0}):
            keys = [node.renewed.get((border, epoch % 2)) for node in (self, other)]
            if any(each is None or each.epoch != epoch for each in keys):
                continue
            ours, theirs = keys
            assert ours is not None and theirs is not None
            meet = (pairs[0][epoch].peer_public_key, pairs[1][epoch].peer_public_key)
            secret = {
                ours.kem_ciphertext or pairs[0][epoch].kem_ciphertext,
                theirs.kem_ciphertext or pairs[1][epoch].kem_ciphertext,
            }
            if meet == (theirs.public_key, ours.public_key) and len(secret) == 1:
                for node, each in ((self, ours), (other, theirs)):
                    others = {
                        name: msgspec.structs.replace(old, sends=False)
                        for name, old in node.renewed.items()
                        if name[0] == border
                    }
                    node.renewed |= others
                    node.renewed[border, epoch % 2] = msgspec.structs.replace(each, shaken=True, sends=True)

    def lose_renewed_keys(self) -> None:
        self.renewed.clear()

    def new_key(self) -> None:
        self._keys += 1
        self._borders = [
            msgspec.structs.replace(border, public_key=self._key(f"{self.name}/{border.name}/{self._keys}"))
            for border in self._borders
        ]

    @staticmethod
    def _key(text: str) -> str:
        return base64.b64encode(text.encode().ljust(32, b".")[:32]).decode()

    def set_carrier(self, link: str, carrier: bool) -> None:
        (self._cut.discard if carrier else self._cut.add)(link)

    def add_port(self, number: int, role: PortRole) -> None:
        mac = f"02:00:00:03:{int(self._ports[0].mac[12:14], 16):02x}:{number:02x}"
        port = PortStatus(number=number, interface=f"p{number}", role=role, mac=mac, mtu=2000, carrier=True)
        self._ports = (*(port for port in self._ports if port.number != number), port)

    def remove_port(self, number: int) -> None:
        self._ports = tuple(port for port in self._ports if port.number != number)

    def check(self, delta: Delta, state: NodeState) -> None:
        """With what the delta says it has what the state says; but for what it has refused."""
        entries = self.entries | {entry_key(entry): entry for entry in delta.put}
        gone = {entry_key(entry) for entry in delta.gone}
        left = {key: entry for key, entry in entries.items() if key not in gone | self.refused}
        wanted = {entry_key(entry): entry for entry in state.entries if entry_key(entry) not in self.refused}
        assert left == wanted, self.name

    def sync(self, state: NodeState) -> tuple[int, tuple[Deviation, ...]]:
        """Writes, and what was different."""
        ports = {port.number for port in self._ports if port.role == PortRole.ATTACHMENT}
        assert {gateway.port for gateway in state.host.gateways} <= ports, f"{self.name} would refuse its host state"
        assert {tunnel.border for tunnel in state.host.tunnels} <= {border.name for border in self._borders}
        told = self._told
        if told is None or told[0] is not state.entries or told[1:] != (self.refused, self.sizes):
            self._made_of_it = self._accepted(state.entries)
            self._told = state.entries, {*self.refused}, {**self.sizes}
        desired = self._made_of_it
        differences = []
        for key, entry in desired.items():
            present = self.entries.get(key)
            if present is not entry and (
                present is None or (present.action, present.params) != (entry.action, entry.params)
            ):
                what = "missing" if present is None else "changed"
                differences.append(self._deviation(what, entry.table, entry.owner))
        differences += [self._deviation("foreign", key[0], "") for key in self.entries if key not in desired]
        writes = len(differences) + (self.host != state.host)
        self.entries, self.host = {**desired}, state.host
        self._renew(state.host.tunnels)
        self.writes += writes
        return writes, tuple(differences)

    def _accepted(self, entries: NodeEntries) -> dict[EntryKey, OwnedEntry]:
        desired = {entry_key(entry): entry for entry in entries if entry_key(entry) not in self.refused}
        kept = [entry for entry in entries if entry_key(entry) not in self.refused]
        assert len(desired) == len(kept), f"{self.name}: an entry twice"
        for table, count in Counter(entry.table for entry in kept).items():
            assert count <= self.sizes[table], f"{self.name}: {count} entries for {table}"
        return desired

    def _deviation(self, what: str, table: str, owner: str) -> Deviation:
        return Deviation(node=self.name, what=what, table=table, detail="", owner=owner)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Of the ways between controllers, and of those from a controller to its nodes."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: tuple[float, float] = (0.001, 0.005)
    """Uniform between; with a wide range messages overtake each other."""


class Controller:
    """One domain's: its state, its disk, and what it has told."""

    def __init__(self, world: "World", domain: str, policy: str) -> None:
        self.world = world
        self.domain = domain
        self.keys = SimulatedKeys(domain)
        self.policy = parse_policy(policy, f"{domain}.yaml")
        self.disk: dict[tuple[str, str], Record] = {}
        self.alive = False
        self.life = 0
        self.replies: dict[str, Reply] = {}
        self.logs: list[Log] = []
        self.state = reconcile.initial((), domain, self.policy)[0]
        self._known: reconcile.State | None = None
        """Of which all was looked at."""

    def start(self) -> None:
        self.alive = True
        self.life += 1
        self.state, effects = reconcile.initial(self.disk.values(), self.domain, self.policy)
        self._perform(effects)
        self.world.after(0.0, self._clock, self.life)
        if self.world.greets:
            self.world.after(self.world._delay(), self.world.greet, self.domain)

    def crash(self) -> None:
        self.alive = False
        self.life += 1

    def _clock(self, life: int) -> None:
        if self.alive and life == self.life:
            self.event(Tick(), life)
            self.world.after(1.0, self._clock, life)

    def event(self, event: Event, life: int) -> bool:
        """Whether it was taken: nobody takes what comes for a former life."""
        return self.together((event,), life)

    def together(self, events: Sequence[Event], life: int) -> bool:
        """The same of what came together."""
        if not self.alive or life != self.life:
            return False
        before = self.state
        self.state, effects = reconcile.step_all(before, events, self.world.now_s, self.keys)
        if self.world.checked:
            self._check_nothing_is_overlooked(before, events, effects)
            self._check_deltas(before)
        return self._perform(effects)

    def _check_deltas(self, before: reconcile.State) -> None:
        """What was made from what has changed is what would be made of everything."""
        if self.state.realized is before.realized:
            return
        transaction = Transaction(self.state, self.world.now_s, self.keys)
        everything = wanted(transaction, self.state.stitches)
        full = realize(everything, Realized())
        if self.state.needed is not before.needed and not any(self.state.uncounted):
            assert self.state.needed.entries == need(everything, Needed()).entries
        for node, state in full.states.items():
            assert tuple(self.state.realized.states[node].entries) == tuple(state.entries), node
            standing_state = self.state.nodes[node].state
            assert (
                standing_state is not None
                and tuple(standing_state.entries) == tuple(state.entries)
                and standing_state.host == state.host
            ), node
        self._check_rules()

    def _check_rules(self) -> None:
        """What permits and groups is what all rules compiled at once come to."""
        assembly = self.state.realized.assembly
        assert assembly is not None
        compiled: dict[str, list[OwnedEntry]] = {node: [] for node in self.state.realized.states}
        for (node, vrf), vrf_rules in assembly.vrfs.items():
            hosts = {ids.hosts for (_, edge), (ids, _) in assembly.networks.items() if edge == node and ids.vrf == vrf}
            in_force: list[Rule] = []
            withheld: list[Rule] = []
            for rank in sorted(vrf_rules.rules):
                rule, whose = vrf_rules.rules[rank], self.state.stitches.get(rank[1])
                waits = whose is not None and whose.stage != Stage.ACTIVE and rule.policy_class in hosts
                (withheld if waits else in_force).append(rule)
            compiled[node] += compile_rules(vrf, in_force, assembly.classes.get(node, PortClasses()), withheld)
        for node, state in self.state.realized.states.items():
            entries = [
                entry for entry in state.entries if entry.table in ("source_group", "destination_group", "flow_policy")
            ]
            assert sorted(entries, key=repr) == sorted(compiled[node], key=repr), node

    def _check_nothing_is_overlooked(
        self, before: reconcile.State, events: Sequence[Event], effects: tuple[Effect, ...]
    ) -> None:
        """What a step looks at is all that there was something to do about."""
        if events == (Tick(),):
            unsure = msgspec.structs.replace(before, ticked_s=math.inf)  # so that it looks at everything
            state, all_effects = reconcile.step(unsure, Tick(), self.world.now_s, self.keys)
            assert all_effects == effects
            assert (state.intent_records, state.stitches) == (self.state.intent_records, self.state.stitches)
            assert (state.awaiting, state.retries) == (self.state.awaiting, self.state.retries)
        claims = self.state.claims
        if claims is not None and claims._doubted is not None:
            in_force = {
                name: intent_record.meant
                for name, intent_record in self.state.intent_records.items()
                if not expired(intent_record)
            }
            claimed = {name: claim.intent for name, claim in claims.index.claims.items()}
            for name in (in_force.keys() | claimed.keys()) - claims._doubted.keys():
                assert in_force.get(name) == claimed.get(name), f"the claim of {name} is out of date"
        known, self._known = self._known, self.state
        if known is None or self._looked_at(known) != self._looked_at(self.state):
            self._check_bundles()
            self._check_sr_policies()
            self._check_numbers()
            self._check_awaited()

    @staticmethod
    def _looked_at(state: reconcile.State) -> list[int]:
        """What the next four look at. States are held meanwhile, and what is in them never changes: so the same things
        were looked at before."""
        inventory = state.inventory
        parts = (
            inventory,
            state.own,
            state.down,
            state.stitches,
            state.bundles,
            state.sr_policies,
            state.numbers,
            state.ids,
        )
        return [id(part) for part in (*parts, state.taken, state.awaiting, state.nodes)]

    def _check_bundles(self) -> None:
        for stitch in self.state.stitches.values():
            bundle = stitch.plan.bundle
            assert not bundle or stitch.downstream is self.state.bundles.get(bundle), f"{stitch.plan.name} is apart"
        assert {sharing.plan.bundle for sharing in self.state.stitches.values()} >= {*self.state.bundles}

    def _check_awaited(self) -> None:
        links, policies = self.state.inventory.links, self.state.sr_policies
        for name, awaited in self.state.awaiting.items():
            stitch = self.state.stitches.get(name)
            for node, generation in awaited.items():
                policy = policies.get(name.removeprefix(SR_POLICIES))
                parts = {name} if policy is None else sr_policy_parts(policy)
                parts = parts_at(node, stitch, links, policies) if stitch is not None else parts
                assert not self.state.nodes[node].has(generation, parts), f"{name}: {node} has it"

    def _check_sr_policies(self) -> None:
        """There are those that plans name, and no others; two that are of the same ends and color are one, and hold
        that color; and if one of them could take a path that holds it, it does."""
        state = self.state
        assert {name for stitch in state.stitches.values() for name in named_sr_policies(stitch)} == {
            *state.sr_policies
        }
        there = graph(state.inventory, state.own, state.down)
        for name, policy in state.sr_policies.items():
            assert policy.id.name == name and policy.candidate_paths
            if any(link not in state.inventory.links for path in policy.candidate_paths for link in path.links):
                continue
            paths = policy.candidate_paths
            limit_us = policy.color.latency_us_max
            assert all(limit_us is None or path.latency_us <= limit_us for path in paths), policy
            if any(link in state.down for link in paths[0].links):
                assert sr_policy(there, policy.id) is None, f"{name} stays cut"

    def _check_numbers(self) -> None:
        """What is in use is what somebody has."""
        state = self.state
        ids, taken = loaded(state.numbers, state.stitches.values(), state.sr_policies.values())
        assert dict(state.ids) == ids
        assert {counter: used for counter, used in state.taken.items() if used} == taken

    def _perform(self, effects: tuple[Effect, ...]) -> bool:
        """False: it crashed before all was done. What an adapter was told before a crash may still happen."""
        batches: dict[str, list[Send]] = {}
        for index, effect in enumerate(effects):
            assert not isinstance(effect, Persist) or index == 0, "Persist must come first"
            if self.world.crashes_now(self):
                return False
            match effect:
                case Persist(records=records):
                    for record in records:
                        if record.content is None:
                            self.disk.pop((record.kind, record.name), None)
                        else:
                            self.disk[record.kind, record.name] = record
                case Reply():
                    self.replies[effect.request_id] = effect
                case Send():
                    batch = batches.get(effect.peer, [])
                    if not 0 < len(batch) < BATCH_MAX:
                        batch = batches[effect.peer] = []
                        self.world.carry(self, batch)  # under way with all that is put in until it arrives
                    batch.append(effect)
                case Connect(node=node):
                    self.world.connect(self, node)
                case Disconnect():
                    pass
                case SyncNode():
                    self.world.sync(self, effect)
                case Log():
                    self.logs.append(effect)
                case Approve(incident=name):
                    decided = Decide(request_id="", name=name, approved=True, by=ourselves("assurance"))
                    self.world.after(0.1, self.event, decided, self.life)
        return True


class World:
    def __init__(self, seed: int = 0, faults: Faults | None = None, topology: Topology | None = None) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.now_s = START_S
        self.topology = topology or typed(load(LAB))
        self.crash_chance = 0.0
        self.checked = True
        """After each step it is checked that it has overlooked nothing."""
        self.greets = False
        """Who has started meets its neighbours."""
        self.capabilities = dict.fromkeys((domain.name for domain in self.topology.domains), CAPABILITIES)
        """What the release of each domain can do."""
        self.crashes = 0
        self._queue: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._order = 0
        self._requests = 0
        self.calls = 0
        """Between controllers, that were delivered."""
        self.partitioned: set[frozenset[str]] = set()
        self.refusing: dict[tuple[str, str], str] = {}
        """(from, to): why the receiver's controller takes nothing of what comes, for good."""
        self.wiretap: list[tuple[str, str, Envelope]] = []
        """(from, to, message) of all that was delivered."""
        self.nodes = {node.name: SimulatedNode(self.topology, node.name) for node in self.topology.nodes}
        self.controllers = {
            domain.name: Controller(self, domain.name, domain_files.policy(domain)) for domain in self.topology.domains
        }
        self.inventories = {name: self._inventory(name) for name in self.controllers}

    def _inventory(self, name: str) -> str:
        peers = {
            domain: domain_files.Peer(
                identity=domain_files.Identity(
                    domain=domain, key=controller.keys.public, certificate=controller.keys.certificate
                ),
                endpoint="127.0.0.1:7000",
            )
            for domain, controller in self.controllers.items()
        }
        agents = {node: f"unix:/run/{node}.sock" for node in self.nodes}
        return domain_files.inventory(self.topology, self.topology.domain(name), peers, agents)

    def change_policy(self, domain: str, old: str, new: str) -> None:
        """Its policy file, before it has begun."""
        text = domain_files.policy(self.topology.domain(domain))
        assert old in text, text
        self.controllers[domain].policy = parse_policy(text.replace(old, new, 1), f"{domain}.yaml")

    def start(self) -> None:
        for name, controller in self.controllers.items():
            controller.start()
            self.apply(name, self.inventories[name])
        self.run(3.0)

    # ---- time

    def after(self, delay_s: float, action: Callable[..., object], *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._order, action, arguments))

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._queue and self._queue[0][0] <= end_s:
            self.now_s, _, action, arguments = heapq.heappop(self._queue)
            action(*arguments)
        self.now_s = end_s

    def crashes_now(self, controller: Controller) -> bool:
        if self.random.random() >= self.crash_chance:
            return False
        self.crashes += 1
        controller.crash()
        self.after(self.random.uniform(0.01, 3.0), controller.start)
        return True

    # ---- what people do

    def apply(self, domain: str, text: str) -> Reply | None:
        """The answer; None: the controller crashed over it."""
        return self.submit(domain, *map(applied, parse(text)))

    def submit(self, domain: str, *resources: Applied) -> Reply | None:
        """As `apply`, what was read already."""
        return self._ask(domain, lambda request: Apply(request_id=request, resources=resources))

    def delete(self, domain: str, name: str, kind: str = "Intent") -> Reply | None:
        return self.delete_all(domain, (kind, name))

    def delete_all(self, domain: str, *things: tuple[str, str], ignore_missing: bool = False) -> Reply | None:
        """Kinds and names."""
        resources = tuple(Reference(kind=kind, name=name) for kind, name in things)
        return self._ask(
            domain, lambda request: Delete(request_id=request, resources=resources, ignore_missing=ignore_missing)
        )

    def drain(self, domain: str, part: str, *, is_drained: bool = True) -> Reply | None:
        return self._ask(domain, lambda request: SetDrain(request_id=request, part=part, is_drained=is_drained))

    def renew(self, domain: str, name: str) -> Reply | None:
        return self._ask(domain, lambda request: Renew(request_id=request, name=name))

    def load_policy(self, domain: str, policy: Policy, *, dry_run: bool = False) -> Reply | None:
        self.controllers[domain].policy = policy if not dry_run else self.controllers[domain].policy
        return self._ask(
            domain,
            lambda request: LoadPolicy(request_id=request, policy=policy, file="policy.yaml", dry_run=dry_run),
        )

    def _ask(self, domain: str, event: Callable[[str], Event]) -> Reply | None:
        """The answer to what is made of the request's name; None: the controller crashed over it."""
        self._requests += 1
        request = f"request-{self._requests}"
        controller = self.controllers[domain]
        controller.event(event(request), controller.life)
        return controller.replies.get(request)

    def get(self, domain: str, kind: str, name: str) -> Resource:
        return next(resource for resource in self.resources(domain, kind) if resource.metadata["name"] == name)

    def resources(self, domain: str, kind: str) -> list[Resource]:
        return resource_view.resources(self.controllers[domain].state, kind, self.now_s)

    def phase(self, domain: str, name: str) -> str:
        return str(self.get(domain, "intents", name).status["phase"])

    def add_port(self, node: str, number: int, role: PortRole) -> None:
        """Its agent says so at once."""
        self.nodes[node].add_port(number, role)
        controller = self.controllers[self.topology.node(node).domain]
        self._connected(controller, controller.life, node)

    def resize(self, table: str, size: int) -> None:
        """Of all nodes; their agents say so at once."""
        for name, node in self.nodes.items():
            node.sizes[table] = size
            controller = self.controllers[self.topology.node(name).domain]
            self._connected(controller, controller.life, name)

    def meet(self, *pairs: tuple[str, str]) -> None:
        """They have a new connection, in both directions."""
        for pair in pairs:
            for near, other in (pair, pair[::-1]):
                peer = self.controllers[other]
                greeting = Greeting(
                    versions=(PROTOCOL,), capabilities=self.capabilities[other], instance=f"{other}-{peer.life}"
                )
                controller = self.controllers[near]
                controller.event(PeerMet(peer=other, greeting=greeting), controller.life)

    def greet(self, domain: str) -> None:
        """It meets those of its neighbours that are there."""
        for link in self.controllers[domain].state.inventory.links.values():
            if link.domain and self.controllers[link.domain].alive:
                self.meet((domain, link.domain))

    def new_key(self, node: str) -> None:
        """The gateway is another machine, or its state is lost; its agent says so."""
        self.nodes[node].new_key()
        controller = self.controllers[self.topology.node(node).domain]
        self._connected(controller, controller.life, node)

    def set_carrier(self, link: str, carrier: bool, *ends: str) -> None:
        """Of a link, at both ends or only at some; their agents say so soon."""
        for name in ends or link.split("-"):
            self.nodes[name].set_carrier(link, carrier)
            self._says_soon(name)

    def set_silent(self, link: str, silent: bool) -> None:
        """Probes over a link do not come back to either end; their agents say so soon."""
        for name in link.split("-"):
            (self.nodes[name].silent.add if silent else self.nodes[name].silent.discard)(link)
            self._says_soon(name)

    def _says_soon(self, name: str) -> None:
        controller = self.controllers[self.topology.node(name).domain]
        self.after(self.random.uniform(0.1, 1.0), self._connected, controller, controller.life, name)

    # ---- between controllers

    def _delay(self) -> float:
        return self.random.uniform(*self.faults.delay_s)

    def carry(self, sender: Controller, batch: Sequence[Send]) -> None:
        """In one call, to one peer."""
        copies = 2 if self.random.random() < self.faults.duplication else 1
        for _ in range(copies):
            self.after(self._delay(), self._deliver, sender, sender.life, batch)

    def _deliver(self, sender: Controller, life: int, batch: Sequence[Send]) -> None:
        peer = batch[0].peer
        refusals: list[str] = []
        taken = False
        if frozenset((sender.domain, peer)) not in self.partitioned and self.random.random() >= self.faults.loss:
            self.calls += 1
            self.wiretap += [(sender.domain, peer, send.message) for send in batch]
            refusal = self.refusing.get((sender.domain, peer), "")
            refusals = [refusal or _unreadable(send.message) for send in batch]
            heard = [send for send, refusal in zip(batch, refusals, strict=True) if not refusal]
            taken = not heard or self.deliver_all([send.message for send in heard], sender.domain, peer)
        answered = taken and self.random.random() >= self.faults.loss
        reports = [
            MessageSent(
                peer=peer,
                message_id=send.message_id,
                reason=refusal if answered else "no answer within 5 s",
                final=answered and bool(refusal),
            )
            for send, refusal in itertools.zip_longest(batch, refusals, fillvalue="")
        ]
        self.after(self._delay(), sender.together, reports, life)

    def deliver(self, message: Envelope, sender: str, receiver: str) -> str | None:
        """As the east-west server does: why it is refused for good (empty: it is not); None: nobody took it."""
        if refusal := _unreadable(message):
            return refusal
        return "" if self.deliver_all([message], sender, receiver) else None

    def deliver_all(self, messages: Sequence[Envelope], sender: str, receiver: str) -> bool:
        """In one call: whether they were taken."""
        controller = self.controllers[receiver]
        return controller.together(
            [MessageReceived(peer=sender, message=message) for message in messages], controller.life
        )

    def heard(self, kind: str, sender: str = "", receiver: str = "") -> list[Envelope]:
        """What was delivered, oldest first."""
        return [
            message
            for source, target, message in self.wiretap
            if message.kind == kind and sender in ("", source) and receiver in ("", target)
        ]

    def accepted_sids(self) -> set[str]:
        """Of all acceptances ever signed: of both ends."""
        said = [statement for controller in self.controllers.values() for statement in controller.keys.said]
        offered = {
            digest: said_by_digest.offeror_end.sid
            for said_by_digest, digest in said
            if isinstance(said_by_digest, Terms)
        }
        accepted = [acceptance for acceptance, _ in said if isinstance(acceptance, Acceptance)]
        return {sid for acceptance in accepted for sid in (acceptance.acceptor_end.sid, offered[acceptance.offer])}

    # ---- between a controller and its nodes

    def connect(self, controller: Controller, node: str) -> None:
        self.after(self._delay(), self._connected, controller, controller.life, node)

    def _connected(self, controller: Controller, life: int, name: str) -> None:
        node = self.nodes[name]
        node.generation = -1  # a new session: generations of another life of the controller mean something else
        if node.up:
            controller.event(NodeDescribed(node=name, description=node.describe(), sizes=dict(node.sizes)), life)
        else:
            controller.event(NodeUnreachable(node=name, reason="connection refused"), life)
            if life == controller.life:
                self.after(1.0, self._connected, controller, life, name)

    def sync(self, controller: Controller, effect: SyncNode) -> None:
        self.after(self._delay(), self._synced, controller, controller.life, effect)

    def _synced(self, controller: Controller, life: int, effect: SyncNode) -> None:
        node = self.nodes[effect.node]
        if life != controller.life:
            return  # its session ended with the controller
        if not node.up:
            controller.event(NodeUnreachable(node=effect.node, reason="connection lost"), life)
            self.after(1.0, self._connected, controller, life, effect.node)
            return
        if not node.confirms:
            self.after(5.0, self._gave_up, controller, life, effect.node)
            return
        standing = controller.state.nodes[effect.node]
        if node.refusal:
            refusal = NodeRejected(node=effect.node, generation=effect.generation, reason=node.refusal)
            self.after(self._delay(), controller.event, refusal, life)
            return
        if effect.generation < standing.generation:
            return  # a newer one replaces it
        if effect.delta is not None and effect.delta.since == node.generation:
            node.check(effect.delta, effect.state)
        before = {node.name: node.renewed_now}
        writes, differences = node.sync(effect.state)
        node.generation = effect.generation
        owners = sorted({entry.owner for entry in effect.state.entries if entry_key(entry) in node.refused})
        event: Event = NodeSynced(
            node=effect.node,
            generation=effect.generation,
            writes=writes,
            deviations=differences if effect.audit else (),
        )
        if owners:
            reason = "it does not like it"
            refused = tuple(PartRefused(part=owner, reason=reason) for owner in owners)
            event = NodeRejected(node=effect.node, generation=effect.generation, reason=reason, refused=refused)
        self.after(self._delay(), controller.event, event, life)
        if node.renews:
            told = {name: each.renewed_now for name, each in self.nodes.items()}
            before.update({name: known for name, known in told.items() if name != node.name})
            for border in sorted({tunnel.border for tunnel in node.host.tunnels}):
                (other,) = (self.nodes[name] for name in border.split("-") if name != node.name)
                if other.up:
                    node.shake_hands(other, border)
            for name, each in self.nodes.items():
                if each.renewed_now != before.get(name):
                    self.says(name)

    def says(self, name: str) -> None:
        """In the same session."""
        controller = self.controllers[self.topology.node(name).domain]
        self.after(self._delay(), self._described, controller, controller.life, name)

    def _described(self, controller: Controller, life: int, name: str) -> None:
        node = self.nodes[name]
        if node.up:
            controller.event(NodeDescribed(node=name, description=node.describe(), sizes=dict(node.sizes)), life)

    def _gave_up(self, controller: Controller, life: int, node: str) -> None:
        controller.event(NodeUnreachable(node=node, reason="deadline exceeded"), life)
        self.after(0.1, self._connected, controller, life, node)

    # ---- what must hold

    def stitches(self) -> list[tuple[str, Stitch]]:
        return [
            (name, stitch)
            for name, controller in self.controllers.items()
            for stitch in controller.state.stitches.values()
        ]

    def check_settled(self) -> None:
        """Nothing is under way, and every node has exactly what its controller says it shall have."""
        for name, controller in self.controllers.items():
            assert controller.alive, f"{name} is down"
            assert not controller.state.outbox, f"{name} has still to say {list(controller.state.outbox)}"
            for stitch in controller.state.stitches.values():
                assert stitch.stage == Stage.ACTIVE, f"{name}: {stitch.plan.name} is {stitch.stage}"
            for node, standing in controller.state.nodes.items():
                assert standing.settled, f"{name}: {node} is not settled: {standing.reason}"
                state = standing.state
                assert state is not None
                simulated = self.nodes[node]
                assert simulated.entries == {entry_key(entry): entry for entry in state.entries}, node
                assert simulated.host == state.host, node

    def owners(self) -> dict[str, set[str]]:
        """Of each node's entries."""
        return {name: {entry.owner for entry in node.entries.values()} for name, node in self.nodes.items()}
