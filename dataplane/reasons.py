"""The numbers that every implementation of the pipeline agrees on, and that P4Runtime clients see."""

import enum
from collections.abc import Mapping


class DropReason(enum.IntEnum):
    """Why a packet was dropped: the index of `drop_counter`. Entries may give reasons from 64 on."""

    NONE = 0
    MALFORMED = 1
    UNKNOWN_ATTACHMENT = 2
    """No such attachment."""
    SID_NOT_ADMITTED = 3
    """A SID from where it may not be used (RFC 8754 §5.1), or no SID where only SIDs belong."""
    SEGMENTS_LEFT = 4
    FRAGMENT = 5
    """It follows no fragment with ports: none came, or too long ago, or too many of others came since."""
    NOT_PERMITTED = 6
    """No entry of `flow_policy`."""
    METERED = 7
    NO_STEERING = 8
    NO_LIVE_PATH = 9
    NO_ROUTE = 10
    NO_NEXT_HOP = 11
    HOP_LIMIT = 12
    NOT_IP = 13
    SOURCE_NOT_ADMITTED = 14
    """A source address that does not belong to this attachment (RFC 7039)."""
    LEASE_EXPIRED = 15
    TOO_BIG = 16
    """Larger than the path takes; the sender was told with an ICMP error where the packet allows one."""
    NEIGHBOR_UNKNOWN = 17
    """The packet became an ARP request or a neighbour solicitation."""
    NEIGHBOR_IGNORED = 18
    """ARP or ND that is not ours to answer."""
    NOT_FORWARDABLE = 19
    """Multicast, link-local or unspecified addresses."""
    NOT_TO_US = 20
    """A host's frame to another station's MAC, or IP in one to a group (RFC 1812 §5.3.4)."""
    FRAGMENT_REFUSED = 21
    """It overlaps what came before, lacks headers that a first fragment has, or fits into no packet (RFC 5722)."""
    IPV4_OPTIONS = 22
    NO_IPV6 = 23
    """The path takes no packets of IPV6_LEAST_MTU octets, so it is none for IPv6."""
    UNCLASSIFIED = 24
    """No upper layer is seen behind its extension headers, and nothing permits what cannot be classified."""
    PORT_DOWN = 25
    """The port that it was sent to is down, or nobody takes frames at the other end."""
    PORT_FULL = 26
    """The queue of the port that it was sent to was full."""
    PORT_UNFIT = 27
    """The interface of the port cannot send what XDP redirects to it."""
    KERNEL_LOST = 28
    """Lost between an interface of a port and the pipeline, on the kernel's side, as statistics of interfaces say."""
    PUNT_LOST = 29
    """It was for the controller, and too many others were."""
    ICMP_ERROR_REFUSED = 30
    """An ICMP error that quotes no packet which its receiver sent to its sender (RFC 5927)."""
    TRIMMED = 31
    """What a node before left of a packet that was TOO_BIG there; the sender was told where the packet allows it."""
    UNASKED = 32
    """A reply to nothing, or to what is over: nobody at the other end has asked for it."""
    ISOLATED = 64
    """An intent isolates the source or the destination."""
    SID_GONE = 65
    """Its SID is a function of this node that is not there, or no more, of which its sender has not heard yet."""


MISSES: Mapping[str, DropReason] = {
    "attachment": DropReason.UNKNOWN_ATTACHMENT,
    "source_guard": DropReason.SOURCE_NOT_ADMITTED,
    "flow_policy": DropReason.NOT_PERMITTED,
    "steer": DropReason.NO_STEERING,
    "sr_policy": DropReason.NO_LIVE_PATH,
    "route": DropReason.NO_ROUTE,
    "next_hop": DropReason.NO_NEXT_HOP,
}
"""By table, what a miss drops with: p4c writes default actions into the P4Info, but not their parameters."""


class PortLoss(enum.IntEnum):
    """Why a port did not take what was sent to it: an index of `port_loss` (XDP only, not in the P4Info)."""

    FULL = 0
    DOWN = 1
    TOO_BIG = 2
    UNFIT = 3

    @property
    def reason(self) -> DropReason:
        return _REASONS_OF_LOSSES[self]


_REASONS_OF_LOSSES = {
    PortLoss.FULL: DropReason.PORT_FULL,
    PortLoss.DOWN: DropReason.PORT_DOWN,
    PortLoss.TOO_BIG: DropReason.TOO_BIG,
    PortLoss.UNFIT: DropReason.PORT_UNFIT,
}


class PuntReason(enum.IntEnum):
    """Why a packet went to the controller. Entries of `punt_frame` give reasons from 16 on."""

    NONE = 0
    TOO_BIG = 1
    """Of P4 targets."""
    NO_NEIGHBOR = 2
    """Of P4 targets."""


class IcmpError(enum.IntEnum):
    """What the sender of a dropped packet is told, where the RFCs allow it."""

    NONE = 0
    TOO_BIG = 1
    HOP_LIMIT = 2
    """Time exceeded."""
    HOST_UNREACHABLE = 3
    NO_ROUTE = 4
    PROHIBITED = 5
    """Only where the network says `deny: reject`."""


class L4Class(enum.IntEnum):
    """What a packet is to `flow_policy`. TCP_OPEN and TCP share a mask (0xe): any TCP."""

    TCP_OPEN = 0
    """SYN without ACK."""
    TCP = 1
    UDP = 2
    ICMP_ERROR = 3
    ECHO_REQUEST = 4
    ECHO_REPLY = 5
    OTHER = 6
    UNCLASSIFIED = 7
    """What it carries is not seen, behind ESP, an unknown next header of IPv6 or too many headers; or it has TCP flags
    that mean nothing."""


class PipelineEvent(enum.IntEnum):
    """What the pipeline did beside forwarding: the index of `event_counter` (XDP only, not in the P4Info)."""

    ARP_ANSWERED = 0
    ND_ANSWERED = 1
    ECHO_ANSWERED = 2
    NEIGHBOR_LEARNT = 3
    MSS_CLAMPED = 4
    CACHE_HIT = 5
    CACHE_MISS = 6
    CACHE_EVICTED = 7
    ENCAPSULATED = 8
    DECAPSULATED = 9
    END = 10
    CAPTURE_LOST = 11
    PUNT_LOST = 29
    NEIGHBOR_EVICTED = 13
    """The port had NEIGHBORS_OF_PORT others; the eldest was forgotten."""
    FRAGMENT_FOLLOWED = 14
    """It was taken for one of its first's flow."""
    FRAGMENT_EVICTED = 15
    """A first fragment was forgotten before all that follow it had come: its source sends too many at once."""
    CUT = 16
    """An IPv4 packet that is larger than its path takes, or follows such a one, went to the agent, which cuts it."""
    CONVERSATION_EVICTED = 17
    """A conversation that was alive gave way: its port has opened too many at once."""
    PROBE_RETURNED = 18
    """A probe of our own came back, for the first time."""
    PROBE_FORGED = 19
    """It has not the HMAC of what was sent with its sequence number."""
    PROBE_REPLAYED = 20
    """It came back before, or too long ago was it sent."""
    PATH_DOUBTED = 21
    """The far end of a path has told that it finds it dead."""


FABRIC_VRF = 0
ATTACHMENT_CLASS = 0
FABRIC_CLASS = 1
"""Ingress classes: 0 attachments, 1 fabric links, from 2 on one for each neighbour's tunnel."""
SID_BLOCK = 0x5F00
"""First 16 bits of every SID (RFC 9602); tells outer from inner."""
PORTS = 512
PORT_LOSSES = 4
"""Kinds of PortLoss."""
CONTAINERS = 4
"""Of a candidate path at most; what does not fit into the first is in an SRH."""
MAX_SEGMENTS = 8
"""Of an SRH that ends here. Longer ones cross a node."""
MERGE_BITS_MOST = 80
"""By how much a service SID's node and function are moved at most: to the last 32 bits of a container."""
CANDIDATE_PATHS = 8
PROBES = 512
"""That a node sends at most: an SSID each."""
PROBES_REMEMBERED = 64
"""The last ones of each, that may still come back."""
STAMP_PORT = 862
NOTICE_SSID = 0xFFFF
"""Instead of a session's: no probe, but a notice that a path is dead."""
"""UDP, RFC 8762 §4.1."""
FLOW_CACHE_WAYS = 4
CONVERSATION_WAYS = 8
"""Conversations of a bucket; what is dead gives way, then the eldest of the port that has most of the bucket."""
NEIGHBORS_OF_PORT = 256
"""Learnt addresses that one port keeps; no port can take another's place."""
FRAGMENT_SHARES = 16
"""Of each port: a source has one of them, so that who wastes it harms few others behind the same port."""
FRAGMENT_WAYS = 8
"""Fragmented packets that a share knows at a time; the eldest gives way."""
FRAGMENT_PARTS = 4
"""Pieces without a gap between them, of one packet, that may have come at a time."""
EXTENSION_HEADERS = 8
"""Of an IPv6 packet, that are walked to its upper layer."""
EXTENSIONS_END = 248
"""Octets from the beginning of an IPv6 header, within which its upper layer must begin."""
IPV6_LEAST_MTU = 1280
"""RFC 8200 §5."""
CUT_SMALLEST_MTU = 68
"""RFC 791 §3.2: nothing is cut smaller."""
CUT_LARGEST_PACKET = 3584
"""Octets of an IPv4 packet that can be cut into fragments: more than a frame of native XDP has."""
TRIMMED_LENGTH = 128
"""What is left of a packet that a node on its way had to trim: enough to tell its sender."""
