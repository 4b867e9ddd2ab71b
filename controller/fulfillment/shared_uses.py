"""What several stitches use together, and which of them use it: SR Policies, SIDs that a neighbour knows, tunnels,
ranges of ports."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import immutables

from controller.fulfillment.contribution import Contribution, Policy, PortUse, Service
from controller.fulfillment.plan_entries import SharedPolicy

K = TypeVar("K", bound=Hashable)
Users = immutables.Map[str, None]
"""Names of stitches."""


class PolicyUse(NamedTuple):
    policy: SharedPolicy
    """The same for all of them."""
    users: Users


class SharedUses(NamedTuple):
    """Never changes: `SharedUsesChange` makes the next one."""

    policies: "immutables.Map[Policy, PolicyUse]" = immutables.Map()
    services: "immutables.Map[Service, Users]" = immutables.Map()
    links: "immutables.Map[str, Users]" = immutables.Map()
    """Border links."""
    ports: "immutables.Map[PortUse, int]" = immutables.Map()
    """By how many."""


class SharedUsesChange:
    """Lives for one change. Says of what the entries may be others."""

    def __init__(self, before: SharedUses) -> None:
        self.now = before
        self.policies: set[Policy] = set()
        self.services: set[Service] = set()
        self.links: set[str] = set()
        self.port_nodes: set[str] = set()

    def change(self, name: str, before: Contribution | None, made: Contribution | None) -> None:
        """What a stitch adds is `made`."""
        self._take_policies(name, before, made)
        known = before.services if before is not None else {}
        knows = made.services if made is not None else {}
        for service in known.keys() | knows.keys():
            self.now = self.now._replace(services=_listed(self.now.services, service, name, there=service in knows))
            if known.get(service) != knows.get(service):
                self.services.add(service)
        left = before.borders.keys() if before is not None else set()
        crossed = made.borders.keys() if made is not None else set()
        for link in left | crossed:
            self.now = self.now._replace(links=_listed(self.now.links, link, name, there=link in crossed))
            self.links.add(link)
        self._ask_for_ports(
            before.ports if before is not None else frozenset(), made.ports if made is not None else frozenset()
        )

    def _take_policies(self, name: str, before: Contribution | None, made: Contribution | None) -> None:
        takes = _policies_of(made)
        policies = self.now.policies
        for policy in _policies_of(before).keys() - takes.keys():
            if (use := policies.get(policy)) is None or name not in use.users:
                continue
            users = use.users.delete(name)
            policies = policies.set(policy, use._replace(users=users)) if users else policies.delete(policy)
            if not users:
                self.policies.add(policy)
        for policy, shared in takes.items():
            known = policies.get(policy)
            if known is None or known.policy != shared:
                self.policies.add(policy)  # else there is what others have made of the same
            users = known.users if known is not None else immutables.Map()
            if known is None or known.policy != shared or name not in users:
                policies = policies.set(policy, PolicyUse(shared, users.set(name, None)))
        self.now = self.now._replace(policies=policies)

    def _ask_for_ports(self, asked: frozenset[PortUse], asks: frozenset[PortUse]) -> None:
        ports = self.now.ports
        for use in asked - asks:
            rest = ports[use] - 1
            ports = ports.set(use, rest) if rest else ports.delete(use)
            if not rest:
                self.port_nodes.add(use[0])
        for use in asks - asked:
            if use not in ports:
                self.port_nodes.add(use[0])
            ports = ports.set(use, ports.get(use, 0) + 1)
        self.now = self.now._replace(ports=ports)


def _policies_of(contribution: Contribution | None) -> Mapping[Policy, SharedPolicy]:
    return contribution.policies if contribution is not None else {}


def _listed(lists: "immutables.Map[K, Users]", key: K, name: str, *, there: bool) -> "immutables.Map[K, Users]":
    names: Users = lists.get(key, immutables.Map())
    if there:
        return lists if name in names else lists.set(key, names.set(name, None))
    if name not in names:
        return lists
    left = names.delete(name)
    return lists.set(key, left) if left else lists.delete(key)
