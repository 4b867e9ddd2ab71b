"""Nodes and links that an operator has taken out of use: what passes them moves off, and nothing new passes them."""

from controller.model.intent import Value

NODES, LINKS = "nodes", "links"
"""Kinds of what can be drained."""


class Drain(Value, frozen=True, kw_only=True):
    by: str
    at_s: int
    """Unix time."""
