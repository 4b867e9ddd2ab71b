"""Why something is as it is: a tree from what was asked for to what is installed, or the way back."""

import msgspec


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """One thing, and what follows from it."""

    kind: str
    """intent, clause, requirement, origin, unmet, plan, segments, agreement, translation, node, entry, or an inventory
    kind."""
    text: str
    name: str = ""
    """`intents/order-processing`, `entries/se1/steer/forwarding_class=17`: what can be explained or got; empty: it has
    none."""
    children: tuple["Branch", ...] = ()
