"""Whether a node has the ports and borders that the inventory says: what it does not have it is not asked to use.

Where a node has not said yet what it is, nothing is known against it.
"""

from collections.abc import Mapping

from controller.model.inventory import LinkEnd
from dataplane.host_api import NodeDescription, PortRole

WHAT = {PortRole.ATTACHMENT: "for hosts", PortRole.FABRIC: "for links", PortRole.UNDERLAY: "an underlay"}


def attachment_objection(node: str, port: int, description: NodeDescription | None) -> str:
    """Why hosts cannot be attached there; empty: nothing is known against it."""
    return _port_objection(node, port, description, PortRole.ATTACHMENT)


def end_objection(end: LinkEnd, description: NodeDescription | None) -> str:
    """Why a link cannot end there; empty: nothing is known against it."""
    if not end.border:
        return _port_objection(end.node, end.port, description, PortRole.FABRIC)
    borders = [border.name for border in description.borders] if description is not None else [end.border]
    if end.border in borders:
        return ""
    return f"{end.node} has no border {end.border}; its agent has {', '.join(sorted(borders)) or 'none'}"


def attachable(node: str, descriptions: Mapping[str, NodeDescription], port: int) -> bool:
    return not attachment_objection(node, port, descriptions.get(node))


def _port_objection(node: str, port: int, description: NodeDescription | None, role: PortRole) -> str:
    if description is None:
        return ""
    if not description.tells_ports:
        return "" if role == PortRole.FABRIC else f"{node} is a switch without an agent: it has no ports {WHAT[role]}"
    for said in description.ports:
        if said.number == port:
            return "" if said.role == role else f"port {port} of {node} is {WHAT[said.role]}, not {WHAT[role]}"
    have = ", ".join(map(str, sorted(said.number for said in description.ports if said.role == role)))
    return f"{node} has no port {port}; its agent has {have or 'none'} {WHAT[role]}"
