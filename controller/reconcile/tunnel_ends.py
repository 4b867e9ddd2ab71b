"""Whether the end of a tunnel that a neighbour names can be that of its border: its own key, at its own place."""

from controller.model.agreement import TunnelEnd
from controller.model.stitch import Session, Stitch
from controller.reconcile.transaction import Transaction
from dataplane import addressing
from dataplane.wireguard.tunnel_peer import key_objection, place_objection


def end_objection(transaction: Transaction, border: str, end: TunnelEnd) -> str:
    """Why not; empty: it can. `end` is well formed. Where the gateway has not described itself, its agent looks."""
    if reason := key_objection(addressing.key(end.public_key)):
        return f"the tunnel's end: {reason}"
    ours = (
        transaction.fabric.border_ports.values()
    )  # what a node says of borders that are not its own counts for nothing
    if end.public_key in {one.public_key for one in ours}:
        return f"the tunnel's end: the key is {transaction.own}'s own"
    border_port = transaction.fabric.border_ports.get(border)
    if border_port is not None and border_port.reaches:
        prefixes = map(addressing.prefix, border_port.reaches)
        if reason := place_objection(
            addressing.endpoint(end.endpoint)[0], prefixes, [addressing.endpoint(one.endpoint)[0] for one in ours]
        ):
            return f"the tunnel's end: {reason}"
    for stitch in transaction.stitches.all.values():
        for other, there in _ends(stitch):
            if other != border and (end.public_key == there.public_key or end.endpoint == there.endpoint):
                return "the tunnel's end: its key or endpoint is that of another border"
    return ""


def _ends(stitch: Stitch) -> list[tuple[str, TunnelEnd]]:
    """What neighbours have named as theirs, with the border."""
    sessions = [session for session in (stitch.upstream, stitch.downstream) if session is not None]
    return [(session.terms.border, end) for session in sessions for end in _named(session)]


def _named(session: Session) -> list[TunnelEnd]:
    if not session.offeror:
        return [session.terms.offeror_end]
    return [session.agreement.acceptor_end] if session.agreement is not None else []
