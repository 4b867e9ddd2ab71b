"""What domains sign before anything crosses their borders, and the bytes in which they say it.

    mandate      the origin's word: for which flows it asks, how they must be carried, until when
    offer        what a domain asks its neighbour to carry, within the origin's mandate, which is in it
    acceptance   what the neighbour promises for that offer
    refusal, withdrawal
    advertisement  what a domain offers, which neighbours carry on unaltered in `routes`

Each is an `Envelope`: bytes and a signature over exactly these bytes. They are verified, stored and shown as they came;
nothing is encoded anew for it, so that what a later release says beside what this one knows is not lost.
"""

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from controller.model.intent import Encryption, Ports, Trust, Value
from controller.model.recent import Recent
from dataplane.bounds import ONE_LINE, AddressText, EndpointText, PrefixTexts
from dataplane.decoding import from_json

PROTOCOL = 2
"""Version of what controllers say to each other. 1, of the releases before mandates, is refused."""
HOLDINGS = "holdings"
"""Takes Holdings."""
BATCHES = "batches"
"""Takes many messages in one call."""
AMENDS = "amends"
"""Takes offers that change the flows of an agreement, and answers that are about some of them."""
WAYS = "ways"
"""Takes WayBack."""
ADVERTISES = "advertises"
"""Takes Routes."""
TRANSLATES = "translates"
"""Carries traffic between networks that know each other under other addresses than their own."""
RENEWS = "renews"
"""Renews the keys of tunnels, with a pre-shared key of an ML-KEM-768 exchange."""
CAPABILITIES: tuple[str, ...] = (HOLDINGS, BATCHES, AMENDS, WAYS, ADVERTISES, TRANSLATES, RENEWS)
"""What this release can do beside what every release of its protocol can. What an offer or a mandate `needs` must be
among them; so a later release can say what an earlier one must not pass over."""
PAYLOAD_BYTES_MAX = 512 * 1024
REASON_LENGTH = 500
MAX_FLOWS = 256
MAX_ITEMS = 4096
"""Prefixes and ports of all flows of an offer."""
MAX_DOMAINS = 16
MAX_HOLDINGS = 1000
"""Agreements with one neighbour that are compared: there are not more plans in a domain."""
MAX_PATH = MAX_DOMAINS - 1
"""Domains of a route: with ours in front of them an offer passes no more than it may."""
MAX_ROUTES = 128
"""Of one message."""
MAX_ROUTE_DOMAINS = 1024
"""Of which one neighbour says that it leads there."""
MAX_NETWORKS, MAX_SERVICES = 256, 1024
"""That one domain advertises."""
ADVERTISEMENT_BYTES_MAX = 64 * 1024
OPENED_OCTETS_MAX = 2 << 20
"""Of mandates, and of advertisements, that are kept as they were read: some 1,000, or 32 of the largest."""
MAX_LEASE_S = 30 * 86400
"""Nothing is agreed for longer, so that ids need not be remembered for ever."""

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=ONE_LINE)]
Id = Annotated[str, Meta(min_length=3, max_length=300, pattern=ONE_LINE)]
Reason = Annotated[str, Meta(max_length=2 * REASON_LENGTH)]
Prefixes = PrefixTexts
Domains = Annotated[tuple[Name, ...], Meta(max_length=MAX_DOMAINS)]
Needs = Annotated[tuple[Name, ...], Meta(max_length=32)]
UnixTime = Annotated[int, Meta(ge=0, le=2**40)]
Revision = Annotated[int, Meta(ge=1, le=2**40)]
Microseconds = Annotated[int, Meta(ge=0, le=2**40)]
CodePoint = Annotated[int, Meta(ge=0, le=63)]
Digest = Annotated[str, Meta(min_length=64, max_length=64)]
Label = Annotated[str, Meta(max_length=63, pattern=ONE_LINE)]
Capability = Annotated[str, Meta(max_length=127, pattern=ONE_LINE)]
Labels = Annotated[tuple[tuple[Label, Name], ...], Meta(max_length=256)]
Pause = Annotated[int, Meta(ge=0, le=MAX_LEASE_S)]


class Statement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of what is said to other domains: a field that we do not know is passed over, and stays in the bytes."""


class Envelope(Statement, frozen=True, kw_only=True):
    """What a domain signed, as it came."""

    version: Annotated[int, Meta(ge=0, le=65535)]
    kind: Annotated[str, Meta(max_length=32, pattern=ONE_LINE)]
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES_MAX)]
    """JSON."""
    signature: Annotated[bytes, Meta(max_length=64)]
    """Ed25519, of `signed_bytes`."""

    @property
    def signed_bytes(self) -> bytes:
        """With version and kind, so that no signature of one kind can stand for another."""
        return b"netstitch/v%d/%s\n" % (self.version, self.kind.encode()) + self.payload

    @property
    def digest(self) -> str:
        """By which an answer names it."""
        return hashlib.sha256(self.signed_bytes + self.signature).hexdigest()


class Flow(Statement, frozen=True, kw_only=True):
    """What may cross, in the direction of the offer; replies may cross back."""

    source: Name
    """`domain/network` it comes from."""
    source_prefixes: Prefixes
    destination: Annotated[str, Meta(min_length=1, max_length=400, pattern=ONE_LINE)]
    """Service or network it goes to."""
    destination_prefixes: Prefixes
    ports: Annotated[tuple[Ports, ...], Meta(max_length=1000)]
    """Empty: everything."""


Flows = Annotated[tuple[Flow, ...], Meta(max_length=MAX_FLOWS)]


class Alias(Statement, frozen=True, kw_only=True, order=True):
    """A prefix of a network, and that of the same length under which another network knows it."""

    prefix: Annotated[str, Meta(max_length=64)]
    alias: Annotated[str, Meta(max_length=64)]


MAX_ALIASES = 64
ManyAliases = Annotated[tuple[Alias, ...], Meta(max_length=MAX_ALIASES)]
NetworkPrefixes = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=MAX_ALIASES)]


class TunnelEnd(Statement, frozen=True, kw_only=True):
    """One side of a border, as the other side must know it."""

    sid: AddressText
    """End.DT46 SID where this side takes what the other sends: its binding SID for this agreement and direction."""
    public_key: Annotated[str, Meta(max_length=64, pattern=ONE_LINE)]
    """WireGuard."""
    endpoint: EndpointText
    """`address:port` on the underlay."""
    inner_mtu: Annotated[int, Meta(ge=0, le=65535)]
    """Largest inner packet that this side takes here, in octets."""


class Mandate(Statement, frozen=True, kw_only=True):
    """What the origin of an intent asks all domains on the way for. No offer in its name may go beyond it."""

    id: Id
    """`origin:name:serial`, the id of the origin's own offer. It supports one chain of agreements at a time."""
    revision: Revision
    """Grows with each renewal."""
    origin: Name
    """Domain whose intent it is, and whose key signs this."""
    carrier: Name
    """The domain that the origin gave it to: the traffic goes there first."""
    flows: Flows
    encryption: Encryption
    """At least."""
    trust_min: Trust | None
    latency_us_max: Microseconds | None
    """From the origin's border to the destination."""
    avoid_domains: Domains = ()
    """Domains that the traffic must not pass."""
    direct: bool = False
    """No third domain may carry it."""
    dscp: CodePoint = 0
    not_before_s: UnixTime
    expires_s: UnixTime
    """Unix time; no agreement that stands on it lasts longer."""
    needs: Needs = ()
    """Capabilities that every domain on the way must have."""
    source_prefixes: NetworkPrefixes = ()
    """Of the network where the flows come from: the destination may know it under others. Empty: it may not."""
    destination_aliases: ManyAliases = ()
    """Under which prefixes that network knows the destination's."""


class Terms(Statement, frozen=True, kw_only=True):
    """What an offer says."""

    id: Id
    """Unique for its offeror: `offeror:name:serial`."""
    revision: Revision
    """Grows with each renewal or change of the same agreement."""
    offeror: Name
    acceptor: Name
    origin: Name
    """Domain whose intent it is."""
    border: Name
    """Name of the inter-domain link."""
    flows: Flows
    encryption: Encryption
    trust_min: Trust | None
    latency_us_max: Microseconds | None
    """What is left of the budget from this border on."""
    visited: Domains
    """Domains that the traffic passed already; none is entered twice."""
    not_before_s: UnixTime
    expires_s: UnixTime
    """Unix time; with it the border closes."""
    offeror_end: TunnelEnd
    mandate: Envelope
    """The origin's, as the origin signed it."""
    avoid_domains: Domains = ()
    """Domains that the traffic must not pass."""
    dscp: CodePoint = 0
    """Code point of the outer headers on every domain's part of the way, both directions (RFC 2474)."""
    needs: Needs = ()
    """Capabilities that the acceptor must have."""
    source_prefixes: NetworkPrefixes = ()
    """As in the mandate, and so are these; empty where somebody on the way does not translate."""
    destination_aliases: ManyAliases = ()


class Acceptance(Statement, frozen=True, kw_only=True):
    id: Id
    revision: Revision
    offer: Annotated[str, Meta(max_length=64)]
    """Digest of the envelope that is accepted."""
    acceptor_end: TunnelEnd
    latency_us: Microseconds
    """What the acceptor promises from this border to the destination. It may promise more later, within the terms."""
    expected_us: Microseconds | None = None
    """How long that takes now; None: as long as is promised."""
    source_aliases: ManyAliases = ()
    """Under which prefixes the destination's network knows that of the source."""


class Refusal(Statement, frozen=True, kw_only=True):
    id: Annotated[str, Meta(max_length=300, pattern=ONE_LINE)]
    revision: Annotated[int, Meta(ge=0, le=2**40)]
    reason: Reason
    retry_after_s: Pause = 0
    """Until when the same is refused again; 0: not known."""
    by: Annotated[str, Meta(max_length=200)] = ""
    """Domain that refuses, where that is one further on."""
    flows: Flows = ()
    """Those that are refused whatever they are offered with; empty: the offer as a whole is."""


class Withdrawal(Statement, frozen=True, kw_only=True):
    """Either side ends an agreement; nothing crosses from then on (or after `linger_s`)."""

    id: Annotated[str, Meta(max_length=300, pattern=ONE_LINE)]
    reason: Reason
    issued_s: UnixTime
    linger_s: Annotated[int, Meta(ge=0, le=3600)] = 0
    """For so long replies and what is under way may still cross, because another agreement has taken over."""
    ended_by: Annotated[str, Meta(max_length=200, pattern=ONE_LINE)] = ""
    """Domain whose operator ended it; empty: nobody's."""
    retry_after_s: Pause = 0
    """For so long that domain does not take the same again."""
    flows: Flows = ()
    """The acceptor does not carry these any more, and the others on; empty: all of it ends."""


class Holding(Statement, frozen=True, kw_only=True):
    """An agreement, as one of its sides holds it."""

    id: Id
    offers: Annotated[tuple[Digest, ...], Meta(max_length=2)]
    """Digests: of the offer that is in force, if one is, and of the newest."""
    acceptance: Annotated[str, Meta(max_length=64)] = ""
    """Digest of the acceptance that is in force; empty: none is."""


class Holdings(Statement, frozen=True, kw_only=True):
    """All agreements with the receiver that the sender holds when it says so: told on each new connection. Only what
    comes in order is worth anything, so it is said once, and not again when it gets lost."""

    agreements: Annotated[tuple[Holding, ...], Meta(max_length=MAX_HOLDINGS)]
    newest: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """Highest serial of an id of the receiver's that the sender knows of, also of agreements that have ended."""
    is_answer: bool = False
    """It is said because the receiver's own were others; not to be answered again."""


class WayBack(Statement, frozen=True, kw_only=True):
    """The sender, or a domain further on, has refused the receiver something for want of a way, or ended it, and may
    have one now. Said once, and not again when it gets lost: who does not hear it asks again all the same, later."""

    issued_s: UnixTime


class RenewedKeys(Statement, frozen=True, kw_only=True):
    """The sender's keys of a tunnel, of one epoch: whose domain's name comes first begins, with an ML-KEM-768 key to
    encapsulate with (FIPS 203); the other answers with the ciphertext. Said again until both send by these keys."""

    border: Name
    """Name of the link between the two."""
    epoch: Annotated[int, Meta(ge=0, le=2**31)]
    """Counted by both together. 0: the sender has none but those that agreements name, and wants to begin anew."""
    public_key: Annotated[str, Meta(max_length=64, pattern=ONE_LINE)] = ""
    """WireGuard."""
    endpoint: EndpointText = ""
    """Where that key is used."""
    kem_key: Annotated[bytes, Meta(max_length=1184)] = b""
    kem_ciphertext: Annotated[bytes, Meta(max_length=1088)] = b""
    sends: bool = False
    """What leaves the sender takes these keys."""
    heard: bool = False
    """The sender has heard that the receiver does so too."""
    issued_s: UnixTime


class OfferedNetwork(Statement, frozen=True, kw_only=True):
    name: Name
    """`domain/network`."""
    prefixes: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(min_length=1, max_length=64)]
    labels: Labels = ()
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=64)] = ()


class OfferedService(Statement, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=400, pattern=ONE_LINE)]
    """`domain/network/service`."""
    addresses: Annotated[tuple[AddressText, ...], Meta(min_length=1, max_length=64)]
    ports: Annotated[tuple[Ports, ...], Meta(min_length=1, max_length=64)]
    labels: Labels = ()


class Advertisement(Statement, frozen=True, kw_only=True):
    """What a domain offers: signed by it for one neighbour, and carried unaltered through every onward pass."""

    owner: Name
    carrier: Name
    """The neighbour that it is said to: who else hears it, hears it of that one, or of those after it."""
    onward: bool = False
    """The carrier may pass it on, and so may those after it."""
    edition: UnixTime
    """When it was signed, or one more than the one before. The same to all carriers; only the newest counts."""
    expires_s: UnixTime
    networks: Annotated[tuple[OfferedNetwork, ...], Meta(max_length=MAX_NETWORKS)]
    services: Annotated[tuple[OfferedService, ...], Meta(max_length=MAX_SERVICES)] = ()


class Gateway(Statement, frozen=True, kw_only=True):
    """Where what lies behind a domain is reached."""

    border: Name
    """Name of the link between the sender and the receiver."""
    latency_us: Microseconds
    """From there to the owner's border."""
    cost: Annotated[int, Meta(ge=0, le=2**31)]


class Route(Statement, frozen=True, kw_only=True):
    """A domain to which the sender leads, and over whom (path vector)."""

    path: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_PATH)]
    """Domains, from the sender to the owner."""
    gateways: Annotated[tuple[Gateway, ...], Meta(min_length=1, max_length=16)]
    trust: Trust
    """Least of the links and of the domains that the sender would pass."""
    advertisement: Envelope
    """The owner's, as the owner signed it."""

    @property
    def owner(self) -> str:
        return self.path[-1]


class Routes(Statement, frozen=True, kw_only=True):
    """What the sender has to say of where it leads. One message at a time is under way to a neighbour."""

    number: Annotated[int, Meta(ge=1, le=2**53)]
    """Grows; what is not newer than what was heard counts for nothing."""
    routes: Annotated[tuple[Route, ...], Meta(max_length=MAX_ROUTES)] = ()
    """New, or other than said before."""
    withdrawn: Annotated[tuple[Name, ...], Meta(max_length=MAX_ROUTE_DOMAINS)] = ()
    """Owners to whom it leads no more."""
    after: Annotated[str, Meta(max_length=200, pattern=ONE_LINE)] | None = None
    """`routes` are all that there are to owners after this one in the order of their names; None: nothing is said of
    others."""
    upto: Annotated[str, Meta(max_length=200, pattern=ONE_LINE)] = ""
    """With `after`: up to this owner; empty: to the last."""


Said = Terms | Acceptance | Refusal | Withdrawal
"""What is said of one agreement."""
Message = Said | Holdings | WayBack | Routes | RenewedKeys
"""What one controller says to another."""
MESSAGES: dict[str, type[Message]] = {
    "offer": Terms,
    "acceptance": Acceptance,
    "refusal": Refusal,
    "withdrawal": Withdrawal,
    "holdings": Holdings,
    "way_back": WayBack,
    "routes": Routes,
    "renewed_keys": RenewedKeys,
}
_KINDS: dict[type[Message | Mandate | Advertisement], str] = {
    **{kind: name for name, kind in MESSAGES.items()},
    Mandate: "mandate",
    Advertisement: "advertisement",
}


class Agreement(Value, frozen=True, kw_only=True):
    """Terms that both domains signed, with what they signed."""

    terms: Terms
    acceptor_end: TunnelEnd
    latency_us: int
    """Promised at most."""
    expected_us: int | None = None
    """Of the acceptor, when it signed; None: as long as is promised."""
    source_aliases: tuple[Alias, ...] = ()
    """As accepted."""
    offer: Envelope
    acceptance: Envelope

    @property
    def likely_us(self) -> int:
        return self.latency_us if self.expected_us is None else self.expected_us


class Greeting(Statement, frozen=True, kw_only=True):
    """What controllers tell each other first, on every connection."""

    versions: Annotated[tuple[Annotated[int, Meta(ge=0, le=65535)], ...], Meta(max_length=32)]
    """Of the protocol, that it speaks."""
    capabilities: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()
    software: Annotated[str, Meta(max_length=200, pattern=ONE_LINE)] = ""
    instance: Annotated[str, Meta(max_length=64, pattern=ONE_LINE)] = ""
    """Another one after each start."""
    now_s: Annotated[float, Meta(ge=0, le=2**40)] | None = None
    """Unix time by its clock, when it said this."""


class Unreadable(Exception):
    """An envelope has something else in it than it must. The text says what, for the domain that sent it."""


def unsigned(statement: Message | Mandate | Advertisement) -> Envelope:
    """As the release of this controller says it, yet without a signature."""
    payload = msgspec.json.encode(statement)
    return Envelope(version=PROTOCOL, kind=_KINDS[type(statement)], payload=payload, signature=b"")


def opened(envelope: Envelope) -> Message:
    """What an envelope says, whether or not it is signed. Raises Unreadable."""
    if envelope.version != PROTOCOL:
        raise Unreadable(version_objection(envelope.version))
    kind = MESSAGES.get(envelope.kind)
    if kind is None:
        raise Unreadable(f"unknown kind of message {envelope.kind!r}: this release knows {', '.join(MESSAGES)}")
    try:
        return from_json(envelope.payload, kind)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"the {envelope.kind} cannot be read: {error}") from error


def _opened_mandate(envelope: Envelope) -> Mandate:
    if envelope.version != PROTOCOL or envelope.kind != "mandate":
        raise Unreadable(f"expected a mandate of protocol version {PROTOCOL}, found {envelope.kind!r} of another")
    try:
        return from_json(envelope.payload, Mandate)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"the mandate cannot be read: {error}") from error


def _opened_advertisement(envelope: Envelope) -> Advertisement:
    if envelope.version != PROTOCOL or envelope.kind != "advertisement":
        raise Unreadable(f"expected an advertisement of protocol version {PROTOCOL}, found {envelope.kind!r}")
    if len(envelope.payload) > ADVERTISEMENT_BYTES_MAX:
        raise Unreadable(f"an advertisement has at most {ADVERTISEMENT_BYTES_MAX} octets")
    try:
        return from_json(envelope.payload, Advertisement)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"the advertisement cannot be read: {error}") from error


def _octets(envelope: Envelope) -> int:
    return len(envelope.payload)


opened_mandate = Recent(_opened_mandate, _octets, OPENED_OCTETS_MAX)
"""Raises Unreadable."""
opened_advertisement = Recent(_opened_advertisement, _octets, OPENED_OCTETS_MAX)
"""Raises Unreadable."""


def json_of(envelope: Envelope) -> dict[str, Any]:
    """What a readable one says, with the fields that we do not know."""
    content: dict[str, Any] = msgspec.json.decode(envelope.payload)
    return content


def version_objection(version: int) -> str:
    """Why a protocol version is not ours, and what to do."""
    return (
        f"protocol version {version} between domains is not spoken here, but {PROTOCOL}: upgrade the controller that "
        f"speaks {min(version, PROTOCOL)}"
    )
