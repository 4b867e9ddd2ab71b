"""What two neighbouring domains sign before anything crosses their border, and the messages that lead there."""

import msgspec

from controller.model.intent import Encryption, Ports, Trust, Value


class Flow(Value, frozen=True, kw_only=True):
    """What may cross, in the direction of the offer; replies may cross back."""

    source: str
    """`domain/network` it comes from."""
    source_prefixes: tuple[str, ...]
    destination: str
    """Service or network it goes to."""
    destination_prefixes: tuple[str, ...]
    ports: tuple[Ports, ...]
    """Empty: everything."""


class TunnelEnd(Value, frozen=True, kw_only=True):
    """One side of a border, as the other side must know it."""

    sid: str
    """End.DT46 SID where this side takes what the other sends: its binding SID for this agreement and direction."""
    public_key: str
    """WireGuard."""
    endpoint: str
    """`address:port` on the underlay."""
    inner_mtu: int
    """Largest inner packet that this side takes here, in octets."""


class Terms(Value, frozen=True, kw_only=True):
    id: str
    """Unique for its offeror: `offeror:name:serial`."""
    revision: int
    """Grows with each renewal or change of the same agreement."""
    offeror: str
    acceptor: str
    origin: str
    """Domain whose intent it is."""
    border: str
    """Name of the inter-domain link."""
    flows: tuple[Flow, ...]
    encryption: Encryption
    trust_min: Trust | None
    latency_us_max: int | None
    """What is left of the budget from this border on."""
    visited: tuple[str, ...]
    """Domains that the traffic passed already; none is entered twice."""
    not_before_s: int
    expires_s: int
    """Unix time; with it the border closes."""
    offeror_end: TunnelEnd
    avoid_domains: tuple[str, ...] = ()
    """Domains that the traffic must not pass."""
    dscp: int = 0
    """Code point of the outer headers on every domain's part of the way, both directions (RFC 2474)."""


class Offer(Value, frozen=True, kw_only=True, tag="offer"):
    terms: Terms
    signature: str
    """The offeror's Ed25519 signature of `signing_bytes("offer", terms)`, base64."""


class Acceptance(Value, frozen=True, kw_only=True, tag="acceptance"):
    terms: Terms
    offer_signature: str
    acceptor_end: TunnelEnd
    latency_us: int
    """What the acceptor promises from this border to the destination."""
    signature: str
    """The acceptor's, of `signing_bytes("acceptance", ...)` over terms, acceptor_end and latency_us, base64."""


class Refusal(Value, frozen=True, kw_only=True, tag="refusal"):
    id: str
    revision: int
    reason: str
    signature: str


class Withdrawal(Value, frozen=True, kw_only=True, tag="withdrawal"):
    """Either side ends an agreement; nothing crosses from then on (or after `linger_s`)."""

    id: str
    reason: str
    issued_s: int
    linger_s: int = 0
    """For so long replies and what is under way may still cross, because another agreement has taken over."""
    signature: str


Message = Offer | Acceptance | Refusal | Withdrawal


class Agreement(Value, frozen=True, kw_only=True):
    """Terms that both domains signed."""

    terms: Terms
    offer_signature: str
    acceptor_end: TunnelEnd
    latency_us: int
    acceptance_signature: str


def signing_bytes(kind: str, *parts: Value | str | int) -> bytes:
    """What is signed: the kind of message, then the canonical encoding of its content, so that no signature of one
    kind can stand for another."""
    return b"netstitch/v1/" + kind.encode() + b"\n" + msgspec.json.encode(parts)
