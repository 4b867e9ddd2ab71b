"""What is measured of links, where the operator says nothing: it counts in paths, until it is too old."""

from collections.abc import Iterable, Iterator, Mapping

from controller.model.discovery import PortMeasurement
from controller.model.inventory import Link, LinkEnd
from controller.reconcile.state import NodeStanding
from controller.reconcile.transaction import Transaction

MEASURED_S = 90.0
"""A measurement that is older is none: nodes tell theirs every 30 s."""


def measurements(
    link: Link, nodes: Mapping[str, NodeStanding], now_s: float
) -> Iterator[tuple[LinkEnd, PortMeasurement]]:
    """Of a link inside the domain, by each of its ends that has one that is not too old."""
    for end in (link.a, link.b):
        standing = nodes.get(end.node) if end is not None and not end.border else None
        if end is None or standing is None:
            continue
        for measurement in standing.measured_ports:
            if measurement.port == end.port and now_s - measurement.at_s <= MEASURED_S:
                yield end, measurement


def at(transaction: Transaction, node: str) -> list[str]:
    """Links of a node of which the operator says no loss."""
    return [
        name
        for name, link in transaction.links.all.items()
        if link.loss_percent is None and link.b is not None and node in (link.a.node, link.b.node)
    ]


def links_at(transaction: Transaction, node: str) -> list[str]:
    """Inside the domain."""
    links = transaction.links.all.items()
    return [name for name, link in links if link.b is not None and node in (link.a.node, link.b.node)]


def learn(transaction: Transaction, links: Iterable[str]) -> bool:
    """What is known of these now; whether anything that counts is another than before."""
    for name in links:
        _learn(transaction, name)
    return transaction.losses.changed


def _learn(transaction: Transaction, name: str) -> None:
    """Of what its ends say the worse counts."""
    link = transaction.links.get(name)
    losses: list[float] = []
    if link is not None and link.loss_percent is None:
        said = measurements(link, transaction.nodes.all, transaction.now_s)
        losses = [measurement.loss_percent for _, measurement in said]
    if losses:
        transaction.losses.put(name, max(losses))
    else:
        transaction.losses.drop(name)
