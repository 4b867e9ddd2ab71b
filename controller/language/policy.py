"""The policy file of a domain (YAML): which offers it accepts, what it tells its neighbours and takes over of them."""

import re
from typing import Any

from controller.language import scalars
from controller.language.fault import Fault, ManifestInvalid
from controller.language.intent import PORT_LIST
from controller.language.shape import Field, Fields, Flaws, ListOf, Scalar
from controller.language.tree import fault_of, load
from controller.model import dscp
from controller.model.agreement import MAX_FLOWS, MAX_ITEMS
from controller.model.intent import Encryption
from controller.model.policy import AcceptRule, AdvertiseRule, LearnRule, Policy, PrefixRange, TransitRule
from dataplane import addressing

_PATTERN = re.compile(r"[a-z0-9*?./-]{1,200}")


def _pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is none")
    return text


PATTERN = Scalar(expected="a name or a pattern such as shop/*", make=_pattern)


def _range(values: dict[str, Any]) -> PrefixRange:
    """Without `ge` and `le` the prefix itself; `ge` alone: and all longer ones from there on."""
    network = addressing.prefix(values["prefix"])
    least = values.get("ge", network.prefixlen)
    most = values.get("le", network.max_prefixlen if "ge" in values else network.prefixlen)
    if not network.prefixlen <= least <= most <= network.max_prefixlen:
        raise ValueError(
            f"lengths from {least} to {most} are none of {values['prefix']}: expected {network.prefixlen} <= ge <= le "
            f"<= {network.max_prefixlen}"
        )
    return PrefixRange(prefix=values["prefix"], least=least, most=most)


_LENGTH = scalars.integer(0, 128, "bits")
PREFIX_RANGE = Fields(
    fields={
        "prefix": Field(shape=scalars.PREFIX, required=True),
        "ge": Field(shape=_LENGTH),
        "le": Field(shape=_LENGTH),
    },
    make=_range,
)
_SOURCES = {
    "prefixes": Field(shape=ListOf(item=PREFIX_RANGE, most=1000)),
    "max_prefixes": Field(shape=scalars.integer(1, MAX_ITEMS)),
    "max_flows": Field(shape=scalars.integer(1, MAX_FLOWS)),
}
CODE_POINTS = ListOf(item=scalars.DSCP, most=64)
_DURATION_S = scalars.integer(10, 30 * 86400, "seconds")

ACCEPT = Fields(
    fields={
        "from": Field(shape=PATTERN, to="origin", required=True),
        "source": Field(shape=PATTERN, required=True),
        "to": Field(shape=PATTERN, to="destination", required=True),
        "ports": Field(shape=PORT_LIST),
        "encryption": Field(shape=scalars.ENCRYPTION),
        "direct": Field(shape=scalars.BOOLEAN),
        "dscp": Field(shape=CODE_POINTS),
        **_SOURCES,
    },
    make=lambda values: AcceptRule(**values),
)
TRANSIT = Fields(
    fields={
        "from": Field(shape=PATTERN, to="origin", required=True),
        "to": Field(shape=PATTERN, to="destination", required=True),
        "encryption": Field(shape=scalars.ENCRYPTION),
        "max_lease_s": Field(shape=_DURATION_S),
        "dscp": Field(shape=CODE_POINTS),
        **_SOURCES,
    },
    make=lambda values: TransitRule(**values),
)
ADVERTISE = Fields(
    fields={
        "to": Field(shape=PATTERN, required=True),
        "what": Field(shape=PATTERN, required=True),
        "onward": Field(shape=scalars.BOOLEAN),
    },
    make=lambda values: AdvertiseRule(**values),
)
LEARN = Fields(
    fields={
        "from": Field(shape=PATTERN, to="neighbour", required=True),
        "what": Field(shape=PATTERN, required=True),
        "prefixes": _SOURCES["prefixes"],
    },
    make=lambda values: LearnRule(**values),
)
OFFER = Fields(fields={"lease_s": Field(shape=_DURATION_S, required=True)})
TUNNELS = Fields(fields={"renew_keys_s": Field(shape=scalars.integer(1, 30 * 86400, "seconds"), required=True)})
NEIGHBOUR = Fields(
    fields={
        "max_agreements": Field(shape=scalars.integer(0, 100_000)),
        "max_share": Field(shape=scalars.integer(1, 100, "percent")),
    }
)


def _policy(values: dict[str, Any]) -> Policy:
    groups = ("offer", "neighbour", "tunnels")
    rules = {name: value for name, value in values.items() if name not in groups}
    return Policy(**rules, **{field: value for name in groups for field, value in values.get(name, {}).items()})


POLICY = Fields(
    fields={
        "accept": Field(shape=ListOf(item=ACCEPT)),
        "transit": Field(shape=ListOf(item=TRANSIT)),
        "advertise": Field(shape=ListOf(item=ADVERTISE)),
        "learn": Field(shape=ListOf(item=LEARN)),
        "remediation": Field(shape=scalars.REMEDIATION),
        "neighbour": Field(shape=NEIGHBOUR),
        "offer": Field(shape=OFFER),
        "tunnels": Field(shape=TUNNELS),
    },
    make=_policy,
)


def parse_policy(text: str | bytes, file: str) -> Policy:
    """Raises ManifestInvalid. An empty file accepts nothing."""
    trees = load(text, file)
    if not trees:
        return Policy()
    if len(trees) > 1:
        line, column = trees[1].positions[()]
        raise ManifestInvalid((Fault(file=file, line=line, column=column, message="expected one document"),))
    flaws: Flaws = []
    value = POLICY.read(trees[0].data, (), flaws)
    if isinstance(value, Policy):
        return value
    raise ManifestInvalid(tuple(fault_of(flaw, trees[0], file) for flaw in flaws))


def print_policy(policy: Policy) -> dict[str, Any]:
    """As the file may have it; reading it gives an equal policy."""
    return {
        "accept": [
            {"from": rule.origin, "source": rule.source, "to": rule.destination}
            | ({"ports": [scalars.print_ports(port) for port in rule.ports]} if rule.ports else {})
            | _bounds(rule)
            | ({"direct": True} if rule.direct else {})
            for rule in policy.accept
        ],
        "transit": [
            {"from": rule.origin, "to": rule.destination}
            | _bounds(rule)
            | ({"max_lease_s": rule.max_lease_s} if rule.max_lease_s is not None else {})
            for rule in policy.transit
        ],
        "advertise": [
            {"to": rule.to, "what": rule.what} | ({"onward": True} if rule.onward else {}) for rule in policy.advertise
        ],
        "learn": [{"from": rule.neighbour, "what": rule.what} | _ranges(rule.prefixes) for rule in policy.learn],
        "remediation": str(policy.remediation),
        "neighbour": {"max_agreements": policy.max_agreements, "max_share": policy.max_share},
        "offer": {"lease_s": policy.lease_s},
        "tunnels": {"renew_keys_s": policy.renew_keys_s},
    }


def _bounds(rule: AcceptRule | TransitRule) -> dict[str, Any]:
    bounds: dict[str, Any] = {"encryption": str(rule.encryption)} if rule.encryption != Encryption.NONE else {}
    if rule.dscp is not None:
        bounds["dscp"] = [dscp.words(codepoint) for codepoint in rule.dscp]
    bounds |= _ranges(rule.prefixes)
    limits = {"max_prefixes": rule.max_prefixes, "max_flows": rule.max_flows}
    return bounds | {name: limit for name, limit in limits.items() if limit is not None}


def _ranges(prefixes: tuple[PrefixRange, ...]) -> dict[str, Any]:
    ranges = [{"prefix": prefix.prefix, "ge": prefix.least, "le": prefix.most} for prefix in prefixes]
    return {"prefixes": ranges} if ranges else {}
