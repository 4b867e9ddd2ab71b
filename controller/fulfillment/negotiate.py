"""Offers between neighbours: made, judged, answered. Everything that crosses a border was signed by both sides.

    offeror                                acceptor
    OFFERED --- offer (terms) -----------> OFFERED: judged; its own part placed; further offers made
       |                                      | all of it agreed and installed
    AGREED <--- acceptance (terms) ------- AGREED
    REFUSED <-- refusal (reason) --------- (forgotten, but for the id: it is not used again)
    ENDED <---- withdrawal, either way --> ENDED

A renewal is an offer with the same id and a higher revision; what is agreed stays in force meanwhile.
"""

import base64
import binascii
import ipaddress

import msgspec

from controller.model.agreement import (
    Acceptance,
    Agreement,
    Flow,
    Offer,
    Refusal,
    Terms,
    TunnelEnd,
    Withdrawal,
    signing_bytes,
)
from controller.model.course import Session, Standing
from controller.model.intent import Encryption
from controller.model.inventory import Domain, Inventory
from controller.model.keys import Keys

MAX_LEASE_S = 30 * 86400
"""Nothing is agreed for longer, so that ids need not be remembered for ever."""
CLOCK_SKEW_S = 60
MAX_FLOWS = 256
MAX_ITEMS = 4096
"""Prefixes and ports of all flows of an offer."""
MAX_DOMAINS = 16


def _signature(keys: Keys, data: bytes) -> str:
    return base64.b64encode(keys.sign(data)).decode()


def _signed(keys: Keys, key: str, data: bytes, signature: str) -> bool:
    try:
        return keys.verify(key, data, base64.b64decode(signature, validate=True))
    except (binascii.Error, ValueError):
        return False


def make_offer(terms: Terms, keys: Keys) -> Offer:
    return Offer(terms=terms, signature=_signature(keys, signing_bytes("offer", terms)))


def make_acceptance(offer: Offer, end: TunnelEnd, latency_us: int, keys: Keys) -> Acceptance:
    data = signing_bytes("acceptance", offer.terms, end, latency_us)
    return Acceptance(
        terms=offer.terms,
        offer_signature=offer.signature,
        acceptor_end=end,
        latency_us=latency_us,
        signature=_signature(keys, data),
    )


def make_refusal(id: str, revision: int, reason: str, keys: Keys) -> Refusal:
    data = signing_bytes("refusal", id, revision, reason)
    return Refusal(id=id, revision=revision, reason=reason, signature=_signature(keys, data))


def make_withdrawal(id: str, reason: str, issued_s: int, keys: Keys, linger_s: int = 0) -> Withdrawal:
    data = signing_bytes("withdrawal", id, reason, issued_s, linger_s)
    return Withdrawal(id=id, reason=reason, issued_s=issued_s, linger_s=linger_s, signature=_signature(keys, data))


def agreement_of(acceptance: Acceptance) -> Agreement:
    return Agreement(
        terms=acceptance.terms,
        offer_signature=acceptance.offer_signature,
        acceptor_end=acceptance.acceptor_end,
        latency_us=acceptance.latency_us,
        acceptance_signature=acceptance.signature,
    )


def offer_objection(offer: Offer, peer: Domain, inventory: Inventory, own: str, now_s: float, keys: Keys) -> str:
    """Why an offer from `peer` is none, whatever our policy says; empty: it is one."""
    terms = offer.terms
    if terms.offeror != peer.name:
        return f"{peer.name} sent an offer of {terms.offeror}"
    if terms.acceptor != own:
        return f"the offer is for {terms.acceptor}, not for {own}"
    if not _signed(keys, peer.key, signing_bytes("offer", terms), offer.signature):
        return f"the signature is not {peer.name}'s over these terms (forged or altered)"
    if not terms.id.startswith(f"{terms.offeror}:") or len(terms.id) > 300 or not terms.id.isprintable():
        return f"the id must start with {terms.offeror}:"
    if terms.expires_s <= now_s:
        return "the offer has expired"
    if terms.not_before_s > now_s + CLOCK_SKEW_S:
        return "the offer begins in the future"
    if terms.expires_s > now_s + MAX_LEASE_S:
        return f"the lease is longer than {MAX_LEASE_S // 86400} days"
    if own in terms.visited or peer.name not in terms.visited or len(terms.visited) > MAX_DOMAINS:
        return f"the traffic would go in a circle: it has passed {', '.join(terms.visited)}"
    if own in terms.avoid_domains or len(terms.avoid_domains) > MAX_DOMAINS:
        return f"the traffic must not pass {own}"
    if not 0 <= terms.dscp < 64:
        return f"{terms.dscp} is no code point (RFC 2474): expected 0 to 63"
    link = inventory.links.get(terms.border)
    if link is None or link.domain != peer.name:
        return f"there is no border {terms.border} between {peer.name} and {own}"
    if terms.encryption != Encryption.WIREGUARD:
        return f"what crosses a border is inside WireGuard; the offer says encryption {terms.encryption}"
    if terms.trust_min is not None and link.trust < terms.trust_min:
        needed, found = terms.trust_min.name.lower(), link.trust.name.lower()
        return f"trust of at least {needed} is required; {terms.border} has {found}"
    return _flows_objection(terms) or end_objection(terms.offeror_end, peer)


def _flows_objection(terms: Terms) -> str:
    if not 1 <= len(terms.flows) <= MAX_FLOWS:
        return f"expected 1 to {MAX_FLOWS} flows, found {len(terms.flows)}"
    items = sum(len(flow.source_prefixes) + len(flow.destination_prefixes) + len(flow.ports) for flow in terms.flows)
    if items > MAX_ITEMS:
        return f"expected at most {MAX_ITEMS} prefixes and ports, found {items}"
    if len({(flow.source, _network(flow.destination)) for flow in terms.flows}) != 1:
        return "all flows of an offer must lead from one network to one network"
    if _network(terms.flows[0].source).split("/")[0] != terms.origin:
        return f"{terms.origin} cannot ask for traffic from {terms.flows[0].source}"
    for flow in terms.flows:
        if reason := _flow_objection(flow):
            return f"flow to {flow.destination}: {reason}"
    return ""


def _network(name: str) -> str:
    return "/".join(name.split("/")[:2])


def _flow_objection(flow: Flow) -> str:
    if not flow.source_prefixes or not flow.destination_prefixes:
        return "it has no prefixes"
    if len(flow.source_prefixes) + len(flow.destination_prefixes) + len(flow.ports) > 1000:
        return "it has more than 1000 prefixes and ports"
    for text in (*flow.source_prefixes, *flow.destination_prefixes):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            return str(error)
        if str(network) != text:
            return f"prefix {text} should be written {network}"
        if network.prefixlen == 0 or network.is_multicast or network.is_loopback or network.is_link_local:
            return f"prefix {text} is not one of hosts"
        if network.version == 6 and int(network.network_address) >> 112 in (0, 0x5F00):
            return f"prefix {text} is not one of hosts"
    for ports in flow.ports:
        known = ports.protocol in ("tcp", "udp", "icmp")
        if not known or not 0 <= ports.first <= ports.last <= 65535:
            return f"ports {ports.protocol}/{ports.first}-{ports.last} are none"
    return ""


def end_objection(end: TunnelEnd, peer: Domain) -> str:
    """Why a tunnel to `end` cannot be made."""
    try:
        sid = ipaddress.IPv6Address(end.sid)
        block = ipaddress.IPv6Network(peer.sid_block)
        key = base64.b64decode(end.public_key, validate=True)
        host, _, port = end.endpoint.rpartition(":")
        ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError as error:
        return f"the tunnel's end is malformed: {error}"
    if sid not in block:
        return f"SID {sid} is not in {peer.name}'s block {block}"
    if len(key) != 32 or not 0 < number < 65536:
        return "the tunnel's end is malformed: expected a 32 byte key and a UDP port"
    if not 1000 <= end.inner_mtu <= 65535:
        return f"an inner MTU of {end.inner_mtu} is not supported"
    return ""


def renewal_objection(held: Terms, offered: Terms) -> str:
    """A renewal changes times and keys only; anything else is a new agreement."""
    fixed = {
        "revision": held.revision,
        "not_before_s": held.not_before_s,
        "expires_s": held.expires_s,
        "latency_us_max": held.latency_us_max,
    }
    end = msgspec.structs.replace(offered.offeror_end, public_key="", endpoint="", inner_mtu=0)
    held_end = msgspec.structs.replace(held.offeror_end, public_key="", endpoint="", inner_mtu=0)
    if msgspec.structs.replace(offered, **fixed, offeror_end=end) != msgspec.structs.replace(
        held, offeror_end=held_end
    ):
        return "a renewal may change times only: make a new agreement for other terms"
    return ""


def step(
    session: Session, message: Acceptance | Refusal | Withdrawal, peer: Domain, now_s: float, keys: Keys
) -> tuple[Session, str]:
    """What an answer, or an end, does to a session; or why it is none (the session is then as it was)."""
    match message:
        case Acceptance():
            return _accepted(session, message, peer, now_s, keys)
        case Refusal():
            data = signing_bytes("refusal", message.id, message.revision, message.reason)
            if not _signed(keys, peer.key, data, message.signature):
                return session, f"the refusal is not signed by {peer.name}"
            if message.revision != session.terms.revision or session.standing != Standing.OFFERED:
                return session, ""
            standing = Standing.REFUSED if session.agreement is None else Standing.AGREED
            return msgspec.structs.replace(session, standing=standing, reason=message.reason[:500]), ""
        case Withdrawal():
            if reason := withdrawal_objection(message, peer, keys):
                return session, reason
            return msgspec.structs.replace(session, standing=Standing.ENDED, reason=message.reason[:500]), ""


def withdrawal_objection(message: Withdrawal, peer: Domain, keys: Keys) -> str:
    """Why it does not count; empty: it does."""
    data = signing_bytes("withdrawal", message.id, message.reason, message.issued_s, message.linger_s)
    if not _signed(keys, peer.key, data, message.signature):
        return f"the withdrawal is not signed by {peer.name}"
    return ""


def _accepted(session: Session, acceptance: Acceptance, peer: Domain, now_s: float, keys: Keys) -> tuple[Session, str]:
    terms = acceptance.terms
    if terms.revision < session.terms.revision or session.standing != Standing.OFFERED:
        return session, ""  # an answer to an older offer, or one that came twice
    if terms != session.terms or acceptance.offer_signature != session.offer_signature:
        return session, f"{peer.name} accepted other terms than were offered (altered)"
    data = signing_bytes("acceptance", terms, acceptance.acceptor_end, acceptance.latency_us)
    if not _signed(keys, peer.key, data, acceptance.signature):
        return session, f"the acceptance is not signed by {peer.name} (forged or altered)"
    if terms.expires_s <= now_s:
        return session, "the acceptance came after the offer had expired"
    limit_us = terms.latency_us_max
    if acceptance.latency_us < 0 or (limit_us is not None and acceptance.latency_us > limit_us):
        return session, f"{peer.name} promises {acceptance.latency_us} us where at most {limit_us} us were asked for"
    if reason := end_objection(acceptance.acceptor_end, peer):
        return session, reason
    agreed = msgspec.structs.replace(session, standing=Standing.AGREED, agreement=agreement_of(acceptance), reason="")
    return agreed, ""
