"""What an agent and its controller tell each other beside P4Runtime: ports, tunnels, flow records.

Methods of the gRPC service `netstitch.Host`, on the same socket as P4Runtime. Messages are these records in
MessagePack (`encode`, `decode`). A request with unknown or missing fields is refused; an answer may have more fields.

| method | kind | request | response |
|---|---|---|---|
| Describe | unary | Empty | NodeDescription |
| Sync | unary | HostState | HostReport |
| Audit | unary | HostState | AuditReport |
| ReadFlows | unary | FlowQuery | FlowBatch |
| WatchTelemetry | server stream | TelemetryQuery | TelemetryBatch |
| Capture | server stream | CaptureQuery | CapturedFrame |
"""

import enum
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

from dataplane import addressing
from dataplane.bounds import (
    FLOWS_MAX,
    LARGEST_PORT,
    AddressText,
    Count,
    Digest,
    EndpointText,
    Frame,
    ManyWords,
    Name,
    PackedFlows,
    Port,
    PortOrNone,
    PrefixTexts,
    Seconds,
    UnixTime,
    UnixTimeFloat,
    Unsigned8,
    Unsigned16,
    Unsigned32,
    Words,
)
from dataplane.reasons import CANDIDATE_PATHS, MAX_SEGMENTS, PROBES

SERVICE = "netstitch.Host"
PROBE_MS_LEAST = 10
Epoch = Annotated[int, Meta(ge=0, le=2**31)]
KemKey = Annotated[bytes, Meta(max_length=1184)]
"""ML-KEM-768 (FIPS 203 §8); empty: none."""
KemCiphertext = Annotated[bytes, Meta(max_length=1088)]
LEAST_TUNNEL_MTU = 1344
"""An IPv6 packet of 1280 octets (RFC 8200 §5) in an outer header with one segment in an SRH: more than ours need, but
neighbours of the release before write so. A tunnel takes that whatever the underlay does: the kernel fragments
WireGuard's packets where it must (RFC 2473 §7.1)."""


class PortRole(enum.StrEnum):
    ATTACHMENT = "attachment"
    """Hosts of a network; XDP answers ARP and ND here."""
    FABRIC = "fabric"
    """A link to a node of the same domain; carries SRv6."""
    UNDERLAY = "underlay"
    """A link between domains; the kernel's, carries WireGuard only, no XDP."""


class _Record(msgspec.Struct, frozen=True):
    """What an agent tells: a controller that is older passes over what it does not know."""


class _Request(_Record, frozen=True, forbid_unknown_fields=True):
    """What an agent is asked, or reads."""


class Empty(_Request, frozen=True, kw_only=True):
    pass


class PortWay(enum.StrEnum):
    """How frames come from an interface into the pipeline and back."""

    AUTO = "auto"
    """Native where that can be seen to work, else a detour."""
    NATIVE = "native"
    """XDP in the interface's own driver: fastest. Whoever is behind it must send whole frames (a veth's other end: no
    transmit offloads) and take what is redirected (a veth's other end: GRO, or an XDP program)."""
    DETOUR = "detour"
    """Through a veth pair of the agent, where the kernel makes frames whole: works with every interface and host."""


class PortConfig(_Request, frozen=True, kw_only=True):
    number: int
    """P4Runtime port, 1 to 511."""
    interface: str
    """Its name on the machine, such as `eth1`."""
    role: PortRole
    """What is attached to it: hosts of a network, a node of the same domain, or another domain."""
    way: PortWay = PortWay.AUTO
    """How frames come from it into the pipeline: `native`, in the interface's own driver, which is fastest, needs whole
    frames from who is behind it (a veth's other end: transmit offloads off), who must take redirected ones (a veth's
    other end: GRO on); `detour`, by a veth pair of the agent, works with every interface and host; `auto` is native
    where the agent sees that it works."""


class BorderConfig(_Request, frozen=True, kw_only=True):
    """Where a tunnel to a neighbouring domain can start."""

    name: str
    """The inter-domain link, such as `sg1-t1`."""
    port: int
    """P4Runtime port of the tunnel; exists while the tunnel does."""
    interface: str
    """The underlay interface; at most 11 characters are used to name devices, so names differ within these."""
    address: str
    """Underlay address of this end, with prefix length: `192.0.2.1/30`."""
    listen_port: int
    """UDP port of WireGuard."""
    second_listen_port: int = 0
    """Another UDP port of WireGuard at the same address, with which keys are renewed before those in use go; 0: there
    is none, and keys stay as they are. Ports are different on all borders of a node."""
    mtu: int
    """Of packets inside the tunnel that the underlay takes whole; those of LEAST_TUNNEL_MTU pass in any case."""
    peers: tuple[str, ...] = ()
    """Prefixes in which the neighbour's end may be beside that of `address`, where routers are between the two."""


class TableSizes(_Request, frozen=True, kw_only=True):
    """How many entries the tables of a node can have; memory of most of them is taken at once."""

    forwarding_classes: int = 65536
    """One for each intent and direction; at most 65,536."""
    flow_policies: int = 65536
    """Rules of what may go where."""
    prefixes: int = 131072
    """Of each of the tables that are found by prefix: routes, groups of sources and of destinations, source guards."""
    sr_policies: int = 4096
    """Paths with their alternatives; at most 65,536."""
    policy_classes: int = 4096
    """Kinds of sources that rules tell apart; at most 65,536."""
    local_sids: int = 16384
    """SIDs of the node."""


class AgentConfig(_Request, frozen=True, kw_only=True):
    """The file that `stitch-agent --config` reads (JSON)."""

    name: str
    """Of the node, as the inventory has it."""
    listen: str
    """`unix:/path` (mode 0600), or `host:port` with `tls_*` (mutual TLS)."""
    listen_group: str = ""
    """Group whose members may use the Unix socket beside root, such as that of a controller which is not root."""
    state_dir: str
    """Private keys of tunnels and what must outlast the process; mode 0700."""
    pin_dir: str
    """On a bpffs, outside /sys."""
    wireguard_dir: str = "/var/run/wireguard"
    """Where wireguard-go puts its sockets, if it is used."""
    ports: tuple[PortConfig, ...]
    """The interfaces that netstitch may use; it touches no other."""
    borders: tuple[BorderConfig, ...] = ()
    """Where tunnels to other domains can start."""
    metrics: str = ""
    """Where Prometheus may read `/metrics`: `unix:/path` (mode 0600) or `host:port` on loopback; empty: nowhere."""
    flow_cache_entries: int = 65536
    """For each CPU; a power of two."""
    probes_s_max: int = 20_000
    """Probes of paths and links that the node sends a second at most, all together; 0: none. Where there are too many
    for the pace that the controller asks for, each is sent more seldom."""
    table_sizes: TableSizes = TableSizes()
    """How many entries the tables can have."""
    tls_certificate: str = ""
    """The node's, PEM."""
    tls_key: str = ""
    """Of the node's certificate, PEM."""
    tls_client_ca: str = ""
    """Who signed the certificate of the controller, PEM."""
    tls_client_name: str = ""
    """Name in the controller's certificate (a DNS name, or the common name). Needed where that certificate may be a
    server's too; one of `stitchd keygen --agent` may not, and needs none."""


class PortStatus(_Record, frozen=True, kw_only=True):
    number: Port
    interface: Name
    role: PortRole
    mac: Name
    """Empty: the interface is not there."""
    mtu: Unsigned32
    carrier: bool
    kind: Name = ""
    """Of the interface: `veth`, `tun`, `bridge`, ..., or the driver of a card."""
    way: Name = ""
    """`native` or `detour`; empty: not in the pipeline."""
    why: Words = ""
    """Why it is a detour."""
    faults: ManyWords = ()
    """What keeps frames from passing, and what to do."""
    silent: bool = False
    """It has a carrier, but probes over its link do not come back."""

    def __post_init__(self) -> None:
        if self.mac:
            addressing.mac(self.mac)


class TunnelKeys(_Record, frozen=True, kw_only=True):
    """Renewed keys of a border, as the node has them: what the neighbour must know of them."""

    epoch: Epoch
    public_key: Name
    """WireGuard, base64."""
    endpoint: EndpointText
    kem_key: KemKey = b""
    """ML-KEM-768, where this node has begun."""
    kem_ciphertext: KemCiphertext = b""
    """For the neighbour that has begun."""
    shaken: bool = False
    """The neighbour's have been met: packets pass in both directions."""
    sends: bool = False
    """What leaves takes them."""

    def __post_init__(self) -> None:
        if self.public_key:
            addressing.key(self.public_key)
        if self.endpoint:
            addressing.endpoint(self.endpoint)


class BorderStatus(_Record, frozen=True, kw_only=True):
    name: Name
    port: Port
    mac: Name
    """Of the tunnel's port, on the XDP side."""
    kernel_mac: Name
    """Of the tunnel's port, on the kernel's side: the destination MAC of what is to enter the tunnel."""
    carrier: bool = True
    """Of the underlay."""
    public_key: Name
    """WireGuard, base64. The private one never leaves the node."""
    endpoint: EndpointText
    """`address:port` on the underlay."""
    mtu: Unsigned32
    reaches: PrefixTexts = ()
    """Prefixes in which the neighbour's end may be."""
    up: bool
    """The tunnel exists."""
    latest_handshake_s: UnixTimeFloat
    """Unix time; 0 = never."""
    received_bytes: Count
    sent_bytes: Count
    renews: bool = False
    """Its keys can be renewed: it has a second port."""
    keys: Annotated[tuple[TunnelKeys, ...], Meta(max_length=2)] = ()
    """Renewed ones, the older first."""
    faults: ManyWords = ()
    """What keeps frames from passing, and what to do."""

    def __post_init__(self) -> None:
        for text, read in (
            (self.mac, addressing.mac),
            (self.kernel_mac, addressing.mac),
            (self.public_key, addressing.key),
            (self.endpoint, addressing.endpoint),
        ):
            if text:
                read(text)
        for prefix in self.reaches:
            addressing.prefix(prefix)


class Gateway(_Request, frozen=True, kw_only=True):
    """Addresses that the edge answers for on an attachment."""

    port: Port
    ipv4: AddressText = ""
    ipv6: AddressText = ""


class Tunnel(_Request, frozen=True, kw_only=True, omit_defaults=True):
    """A WireGuard device to one neighbour (desired). A border has two while its keys are renewed.

    An agent that is older knows no epochs, and is not told of any (`BorderStatus.renews`).
    """

    border: Name
    peer_public_key: Name
    """Empty, with an epoch: only keys are made, for the neighbour to hear of."""
    peer_endpoint: EndpointText
    allowed_ips: PrefixTexts
    """Prefixes of sources that may come out and destinations that may go in: the neighbour's SID block."""
    persistent_keepalive_s: Unsigned16 = 25
    """0: this end does not begin to shake hands before it has something to send. Where both begin at once they wait
    for 5 s, so while keys are renewed only who has begun that begins."""
    epoch: Epoch = 0
    """Of the keys of both ends; 0: the one that the border always has."""
    kem_key: KemKey = b""
    """The neighbour's, which has begun."""
    kem_ciphertext: KemCiphertext = b""
    """The neighbour's answer, where this node has begun."""


class FarEnd(_Request, frozen=True, kw_only=True):
    """Where somebody takes the same path the other way round, who is told when it is dead here."""

    sid: AddressText
    """Its End."""
    containers: Annotated[tuple[AddressText, ...], Meta(min_length=1, max_length=MAX_SEGMENTS)]
    """Over this path; the last one ends with `sid`."""
    liveness_group: Unsigned16
    slot: Annotated[int, Meta(ge=0, le=CANDIDATE_PATHS - 1)]
    """What the path is called there."""


class Probe(_Request, frozen=True, kw_only=True, omit_defaults=True):
    """STAMP packets (RFC 8762) over a path there and back, again and again (desired)."""

    port: Port
    """Where they leave: by the next hop of this number."""
    source: AddressText
    """The node's own End, where they come back."""
    containers: Annotated[tuple[AddressText, ...], Meta(min_length=1, max_length=MAX_SEGMENTS)]
    """In the order of travel; the last one ends with `source`."""
    interval_ms: Annotated[int, Meta(ge=PROBE_MS_LEAST, le=60_000)]
    liveness_group: Unsigned16 = 0
    slot: Annotated[int, Meta(ge=0, le=CANDIDATE_PATHS - 1)] | None = None
    """Of the candidate path that is not taken while they do not come back. None: they are of the link at `port`."""
    far_end: FarEnd | None = None


class HostState(_Request, frozen=True, kw_only=True, omit_defaults=True):
    """All that a node shall have beside table entries (desired). What is not here is removed.

    An agent that is older knows no probes, and is not told any (`NodeDescription.probes_max`).
    """

    gateways: Annotated[tuple[Gateway, ...], Meta(max_length=LARGEST_PORT)] = ()
    tunnels: Annotated[tuple[Tunnel, ...], Meta(max_length=LARGEST_PORT)] = ()
    probes: Annotated[tuple[Probe, ...], Meta(max_length=PROBES)] = ()


class PartRefused(_Record, frozen=True, kw_only=True):
    """A tunnel or gateway that the node cannot have as it shall be; what was there of it stays. All else is done."""

    part: Name
    """`tunnels/BORDER` or `ports/NUMBER`, `tunnels/BORDER/EPOCH` of keys that are to come; a controller says so also of
    entries, by their owner."""
    reason: Words
    """What, where, why, and what to do."""


class HostReport(_Record, frozen=True, kw_only=True):
    """What `Sync` did. Empty `changes`: nothing was different."""

    changes: ManyWords
    """In words, one a change: `created tunnel sg1-t1`."""
    refused: Annotated[tuple[PartRefused, ...], Meta(max_length=2 * LARGEST_PORT)] = ()


class Capabilities(_Record, frozen=True, kw_only=True):
    """What a node can do, beside what its ports, its borders and its P4Info say."""

    dataplane: Name = ""
    """What runs the pipeline: `xdp`. Empty: an agent of an earlier release, which says nothing of all this."""
    kernel: Name = ""
    """Its release."""
    cpus: Unsigned16 = 0
    h_encaps_segments: Unsigned16 = 0
    """That it puts ahead of a packet at most (Maximum H.Encaps, RFC 9352 §4.3), each a container of up to six SIDs."""
    srh_segments: Unsigned16 = 0
    """Of an SRH that ends there, at most."""
    meters: Unsigned32 = 0
    """How many flows it can hold to a rate."""
    packed_flows: bool = False
    """Whether its telemetry comes with flows as rows, where that is asked for."""


class NodeDescription(_Record, frozen=True, kw_only=True):
    name: Name
    software: Name
    wireguard: Name
    """`kernel` or `wireguard-go`; `none`: no tunnel can be made."""
    boot_epoch_s: UnixTime
    """Unix time of boot: boot time in s = unix time - boot_epoch_s. Constant until the node's clock is set."""
    layout: Name
    """Digest of the map layout in use."""
    probes_max: Unsigned16 = 0
    """So many probes it can send."""
    maps_bytes: Count = 0
    """Memory of all tables, of the flow cache and the counters, in whole MiB; 0: not known."""
    capabilities: Capabilities = Capabilities()
    ports: Annotated[tuple[PortStatus, ...], Meta(max_length=LARGEST_PORT)]
    tells_ports: bool = True
    """False: P4Runtime alone does not tell which it has, and those count that links name."""
    borders: Annotated[tuple[BorderStatus, ...], Meta(max_length=LARGEST_PORT)]
    host_state: HostState
    """As the node has it now."""

    def __post_init__(self) -> None:
        numbers = [port.number for port in self.ports] + [border.port for border in self.borders]
        if len({*numbers}) != len(numbers):
            raise ValueError("a port is there twice")
        if len({border.name for border in self.borders}) != len(self.borders):
            raise ValueError("a border is there twice")


class AuditReport(_Record, frozen=True, kw_only=True):
    """What `Sync` would say, and what the node has then: one call where nothing is expected to be different."""

    changes: ManyWords
    refused: Annotated[tuple[PartRefused, ...], Meta(max_length=2 * LARGEST_PORT)] = ()
    digests: Annotated[dict[Name, Digest], Meta(max_length=256)]
    """By table, of what it holds, read from the kernel now: equal digests, equal entries. They mean nothing else."""
    description: NodeDescription


class FlowRecord(_Record, frozen=True, kw_only=True):
    """One direction of one flow as the edge saw it. Counts are totals since `first_seen_s`."""

    policy_class: Unsigned32
    forwarding_class: Unsigned32
    ingress_port: PortOrNone
    """0: decapsulated here."""
    l4_class: Unsigned32
    source_address: AddressText
    destination_address: AddressText
    protocol: Unsigned8
    source_port: Unsigned16
    destination_port: Unsigned16
    packets: Count
    bytes: Count
    """IP length, without outer headers."""
    first_seen_s: UnixTimeFloat
    last_seen_s: UnixTimeFloat
    """Unix time."""


class FlowQuery(_Request, frozen=True, kw_only=True):
    forwarding_class: Annotated[int, Meta(ge=-1, le=2**32 - 1)] = -1
    """-1: all."""
    limit: Unsigned32 = 100_000


class FlowBatch(_Record, frozen=True, kw_only=True):
    time_s: UnixTimeFloat
    flows: Annotated[tuple[FlowRecord, ...], Meta(max_length=FLOWS_MAX)]
    truncated: bool


class TelemetryQuery(_Request, frozen=True, kw_only=True, omit_defaults=True):
    interval_s: Seconds = 1.0
    queue_length: Unsigned16 = 64
    packed: bool = False
    """Flows as rows in `packed_flows`, a tenth of the work. Asked of agents that can (`Capabilities.packed_flows`)."""


class CounterSample(_Record, frozen=True, kw_only=True):
    index: Unsigned32
    packets: Count
    bytes: Count


class LostPackets(_Record, frozen=True, kw_only=True):
    """Let through by the pipeline, and lost; not in `drop_counter`. A total."""

    port: PortOrNone
    interface: Name
    """Where."""
    reason: Unsigned32
    """DropReason."""
    packets: Count


class LossReport(_Record, frozen=True, kw_only=True):
    losses: Annotated[tuple[LostPackets, ...], Meta(max_length=65536)]


class ProbeReading(_Record, frozen=True, kw_only=True):
    """What a probe has measured since it was read before; counts are totals since it began."""

    port: Port
    liveness_group: Unsigned16
    slot: Annotated[int, Meta(ge=0, le=CANDIDATE_PATHS - 1)] | None
    """As its Probe's."""
    is_alive: bool
    sent: Count
    lost: Count
    round_trip_us: Unsigned32
    """Median; 0: none came back."""
    round_trip_us_min: Unsigned32
    jitter_us: Unsigned32
    """Mean difference of one round trip to the next (RFC 5481 §3)."""


class TelemetryBatch(_Record, frozen=True, kw_only=True):
    """What changed since the batch before, each interval; every 10 s where nothing does."""

    time_s: UnixTimeFloat
    flows: Annotated[tuple[FlowRecord, ...], Meta(max_length=FLOWS_MAX)]
    forwarding_classes: Annotated[tuple[CounterSample, ...], Meta(max_length=FLOWS_MAX)]
    drops: Annotated[tuple[CounterSample, ...], Meta(max_length=FLOWS_MAX)]
    ports: Annotated[tuple[PortStatus, ...], Meta(max_length=LARGEST_PORT)]
    probes: Annotated[tuple[ProbeReading, ...], Meta(max_length=PROBES)] = ()
    """Of all, every two seconds."""
    lost_batches: Count
    """Batches that a full queue dropped since the stream began."""
    interval_s: Seconds = 0
    """In which all that is in it changed: since the counters were read before. 0: an agent of an earlier release."""
    packed_flows: PackedFlows = b""
    """In place of `flows`."""
    forwarding_class_drops: Annotated[tuple[CounterSample, ...], Meta(max_length=FLOWS_MAX)] = ()
    """Of what was permitted."""
    policy_classes: Annotated[tuple[CounterSample, ...], Meta(max_length=FLOWS_MAX)] = ()
    """What they were denied."""


class CaptureQuery(_Request, frozen=True, kw_only=True):
    port: Port
    count: Unsigned32 = 100
    seconds: Seconds = 5.0


class CapturedFrame(_Record, frozen=True, kw_only=True):
    time_s: UnixTimeFloat
    original_length: Unsigned32
    frame: Frame


Record = TypeVar("Record", bound=_Record)
Request = TypeVar("Request", bound=_Record)
Answer = TypeVar("Answer", bound=_Record)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Answer]):
    name: str
    request: type[Request]
    answer: type[Answer]
    """Of a stream: of each message."""

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.name}"


DESCRIBE = Method("Describe", Empty, NodeDescription)
AUDIT = Method("Audit", HostState, AuditReport)
SYNC = Method("Sync", HostState, HostReport)
READ_FLOWS = Method("ReadFlows", FlowQuery, FlowBatch)
READ_LOSSES = Method("ReadLosses", Empty, LossReport)
WATCH_TELEMETRY = Method("WatchTelemetry", TelemetryQuery, TelemetryBatch)
CAPTURE = Method("Capture", CaptureQuery, CapturedFrame)


def encode(record: _Record) -> bytes:
    return msgspec.msgpack.encode(record)


def decode(data: bytes, kind: type[Record]) -> Record:
    """Raises msgspec.DecodeError (a ValueError) where `data` is no `kind`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
