"""What one stitch adds to what its nodes shall have, whatever its stage: what of it is not in use yet is withheld."""

from collections.abc import Mapping
from typing import NamedTuple

from controller.fulfillment.acl import Rule, used_ports
from controller.fulfillment.fabric import Fabric
from controller.fulfillment.groups import Rank
from controller.fulfillment.networks import NetworkIds
from controller.fulfillment.plan_entries import (
    Border,
    Place,
    SharedPolicy,
    SharedService,
    border_services,
    borders,
    plan_entries,
    plan_rules,
    shared_policies,
    use_rules,
)
from controller.fulfillment.plan_paths import SrPolicies
from controller.model.entry import OwnedEntry
from controller.model.intent import Ports
from controller.model.plan import Plan
from controller.model.stitch import Session, Stitch

Entries = tuple[OwnedEntry, ...]
"""That are made together."""
Edge = tuple[str, str]
"""Network, and a node that is one of its edges."""
Vrf = tuple[str, int]
"""Node and number."""
Policy = tuple[str, int]
"""Headend and number of an SR Policy."""
Service = tuple[str, int]
"""Gateway and function of an End.DT46 SID that a neighbour knows."""
PortUse = tuple[str, bool, Ports]
"""Node, whether as the source's (of replies), ports."""
Networks = Mapping[Edge, tuple[NetworkIds, tuple[Rule, ...]]]
"""Numbers of each own network at its edges, and what holds there whatever is permitted besides."""


class Basis(NamedTuple):
    """What a contribution follows from, beside what all stitches share."""

    plan: Plan
    ids: Mapping[str, int]
    upstream: Session | None
    downstream: Session | None
    expires_s: int | None
    places: Mapping[Edge, Place]
    """Of its networks at its ends."""
    inside_mtu: int
    """Largest inner packet that its SR Policies take: of their paths it needs no more."""
    booted: Mapping[str, int | None]
    """When each of its ends was booted, as far as that is known: leases are on their clocks."""


class Contribution(NamedTuple):
    """What one stitch adds, whatever its stage."""

    serial: int
    basis: Basis
    units: Mapping[str, Entries]
    """By node."""
    rules: Mapping[Vrf, tuple[Rule, ...]]
    uses: Mapping[Vrf, int]
    """The place among these rules of the first by which the networks' own traffic takes the plan: from it on they are
    withheld until the stitch is active."""
    policies: Mapping[Policy, SharedPolicy]
    services: Mapping[Service, SharedService]
    borders: Mapping[str, Border]
    """By link."""
    ports: frozenset[PortUse]


def contribution(stitch: Stitch, basis: Basis, fabric: Fabric, sr_policies: SrPolicies) -> Contribution:
    rules: dict[Vrf, list[Rule]] = {}
    for node, vrf, rule in plan_rules(stitch, fabric, basis.places):
        rules.setdefault((node, vrf), []).append(rule)
    uses: dict[Vrf, int] = {}
    for node, vrf, rule in use_rules(stitch, basis.places):
        here = rules.setdefault((node, vrf), [])
        uses.setdefault((node, vrf), len(here))
        here.append(rule)
    ports = {(vrf[0], *use) for vrf, here in rules.items() for rule in here for use in used_ports(rule)}
    return Contribution(
        serial=stitch.serial,
        basis=basis,
        units=plan_entries(stitch, fabric, sr_policies),
        rules={vrf: tuple(here) for vrf, here in rules.items()},
        uses=uses,
        policies={(policy.node, policy.number): policy for policy in shared_policies(stitch, fabric, sr_policies)},
        services={service[:2]: service for service in border_services(stitch, fabric)},
        borders={border.border_port.link: border for border in borders(stitch, fabric) if border is not None},
        ports=frozenset(ports),
    )


def ranks_of_use(name: str, contribution: Contribution) -> Mapping[Vrf, tuple[Rank, ...]]:
    """The rules by which the networks' own traffic takes the plan."""
    return {
        vrf: tuple((contribution.serial, name, place) for place in range(first, len(contribution.rules[vrf])))
        for vrf, first in contribution.uses.items()
    }
