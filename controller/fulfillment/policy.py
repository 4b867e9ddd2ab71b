"""Whether our policy lets us accept, or carry on, what another domain offers."""

from fnmatch import fnmatchcase

from controller.fulfillment.translate import inside, words
from controller.model import dscp
from controller.model.agreement import Flow, Terms
from controller.model.intent import Encryption
from controller.model.policy import AcceptRule, Policy, PrefixRange, TransitRule
from dataplane import addressing

_STRENGTH = tuple(Encryption)
"""Weakest first."""


def refusal(terms: Terms, policy: Policy, own: str, now_s: float) -> str:
    """Why `policy` refuses valid terms; empty: it does not."""
    target = destination_domain(terms)
    if target == own:
        return next((reason for flow in terms.flows if (reason := _not_accepted(terms, flow, policy, own))), "")
    for index, rule in enumerate(policy.transit, 1):
        matches = fnmatchcase(terms.origin, rule.origin) and fnmatchcase(target, rule.destination)
        if not matches or not _encrypted(terms, rule.encryption):
            continue
        # the offeror's clock may be a little behind ours
        if rule.max_lease_s is not None and terms.expires_s - now_s > rule.max_lease_s + 5:
            bound = f"carries from {rule.origin} to {rule.destination} for at most {rule.max_lease_s} s"
        else:
            bound = _not_honoured(terms, rule.dscp) or _not_from_there(terms, rule)
        return f"transit rule {index} of {own} {bound}" if bound else ""
    return f"no rule of {own} carries traffic from {terms.origin} to {target}"


def _not_accepted(terms: Terms, flow: Flow, policy: Policy, own: str) -> str:
    """Why no accept rule takes it; empty: one does. Where one only sets a bound on the way, that is why."""
    objections = []
    for index, rule in enumerate(policy.accept, 1):
        if not _is_about(rule, terms, flow):
            continue
        bound = _not_direct(terms) if rule.direct else ""
        bound = bound or _not_honoured(terms, rule.dscp) or _not_from_there(terms, rule)
        if not bound:
            return ""
        objections.append(f"accept rule {index} of {own} {bound}")
    ports = ", ".join(map(words, flow.ports)) or "everything"
    what = f"{flow.source} (intent of {terms.origin}) to {flow.destination} on {ports}"
    return objections[0] if objections else f"no rule of {own} accepts {what}"


def _not_direct(terms: Terms) -> str:
    if terms.visited == (terms.origin,):
        return ""
    return f"takes only what comes straight from {terms.origin}; this passes {', '.join(terms.visited)}"


def _not_honoured(terms: Terms, honoured: tuple[int, ...] | None) -> str:
    if honoured is None or terms.dscp in (0, *honoured):
        return ""
    known = f"only {', '.join(map(dscp.words, honoured))}" if honoured else "nor any other"
    return f"does not honour dscp {dscp.words(terms.dscp)}, {known}"


def _not_from_there(terms: Terms, rule: AcceptRule | TransitRule) -> str:
    """Prefix list and limits of a rule (RFC 7454 §6)."""
    sources = {prefix for flow in terms.flows for prefix in flow.source_prefixes}
    if rule.max_flows is not None and len(terms.flows) > rule.max_flows:
        return f"takes at most {rule.max_flows} flows at once, not {len(terms.flows)}"
    if rule.max_prefixes is not None and len(sources) > rule.max_prefixes:
        return f"takes at most {rule.max_prefixes} prefixes of sources at once, not {len(sources)}"
    if not rule.prefixes:
        return ""
    beyond = next((text for text in sorted(sources) if not any(is_in(text, prefix) for prefix in rule.prefixes)), None)
    return f"takes no sources in {beyond}" if beyond is not None else ""


def is_in(text: str, wide: PrefixRange) -> bool:
    """Whether a prefix is in this entry of a prefix list."""
    network = addressing.prefix(text)
    return wide.least <= network.prefixlen <= wide.most and addressing.inside(network, addressing.prefix(wide.prefix))


def destination_domain(terms: Terms) -> str:
    return terms.flows[0].destination.split("/")[0]


def _is_about(rule: AcceptRule, terms: Terms, flow: Flow) -> bool:
    ports_fit = not rule.ports or (
        bool(flow.ports) and all(any(inside(ports, allowed) for allowed in rule.ports) for ports in flow.ports)
    )
    return (
        fnmatchcase(terms.origin, rule.origin)
        and fnmatchcase(flow.source, rule.source)
        and fnmatchcase(flow.destination, rule.destination)
        and ports_fit
        and _encrypted(terms, rule.encryption)
    )


def _encrypted(terms: Terms, least: Encryption) -> bool:
    return _STRENGTH.index(terms.encryption) >= _STRENGTH.index(least)
