"""Whether an origin asks for what a neighbour offers in its name.

An offer names an origin, and rules of accept and transit match on it. So that no domain on the way can speak for
another, the offer must have the origin's mandate in it, signed with the key that is pinned here for that domain, and
must not go beyond it in anything.
"""

from collections.abc import Mapping

from controller.fulfillment.terms import covers, flows_objection, needs_objection, views_objection
from controller.model import dscp
from controller.model.agreement import MAX_LEASE_S, Mandate, Terms, Unreadable, opened_mandate
from controller.model.intent import Encryption
from controller.model.inventory import Domain
from controller.model.keys import Keys
from controller.model.told import Told, Why

CLOCK_SKEW_S = 60
_STRENGTH = tuple(Encryption)
"""Weakest first."""


def mandate_objection(terms: Terms, domains: Mapping[str, Domain], own: str, now_s: float, keys: Keys) -> Why | None:
    """Why the mandate in an offer is none for it; None: the origin asks for this. The terms are well formed."""
    try:
        mandate = opened_mandate(terms.mandate)
    except Unreadable as error:
        return Why(Told.INVALID, str(error))
    if mandate.origin != terms.origin:
        return Why(Told.INVALID, f"the mandate is {mandate.origin}'s, the offer is in the name of {terms.origin}")
    if reason := mandate_key_objection(terms, domains, keys):
        return Why(Told.KEY, reason)
    if invalid := _invalid(mandate, own, now_s):
        return invalid
    if reason := _beyond(terms, mandate):
        return Why(Told.INVALID, reason)
    reason = needs_objection(mandate.needs, own)
    return Why(Told.RELEASE, reason) if reason else None


def mandate_key_objection(terms: Terms, domains: Mapping[str, Domain], keys: Keys) -> str:
    """Whether the pinned key of the origin signed the mandate."""
    origin = domains.get(terms.origin)
    if origin is None or not origin.key:
        return f"no key of {terms.origin} is pinned here: `stitch domain add {terms.origin} --key KEY` pins it"
    if not keys.verify(origin.key, terms.mandate.signed_bytes, terms.mandate.signature):
        return (
            f"the mandate is not signed with the key that is pinned for {terms.origin} (forged, altered, or an old key)"
        )
    return ""


def _invalid(mandate: Mandate, own: str, now_s: float) -> Why | None:
    """What is wrong with it whoever offers."""
    if not mandate.id.startswith(f"{mandate.origin}:") or not mandate.id.isprintable():
        return Why(Told.INVALID, f"the mandate's id must start with {mandate.origin}:")
    if mandate.expires_s <= now_s:
        return Why(Told.TIME, "the mandate has expired")
    if mandate.not_before_s > now_s + CLOCK_SKEW_S:
        return Why(Told.TIME, "the mandate begins in the future")
    if mandate.expires_s > now_s + MAX_LEASE_S:
        return Why(Told.TIME, f"the mandate is for longer than {MAX_LEASE_S // 86400} days")
    if own in mandate.avoid_domains:
        return Why(Told.CIRCLE, f"{mandate.origin} does not want the traffic to pass {own}")
    reason = flows_objection(mandate.flows, mandate.origin)
    reason = reason or views_objection(mandate.source_prefixes, mandate.destination_aliases)
    return Why(Told.INVALID, f"the mandate is none: {reason}") if reason else None


def _beyond(terms: Terms, mandate: Mandate) -> str:
    """Where the offer says something else than the origin did."""
    origin = mandate.origin
    by_origin = terms.offeror == origin
    if terms.visited[:1] != (origin,) or (not by_origin and terms.visited[:2] != (origin, mandate.carrier)):
        return f"{origin} gave the mandate to {mandate.carrier}; the traffic has passed {', '.join(terms.visited)}"
    if by_origin and (terms.acceptor, terms.id) != (mandate.carrier, mandate.id):
        return f"the mandate is for {mandate.carrier} and offer {mandate.id}"
    if mandate.direct and not by_origin:
        return f"{origin} wants no third domain to carry it"
    exact = frozenset(mandate.flows)
    if beyond := next((flow for flow in terms.flows if flow not in exact and not covers(mandate.flows, flow)), None):
        return f"the flow to {beyond.destination} is not in the mandate of {origin}"
    if terms.destination_aliases != mandate.destination_aliases or (
        terms.source_prefixes and terms.source_prefixes != mandate.source_prefixes
    ):
        return f"the offer names other prefixes under which the networks are known than {origin} did"
    if terms.expires_s > mandate.expires_s:
        return "the offer would outlast the mandate"
    if missing := sorted(set(mandate.avoid_domains) - set(terms.avoid_domains)):
        return f"{origin} does not want the traffic to pass {', '.join(missing)}, and the offer does not say so"
    if avoided := sorted({*terms.visited} & {*mandate.avoid_domains}):
        return f"{origin} does not want the traffic to pass {', '.join(avoided)}, and it has"
    limit_us = mandate.latency_us_max
    if limit_us is not None and (terms.latency_us_max is None or terms.latency_us_max > limit_us):
        return f"{origin} wants a latency of at most {limit_us} us, and the offer allows more"
    if mandate.trust_min is not None and (terms.trust_min is None or terms.trust_min < mandate.trust_min):
        return f"{origin} wants trust of at least {mandate.trust_min.name.lower()}, and the offer does not"
    if _STRENGTH.index(terms.encryption) < _STRENGTH.index(mandate.encryption):
        return f"{origin} wants encryption {mandate.encryption}, and the offer says {terms.encryption}"
    if terms.dscp != mandate.dscp:
        return f"{origin} wants dscp {dscp.words(mandate.dscp)}, and the offer says {dscp.words(terms.dscp)}"
    return ""
