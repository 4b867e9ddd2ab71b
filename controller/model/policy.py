"""What a domain agrees to: its own rules for the offers of others."""

from controller.model.intent import Encryption, Ports, Remediation, Value


class PrefixRange(Value, frozen=True, kw_only=True):
    """An entry of a prefix list (RFC 7454 §6): prefixes inside `prefix` whose lengths are from `least` to `most`."""

    prefix: str
    least: int
    most: int


class AcceptRule(Value, frozen=True, kw_only=True):
    """Offers whose destination is ours."""

    origin: str
    """Domain whose intent it is; shell pattern."""
    source: str
    """Pattern of the source network."""
    destination: str
    """Pattern of the service or network."""
    ports: tuple[Ports, ...] = ()
    """All that an offer asks for must be inside. Empty: everything."""
    encryption: Encryption = Encryption.NONE
    """At least."""
    direct: bool = False
    """Only what comes straight from its origin, through no third domain."""
    dscp: tuple[int, ...] | None = None
    """Code points that we honour beside 0; None: every one."""
    prefixes: tuple[PrefixRange, ...] = ()
    """Where the sources of an offer may be, each inside one of these. Empty: everywhere."""
    max_prefixes: int | None = None
    """Of sources, of one offer; None: as many as an offer can have."""
    max_flows: int | None = None
    """Of one offer."""


class TransitRule(Value, frozen=True, kw_only=True):
    """Offers that we would carry on."""

    origin: str
    destination: str
    """Domain; shell pattern, as `origin`."""
    encryption: Encryption = Encryption.NONE
    max_lease_s: int | None = None
    dscp: tuple[int, ...] | None = None
    """As of an accept rule, and so are these."""
    prefixes: tuple[PrefixRange, ...] = ()
    max_prefixes: int | None = None
    max_flows: int | None = None


class AdvertiseRule(Value, frozen=True, kw_only=True):
    """What neighbours are told, unasked."""

    to: str
    """Neighbour; shell pattern."""
    what: str
    """Pattern of own networks and services; of other domains, whose advertisements are passed on."""
    onward: bool = False
    """Of what is ours: the neighbour may pass it on."""


class LearnRule(Value, frozen=True, kw_only=True):
    """What is taken over of what neighbours say."""

    neighbour: str
    """Who says it, whoever's it is; shell pattern."""
    what: str
    """Pattern of networks and services."""
    prefixes: tuple[PrefixRange, ...] = ()
    """Where its addresses may be, each inside one of these. Empty: everywhere."""


class Policy(Value, frozen=True, kw_only=True):
    """One accept rule that takes an offer is enough; of the transit rules the first that matches decides. None:
    refused. One rule to advertise or learn something is enough. None: it is not told, or not taken over."""

    accept: tuple[AcceptRule, ...] = ()
    transit: tuple[TransitRule, ...] = ()
    advertise: tuple[AdvertiseRule, ...] = ()
    learn: tuple[LearnRule, ...] = ()
    remediation: Remediation = Remediation.PROPOSE
    """What may be done about incidents that touch what no intent of ours speaks for: what we carry for others, traffic
    inside a network."""
    max_agreements: int = 256
    """That we carry or accept for one neighbour at a time."""
    max_share: int = 50
    """Percent of our plans' numbers, of the port ranges that can be told apart, and of each table of a node, that they
    may take together. All neighbours together have 80 % of each, or this if it is more; the rest is for our own
    intents."""
    lease_s: int = 3600
    """How long what we offer lasts; renewed at half-time."""
    renew_keys_s: int = 86400
    """How long the keys of a tunnel are used, where our name comes before the neighbour's: else that decides."""
