"""Offers between neighbours: made, judged, answered. Everything that crosses a border was signed by both sides.

The table in protocol.py says what leads to what. A renewal is an offer with the same id and a higher revision; what is
agreed stays in force meanwhile.
"""

import msgspec

from controller.fulfillment.mandate import CLOCK_SKEW_S, mandate_objection
from controller.fulfillment.protocol import Role, Word, after
from controller.fulfillment.terms import (
    aliases_objection,
    end_objection,
    ends,
    flows_objection,
    needs_objection,
    views_objection,
)
from controller.model.agreement import (
    MAX_DOMAINS,
    MAX_LEASE_S,
    Acceptance,
    Advertisement,
    Agreement,
    Alias,
    Envelope,
    Flow,
    Mandate,
    Message,
    Refusal,
    Terms,
    TunnelEnd,
    opened,
    opened_advertisement,
    opened_mandate,
    unsigned,
)
from controller.model.intent import Encryption
from controller.model.inventory import Domain, Inventory
from controller.model.keys import Keys
from controller.model.stitch import Session, Standing
from controller.model.told import Told, Why

LEAST_MARGIN_US = 1000
MAX_PROMISE_US = 3_600_000_000
"""An hour: so that the promises of all domains on a way together are one that can be said."""


def sealed(statement: Message | Mandate | Advertisement, keys: Keys) -> Envelope:
    """Signed by us. Raises Unreadable where a field is beyond what others take."""
    envelope = unsigned(statement)
    match statement:
        case Mandate():
            opened_mandate(envelope)
        case Advertisement():
            opened_advertisement(envelope)
        case _:
            opened(envelope)
    return msgspec.structs.replace(envelope, signature=keys.sign(envelope.signed_bytes))


def signature_objection(envelope: Envelope, peer: Domain, keys: Keys) -> str:
    """Why a message counts for nothing, whatever it says; empty: `peer` has signed exactly these bytes."""
    if keys.verify(peer.key, envelope.signed_bytes, envelope.signature):
        return ""
    return f"the {envelope.kind} is not signed by {peer.name} (forged or altered)"


def make_acceptance(
    offer: Envelope,
    terms: Terms,
    end: TunnelEnd,
    promised_us: int,
    keys: Keys,
    expected_us: int | None = None,
    source_aliases: tuple[Alias, ...] = (),
) -> Agreement:
    """What both have signed, once we sign `offer`, which says `terms`."""
    said = Acceptance(
        id=terms.id,
        revision=terms.revision,
        offer=offer.digest,
        acceptor_end=end,
        latency_us=promised_us,
        expected_us=expected_us,
        source_aliases=source_aliases,
    )
    return Agreement(
        terms=terms,
        acceptor_end=end,
        latency_us=promised_us,
        expected_us=expected_us,
        source_aliases=source_aliases,
        offer=offer,
        acceptance=sealed(said, keys),
    )


def promise(expected_us: int, bound_us: int | None) -> int:
    """The latency to promise where it is expected to be so much: with a margin, for a way that turns out longer, of at
    most half as much again, and a quarter of what the bound leaves, so that there is some for the others on the way."""
    if bound_us is None:
        return expected_us
    return expected_us + min(max(0, bound_us - expected_us) // 4, max(expected_us // 2, LEAST_MARGIN_US))


def make_refusal(
    id: str,
    revision: int,
    told: Told,
    keys: Keys,
    retry_after_s: int = 0,
    by: str = "",
    flows: tuple[Flow, ...] = (),
) -> Envelope:
    return sealed(Refusal(id=id, revision=revision, reason=told, retry_after_s=retry_after_s, by=by, flows=flows), keys)


def offer_objection(terms: Terms, peer: Domain, inventory: Inventory, own: str, now_s: float, keys: Keys) -> Why | None:
    """Why an offer that `peer` has signed is none, whatever our policy says; None: it is one."""
    if terms.offeror != peer.name:
        return Why(Told.INVALID, f"{peer.name} sent an offer of {terms.offeror}")
    if terms.acceptor != own:
        return Why(Told.INVALID, f"the offer is for {terms.acceptor}, not for {own}")
    if not terms.id.startswith(f"{terms.offeror}:") or not terms.id.isprintable():
        return Why(Told.INVALID, f"the id must start with {terms.offeror}:")
    if terms.expires_s <= now_s:
        late_s = round(now_s - terms.expires_s)
        reason = f"the offer has expired, {late_s} s ago by the clock of {own}: if that is wrong, clocks differ"
        return Why(Told.TIME, reason)
    if terms.not_before_s > now_s + CLOCK_SKEW_S:
        early_s = round(terms.not_before_s - now_s)
        reason = f"the offer begins in the future: the clock of {peer.name} is {early_s} s ahead of that of {own}"
        return Why(Told.TIME, reason)
    if terms.expires_s > now_s + MAX_LEASE_S:
        return Why(Told.TIME, f"the lease is longer than {MAX_LEASE_S // 86400} days")
    passed = terms.visited
    if own in passed or passed[-1:] != (peer.name,) or len({*passed}) < len(passed) or len(passed) >= MAX_DOMAINS:
        return Why(Told.CIRCLE, f"the traffic would go in a circle: it has passed {', '.join(passed)}")
    if own in terms.avoid_domains:
        return Why(Told.CIRCLE, f"the traffic must not pass {own}")
    link = inventory.links.get(terms.border)
    if link is None or link.domain != peer.name:
        return Why(Told.INVALID, f"there is no border {terms.border} between {peer.name} and {own}")
    if terms.encryption not in (Encryption.WIREGUARD, Encryption.WIREGUARD_PQ):
        return Why(Told.INVALID, f"what crosses a border is inside WireGuard, and the offer says {terms.encryption}")
    if terms.trust_min is not None and link.trust < terms.trust_min:
        needed, trust = terms.trust_min.name.lower(), link.trust.name.lower()
        return Why(Told.TRUST, f"trust of at least {needed} is required; {terms.border} has {trust}")
    reason = flows_objection(terms.flows, terms.origin) or end_objection(terms.offeror_end, peer)
    if reason := reason or views_objection(terms.source_prefixes, terms.destination_aliases):
        return Why(Told.INVALID, reason)
    if reason := needs_objection(terms.needs, own):
        return Why(Told.RELEASE, reason)
    return mandate_objection(terms, inventory.domains, own, now_s, keys)


def renewal_objection(agreed: Terms, offered: Terms) -> str:
    """What is agreed can get other times and keys, and other flows between the same networks; anything else is a new
    agreement. Both mandates have been looked at."""
    fixed = {
        "flows": agreed.flows,
        "revision": agreed.revision,
        "not_before_s": agreed.not_before_s,
        "expires_s": agreed.expires_s,
        "latency_us_max": agreed.latency_us_max,
        "mandate": agreed.mandate,
    }
    end = msgspec.structs.replace(offered.offeror_end, public_key="", endpoint="", inner_mtu=0)
    held_end = msgspec.structs.replace(agreed.offeror_end, public_key="", endpoint="", inner_mtu=0)
    if msgspec.structs.replace(offered, **fixed, offeror_end=end) != msgspec.structs.replace(
        agreed, offeror_end=held_end
    ):
        return "a renewal may change times and flows only: make a new agreement for other terms"
    if ends(offered.flows) != ends(agreed.flows):
        return "a renewal is for the same networks: make a new agreement for others"
    before, after = opened_mandate(agreed.mandate), opened_mandate(offered.mandate)
    if after.id != before.id:
        return f"a renewal stands on the same mandate, {before.id}: make a new agreement for another"
    if after.revision < before.revision:
        return f"revision {after.revision} of mandate {after.id} was followed by {before.revision} (replayed)"
    return ""


def accepted(
    session: Session, acceptance: Acceptance, envelope: Envelope, peer: Domain, now_s: float
) -> tuple[Session, str]:
    """What the acceptance of the newest offer, which `peer` has signed, makes of a session: as it was, where it says
    nothing new. Or why it is none."""
    terms, offer, in_force = session.terms, session.offer, session.agreement
    if session.standing == Standing.AGREED and in_force is not None:
        if not _promises_anew(in_force, acceptance):
            return session, ""
        terms, offer = in_force.terms, in_force.offer
    if acceptance.revision != terms.revision or acceptance.offer != offer.digest:
        return session, f"{peer.name} accepted something else than was offered (altered)"
    if terms.expires_s <= now_s:
        return session, "the acceptance came after the offer had expired"
    limit_us = terms.latency_us_max
    if limit_us is not None and acceptance.latency_us > limit_us:
        return session, f"{peer.name} promises {acceptance.latency_us} us where at most {limit_us} us were asked for"
    if acceptance.latency_us > MAX_PROMISE_US:
        return session, f"{peer.name} promises {acceptance.latency_us} us, which is nothing that anybody could use"
    reason = end_objection(acceptance.acceptor_end, peer) or aliases_objection(
        acceptance.source_aliases, terms.source_prefixes
    )
    if reason:
        return session, reason
    agreement = Agreement(
        terms=terms,
        acceptor_end=acceptance.acceptor_end,
        latency_us=acceptance.latency_us,
        expected_us=acceptance.expected_us,
        source_aliases=acceptance.source_aliases,
        offer=offer,
        acceptance=envelope,
    )
    standing = after(session, Role.ACCEPTOR, Word.ACCEPTANCE)
    return msgspec.structs.replace(session, standing=standing, agreement=agreement, reason=""), ""


def _promises_anew(agreement: Agreement, acceptance: Acceptance) -> bool:
    """The acceptor needs longer than it has promised, or takes smaller packets; whether the terms allow it is looked at
    as for a promise."""
    size, latency_us = acceptance.acceptor_end.inner_mtu, acceptance.latency_us
    if acceptance.source_aliases != agreement.source_aliases:
        return False
    if msgspec.structs.replace(agreement.acceptor_end, inner_mtu=size) != acceptance.acceptor_end:
        return False
    is_more = latency_us > agreement.latency_us or size < agreement.acceptor_end.inner_mtu
    return is_more and latency_us >= agreement.latency_us and size <= agreement.acceptor_end.inner_mtu
