"""What becomes of a packet, hop by hop, as a controller can tell from the entries that it has given its nodes."""

import enum

from controller.model.intent import Value


class Probe(Value, frozen=True, kw_only=True):
    """A packet that a host of ours is to send."""

    source: str
    """A host, `network/host`, or `network/address`."""
    destination: str
    """A service, a host, `network/host`, or an address."""
    protocol: str = ""
    """tcp, udp or icmp; empty: what the service offers first, or else icmp."""
    port: int = 0
    """0: the first that the service offers of the protocol."""


class Crossing(Value, frozen=True, kw_only=True):
    """A packet that comes from a neighbouring domain."""

    border: str
    """Name of the inter-domain link."""
    frame: str
    """Ethernet, hexadecimal."""


class Verdict(enum.StrEnum):
    DELIVERED = "delivered"
    DROPPED = "dropped"
    LEFT = "left"
    """For another domain, which alone knows how it goes on."""


class Step(Value, frozen=True, kw_only=True, omit_defaults=False):
    """An entry that the packet matched."""

    entry: str
    """`se1/steer/forwarding_class=17`, as `stitch get entries` and `stitch explain` name it."""
    text: str
    owner: str


class Hop(Value, frozen=True, kw_only=True, omit_defaults=False):
    domain: str
    node: str
    ingress: str
    """Host, link or border where it came from."""
    confirmed: bool
    """The node has said that it has these entries."""
    steps: tuple[Step, ...]
    """In the order of the look-ups."""
    segments: tuple[str, ...] = ()
    """Where it was encapsulated: first segment first."""
    containers: tuple[str, ...] = ()
    """The same as it was sent: the first as destination, the others in an SRH."""
    result: str
    """In words."""


class Onward(Value, frozen=True, kw_only=True, omit_defaults=False):
    """Into the tunnel to a neighbour."""

    domain: str
    border: str
    sid: str
    frame: str
    """Ethernet, hexadecimal."""


class Trace(Value, frozen=True, kw_only=True, omit_defaults=False):
    packet: str
    """In words."""
    hops: tuple[Hop, ...]
    verdict: Verdict
    text: str
    """The verdict in words: where, why, and whose entry."""
    owner: str = ""
    """Whose entry dropped it; empty: none, or it was not dropped."""
    onward: Onward | None = None


class Unknown(Value, frozen=True):
    """Why there is no trace: what was named is not there, or is several."""

    message: str
