"""How far a plan has come: its agreements with neighbours, and what is installed."""

import enum

import msgspec

from controller.model.agreement import Agreement, Envelope, Terms
from controller.model.intent import Intent, Value
from controller.model.plan import Plan
from controller.model.requirements import Requirements, Unsatisfiable
from controller.model.rule import Added
from controller.model.selection import resolved


class Standing(enum.StrEnum):
    """How far an agreement is (fulfillment/protocol.py: what leads from one to another)."""

    UNKNOWN = "Unknown"
    """Nobody has spoken of it yet."""
    OFFERED = "Offered"
    """The offeror waits for an answer; the acceptor for what it needs to give one."""
    AGREED = "Agreed"
    RENEWING = "Renewing"
    """What is agreed is in force, and a newer revision is offered."""
    ENDED = "Ended"
    """Its id is not used again."""

    @property
    def unanswered(self) -> bool:
        return self in (Standing.OFFERED, Standing.RENEWING)


class Session(Value, frozen=True, kw_only=True):
    """One agreement, from its first offer on, as one of its two sides sees it."""

    peer: str
    offeror: bool
    """We made the offer."""
    standing: Standing
    terms: Terms
    """Of the newest offer."""
    offer: Envelope
    """That offer, as its offeror signed it."""
    agreement: Agreement | None = None
    """What is in force; during a renewal that of the revision before."""
    answer: Agreement | None = None
    """With our signature, which is sent once everything it promises is installed."""
    reason: str = ""
    """Why it was refused, or what is waited for."""
    since_s: int
    """When `terms` were offered."""
    share_used_s: float = 0.0
    """Unix time until which it has used what it may be changed for its offeror (negotiation/pace.py)."""
    put_off_s: float = 0.0
    """Unix time at which the newest that was said of it is carried on; 0: nothing waits."""


class Stage(enum.StrEnum):
    """What of a plan is installed (architecture: add, switch over, remove)."""

    NEGOTIATING = "Negotiating"
    """Nothing."""
    ADDING = "Adding"
    """Everything that no traffic uses yet."""
    ACTIVE = "Active"
    """Everything."""
    REMOVING = "Removing"
    """As ADDING, on the way to nothing."""
    LINGERING = "Lingering"
    """As ADDING, until replies have found the way that has taken over."""
    GONE = "Gone"
    """Nothing, and nobody knows of it any more."""

    @property
    def leaving(self) -> bool:
        return self in (Stage.REMOVING, Stage.LINGERING)

    def after(self, fact: "Fact") -> "Stage":
        """What does not concern it leaves it as it is."""
        return LIFE.get((self, fact), self)


class Fact(enum.StrEnum):
    """What moves a plan from one stage to another."""

    SIGNED = "all that it needs of neighbours, and promises them, is signed"
    CONFIRMED = "its nodes have what its stage says"
    UNWANTED = "it is not wanted any more, or another has taken over"
    REPLACED = "the neighbour that asked for it has another, and lets it linger"
    LOST = "a neighbour or somebody else has ended it, or its lease has run out"
    PASSED = "it has lingered for as long as it was to, which may be no time"


LIFE: dict[tuple[Stage, Fact], Stage] = {
    (Stage.NEGOTIATING, Fact.SIGNED): Stage.ADDING,
    (Stage.NEGOTIATING, Fact.UNWANTED): Stage.GONE,
    (Stage.NEGOTIATING, Fact.LOST): Stage.GONE,
    (Stage.ADDING, Fact.CONFIRMED): Stage.ACTIVE,
    (Stage.ADDING, Fact.UNWANTED): Stage.REMOVING,
    (Stage.ADDING, Fact.LOST): Stage.GONE,
    (Stage.ACTIVE, Fact.UNWANTED): Stage.REMOVING,
    (Stage.ACTIVE, Fact.REPLACED): Stage.LINGERING,
    (Stage.ACTIVE, Fact.LOST): Stage.GONE,
    (Stage.REMOVING, Fact.CONFIRMED): Stage.LINGERING,
    (Stage.REMOVING, Fact.LOST): Stage.GONE,
    (Stage.LINGERING, Fact.PASSED): Stage.GONE,
}
"""The life of a plan."""


class Stitch(Value, frozen=True, kw_only=True):
    plan: Plan
    serial: int
    """Order of creation in this domain."""
    ids: dict[str, int] = msgspec.field(default_factory=dict)
    """Its numbers at its nodes, by key (fulfillment/numbering.py)."""
    slots: tuple[int, ...] = ()
    """Of release 0.1."""
    stage: Stage
    upstream: Session | None = None
    """With the domain where the traffic comes from."""
    downstream: Session | None = None
    """With the domain where it goes."""
    wanted: Plan | None = None
    """What the plan becomes once we sign what is offered to us anew, where that has other flows."""
    excluded: tuple[str, ...] = ()
    """Borders where what we carry for others was refused."""
    replaces: str = ""
    """Plan that this one takes over from."""
    linger_s: int = 0
    """How long it lingers once it is removed."""
    until_s: int = 0
    """Unix time when it has lingered enough."""
    expires_s: int | None = None
    """Unix time at which its intent ends; None: it does not, or it is another domain's. Its agreements may end sooner.
    """
    unconfirmed: tuple[str, ...] = ()
    """Nodes that went away before they confirmed what it now has there."""

    @property
    def plan_to_be(self) -> Plan:
        """It has all that the plan has now."""
        return self.wanted or self.plan


class HeldOff(Value, frozen=True, kw_only=True):
    """A border over which a connection is not offered for a while."""

    border: str
    until_s: int = 0
    """Unix time; 0: until something changes about the neighbour, who does not take what we say."""


class ConnectionStatus(Value, frozen=True, kw_only=True):
    """One connection of an intent, and what became of it."""

    plan: str = ""
    """Name of the stitch that carries it."""
    coming: str = ""
    """Name of the stitch that is to take over."""
    excluded: tuple[str, ...] = ()
    """Borders where it was refused."""
    refusal: str = ""
    """Why."""
    lost: str = ""
    """Why what carried it last is over, until something else carries it."""
    no_way: tuple[str, ...] = ()
    """Neighbours that refused it for want of a way, and have not said that there is one."""
    unsatisfiable: Unsatisfiable | None = None
    retry_s: int = 0
    """Unix time of the next try, where it has no plan or one that is too slow."""
    tries: int = 0
    """How often it was refused in a row."""
    alone: bool = False
    """It is tried next with an agreement of its own."""
    held_off: tuple[HeldOff, ...] = ()
    """Where it was ended, or refused for some time."""
    was_carried: bool = False
    """As it is required, at some time since that is required: so it may go on eased (`on violation degrade`)."""


class IntentRecord(Value, frozen=True, kw_only=True):
    """An intent of ours and what we do about it."""

    intent: Intent
    created_s: int
    applied_s: int
    serial: int
    """Order of creation, kept while it is changed; the older (lower) wins where two say different things."""
    requirements: Requirements
    added: tuple[Added, ...] = ()
    """What requirement compilers said of it when it was applied."""
    connection_statuses: tuple[ConnectionStatus, ...] = msgspec.field(default=(), name="errands")
    """One for each connection of the requirements. (Stored as release 0.1 named it.)"""
    unconfirmed: tuple[str, ...] = ()
    """Nodes that went away before they confirmed its isolation."""

    @property
    def meant(self) -> Intent:
        """With the services that are chosen where it describes one."""
        return resolved(self.intent, self.requirements.selections)

    @property
    def expires_s(self) -> int | None:
        if self.intent.lease_until_s is not None:
            return self.intent.lease_until_s
        return None if self.intent.lease_s is None else self.applied_s + self.intent.lease_s


def expired(intent_record: IntentRecord) -> bool:
    """Its end has been seen to."""
    requirements = intent_record.requirements
    nothing_left = all(status.retry_s == -1 for status in intent_record.connection_statuses)
    return requirements.isolation is None and nothing_left and all(each.chosen for each in requirements.selections)
