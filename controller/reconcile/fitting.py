"""Whether what is applied to the inventory fits together, and fits what the nodes say they have."""

import base64
import ipaddress
from collections.abc import Iterator

import msgspec

from controller.fulfillment import numbering
from controller.fulfillment.containers import node_id
from controller.fulfillment.numbering import overlaps
from controller.fulfillment.ports import attachment_objection, end_objection
from controller.model.event import Problem
from controller.model.intent import Intent
from controller.model.inventory import Domain, Inventory, Link, Network, Node, Service
from controller.model.rule import Added, Rule
from controller.reconcile.transaction import Transaction

Resource = Domain | Network | Service | Node | Link | Rule | Intent


class Request(msgspec.Struct, frozen=True):
    """What is applied, read."""

    values: list[tuple[int, str, Resource]]
    """(index in the request, kind, value)."""
    added: dict[str, tuple[Added, ...]]
    """Intent -> what requirement compilers said of it."""


def inventory_problems(merged: Inventory, own: str, request: Request) -> list[Problem]:
    """What does not fit together; each problem at what of the request has to do with it."""
    indices = {(kind, value.name): index for index, kind, value in request.values}
    problems: list[Problem] = []

    def problem(kind: str, name: str, path: tuple[str | int, ...], message: str) -> None:
        index = indices.get((kind, name))
        if index is None:
            problems.append(Problem(path=(0,), message=f"{kind} {name} would no longer fit: {message}"))
        else:
            problems.append(Problem(path=(index, *path), message=message))

    for domain in merged.domains.values():
        if domain.own != (domain.name == own):
            message = f"this controller is {own}'s: self must be true for {own} and only for it"
            problem("Domain", domain.name, ("spec", "self"), message)
    for name, path, message in _confusions(merged, {name for kind, name in indices if kind == "Domain"}):
        problem("Domain", name, path, message)
    for path, message in _pool_problems(merged, own):
        problem("Domain", own, path, message)
    block = ipaddress.ip_network(merged.domains[own].sid_block) if own in merged.domains else None
    locators: dict[str, str] = {}
    for node in merged.nodes.values():
        locator = ipaddress.ip_network(node.locator)
        if block is None or not isinstance(locator, ipaddress.IPv6Network) or not _inside(locator, block):
            problem("Node", node.name, ("spec", "locator"), f"{locator} is not in the SID block of {own} ({block})")
        elif not 0 < node_id(int(locator.network_address)) < numbering.FIRST_FUNCTION:
            message = (
                f"{locator} is none for compressed SIDs: its third group names the node, and is 1 to "
                f"{numbering.FIRST_FUNCTION - 1:x} (RFC 9800)"
            )
            problem("Node", node.name, ("spec", "locator"), message)
        if (other := locators.setdefault(node.locator, node.name)) != node.name:
            problem("Node", node.name, ("spec", "locator"), f"{locator} is {other}'s already")
    ports: dict[tuple[str, int], str] = {}
    for link in merged.links.values():
        for side, end in (("a", link.a), ("b", link.b)):
            if end is None:
                continue
            if end.node not in merged.nodes:
                problem("Link", link.name, ("spec", side, "node"), f"unknown node {end.node}")
            elif end.port and (other := ports.setdefault((end.node, end.port), f"link {link.name}")) != (
                f"link {link.name}"
            ):
                problem("Link", link.name, ("spec", side, "port"), f"port {end.port} of {end.node} is {other}'s")
        if link.domain and link.domain not in merged.domains:
            problem("Link", link.name, ("spec", "domain"), f"unknown domain {link.domain}")
        elif link.domain and not merged.domains[link.domain].sid_block:
            message = f"of {link.domain} only the key is known: its manifest needs endpoint, certificate and sid_block"
            problem("Link", link.name, ("spec", "domain"), message)
    for network in merged.networks.values():
        domain_name = network.name.split("/")[0]
        if domain_name not in merged.domains:
            problem("Network", network.name, ("metadata", "name"), f"unknown domain {domain_name}")
        if network.attachments and domain_name != own:
            problem("Network", network.name, ("spec", "attachments"), f"only networks of {own} have attachments here")
        for index, attachment in enumerate(network.attachments):
            where = ("spec", "attachments", index)
            if attachment.node not in merged.nodes:
                problem("Network", network.name, (*where, "node"), f"unknown node {attachment.node}")
                continue
            holder = ports.setdefault((attachment.node, attachment.port), f"network {network.name}")
            if holder != f"network {network.name}":
                message = f"port {attachment.port} of {attachment.node} is {holder}'s"
                problem("Network", network.name, (*where, "port"), message)
    for service in merged.services.values():
        if service.learnt:  # what an operator says of its network wins: it goes where it does not fit
            continue
        name = "/".join(service.name.split("/")[:2])
        home = merged.networks.get(name)
        if home is None:
            problem("Service", service.name, ("metadata", "name"), f"unknown network {name}")
            continue
        prefixes = [ipaddress.ip_network(prefix) for prefix in home.prefixes]
        for index, address in enumerate(service.addresses):
            if not any(ipaddress.ip_address(address) in prefix for prefix in prefixes):
                message = f"{address} is in no prefix of {name}"
                problem("Service", service.name, ("spec", "addresses", index), message)
    return problems


def _pool_problems(merged: Inventory, own: str) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """An address of the pool is nobody's: of no network of ours, and once in the pool."""
    pool = merged.domains[own].translation_pool if own in merged.domains else ()
    for index, text in enumerate(pool):
        where = ("spec", "translation_pool", index)
        for other in pool[:index]:
            if overlaps(text, (other,)):
                yield where, f"{text} overlaps {other}"
        for network in merged.networks.values():
            if network.name.split("/")[0] == own and overlaps(text, network.prefixes):
                yield where, f"{text} has addresses of {network.name}, whose hosts could not tell the two"


def _confusions(merged: Inventory, changed: set[str]) -> Iterator[tuple[str, tuple[str | int, ...], str]]:
    """What of `changed` domains would be taken for another domain's: a key, or SIDs."""
    for name in sorted(changed):
        domain = merged.domains[name]
        for other in merged.domains.values():
            if other.name == name or (other.name in changed and other.name > name):
                continue
            if domain.key and domain.key == other.key:
                yield name, ("spec", "key"), f"it is the key of {other.name}: who has it could speak for both"
            if domain.sid_block and other.sid_block:
                block, others = ipaddress.ip_network(domain.sid_block), ipaddress.ip_network(other.sid_block)
                if block.overlaps(others):
                    yield name, ("spec", "sid_block"), f"{block} overlaps with {others} of {other.name}"


_LOW_ORDER = frozenset(
    (
        0,
        1,
        2**255 - 20,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    )
)
"""y-coordinates of Ed25519 for which anybody can make signatures."""


def _key_objection(transaction: Transaction, domain: Domain) -> str:
    """Why it cannot be this domain's identity; empty: it can."""
    number = int.from_bytes(base64.b64decode(domain.key), "little") & (1 << 255) - 1
    if number in _LOW_ORDER or number >= 2**255 - 19:
        return "anybody can sign with this key: `stitchd keygen` makes one, and its owner tells which it is"
    if domain.key == transaction.keys.public_key:
        return f"it is the key of {transaction.own}: who has it could speak for both"
    return ""


def _inside(inner: ipaddress.IPv6Network, outer: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def port_problems(transaction: Transaction, merged: Inventory, request: Request) -> Iterator[Problem]:
    """What nodes that are there say they do not have. Of the others nobody knows; and what is in the store already is
    not looked at again, so that nothing wrong holds up another change."""
    present = {
        name: standing.description
        for name, standing in transaction.nodes.all.items()
        if standing.reachable and standing.described and standing.description is not None
    }
    for index, _, value in request.values:
        match value:
            case Network():
                known = transaction.networks.get(value.name)
                for place, attachment in enumerate(value.attachments):
                    reason = attachment_objection(attachment.node, attachment.port, present.get(attachment.node))
                    ports = {(old.node, old.port) for old in known.attachments} if known is not None else set()
                    if reason and (attachment.node, attachment.port) not in ports:
                        yield Problem(path=(index, "spec", "attachments", place, "port"), message=reason)
            case Link():
                stored = transaction.links.get(value.name)
                old_ends = (stored.a, stored.b) if stored is not None else ()
                for side, end in (("a", value.a), ("b", value.b)):
                    reason = end_objection(end, present.get(end.node)) if end is not None else ""
                    if end is not None and reason and end not in old_ends:
                        field = "border" if end.border else "port"
                        yield Problem(path=(index, "spec", side, field), message=reason)
                if value.a.border and (other := _at_border(merged, value)):
                    message = f"border {value.a.border} of {value.a.node} is link {other}'s"
                    yield Problem(path=(index, "spec", "a", "border"), message=message)
            case Domain() if value.name != transaction.own and value.key:
                if reason := _key_objection(transaction, value):
                    yield Problem(path=(index, "spec", "key"), message=reason)
            case _:
                pass


def _at_border(merged: Inventory, link: Link) -> str:
    """Another link that begins at the same border."""
    others = (other.name for other in merged.links.values() if other.a == link.a and other.name != link.name)
    return next(others, "")
