"""Whether the end of a tunnel that a neighbour names can be that of its border: its own key, at its own place."""

from controller.model.agreement import TunnelEnd
from controller.reconcile.tables import end_key
from controller.reconcile.transaction import Transaction
from dataplane import addressing
from dataplane.wireguard.tunnel_peer import key_objection, place_objection

EVERYWHERE = (addressing.prefix("0.0.0.0/0"), addressing.prefix("::/0"))
"""Of an agent that does not say where a border's other end may be."""


def end_objection(transaction: Transaction, border: str, end: TunnelEnd) -> str:
    """Why not; empty: it can. `end` is well formed. Where the gateway has not described itself, its agent looks."""
    if reason := key_objection(addressing.key(end.public_key)):
        return f"the tunnel's end: {reason}"
    ours = (
        transaction.fabric.border_ports.values()
    )  # what a node says of borders that are not its own counts for nothing
    if end.public_key in {end_of_ours.public_key for end_of_ours in ours}:
        return f"the tunnel's end: the key is {transaction.own}'s own"
    border_port = transaction.fabric.border_ports.get(border)
    if border_port is not None:
        prefixes = tuple(map(addressing.prefix, border_port.reaches)) or EVERYWHERE
        if reason := place_objection(
            addressing.endpoint(end.endpoint)[0],
            prefixes,
            [addressing.endpoint(end_of_ours.endpoint)[0] for end_of_ours in ours],
        ):
            return f"the tunnel's end: {reason}"
    others = [link.name for link in transaction.links.all.values() if link.domain and link.name != border]
    if any(
        transaction.stitches.all.count(end_key(other, what))
        for other in others
        for what in (end.public_key, end.endpoint)
    ):
        return "the tunnel's end: its key or endpoint is that of another border"
    return ""
