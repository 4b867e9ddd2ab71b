"""Whether our policy lets us accept, or carry on, what another domain offers."""

from fnmatch import fnmatchcase

from controller.fulfillment.translate import inside, words
from controller.model.agreement import Flow, Terms
from controller.model.intent import Encryption
from controller.model.policy import AcceptRule, Policy


def refusal(terms: Terms, policy: Policy, own: str, now_s: float) -> str:
    """Why `policy` refuses valid terms; empty: it does not. The first rule that matches decides."""
    if destination_domain(terms) == own:
        for flow in terms.flows:
            if not any(_accepts(rule, terms, flow) for rule in policy.accept):
                ports = ", ".join(map(words, flow.ports)) or "everything"
                what = f"{flow.source} (intent of {terms.origin}) to {flow.destination} on {ports}"
                return f"no rule of {own} accepts {what}"
        return ""
    target = destination_domain(terms)
    for index, rule in enumerate(policy.transit):
        matches = fnmatchcase(terms.origin, rule.origin) and fnmatchcase(target, rule.destination)
        if not matches or not _encrypted(terms, rule.encryption):
            continue
        # the offeror's clock may be a little behind ours
        if rule.max_lease_s is not None and terms.expires_s - now_s > rule.max_lease_s + 5:
            return (
                f"transit rule {index + 1} of {own} carries from {rule.origin} to {rule.destination} for at most "
                + (f"{rule.max_lease_s} s")
            )
        return ""
    return f"no rule of {own} carries traffic from {terms.origin} to {target}"


def destination_domain(terms: Terms) -> str:
    return terms.flows[0].destination.split("/")[0]


def _accepts(rule: AcceptRule, terms: Terms, flow: Flow) -> bool:
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
    return least == Encryption.NONE or terms.encryption == least
