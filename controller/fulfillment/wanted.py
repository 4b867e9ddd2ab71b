"""What the states of nodes follow from."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from controller.fulfillment.fabric import Fabric
from controller.model.inventory import Inventory
from controller.model.persistent import PersistentMap
from controller.model.requirements import Isolation
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Stage, Stitch
from controller.model.tunnel_keys import BorderKeys
from dataplane.host_api import NodeDescription


def _as_it_is(stitch: Stitch) -> Stitch:
    return stitch


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    inventory: Inventory
    fabric: Fabric
    descriptions: Mapping[str, NodeDescription]
    ids: Mapping[str, int]
    """Numbers of own networks at their edges; those of plans are in their stitches."""
    isolations: Sequence[Isolation]
    stitches: PersistentMap[Stitch]
    """Those that are still negotiated add nothing."""
    sr_policies: PersistentMap[SrPolicy]
    """All that their plans name."""
    tunnel_keys: Mapping[str, BorderKeys] = {}
    """Of borders where keys were renewed, or are."""
    as_if: Callable[[Stitch], Stitch] = _as_it_is
    """What is taken for a stitch."""

    def stitch(self, name: str) -> Stitch | None:
        """None: it adds nothing."""
        stitch = self.stitches.get(name)
        stitch = self.as_if(stitch) if stitch is not None else None
        return stitch if stitch is not None and stitch.stage != Stage.NEGOTIATING else None

    def has_ways_of(self, other: "Wanted") -> bool:
        """Whether a stitch is made into the same here as there, where the stitch and the boot times of its ends are
        the same."""
        return self is other or (_shared(self) == _shared(other) and _ways(self.fabric) == _ways(other.fabric))


def _shared(wanted: Wanted) -> tuple[object, ...]:
    inventory = wanted.inventory
    return inventory.networks, inventory.services, inventory.nodes, inventory.domains, wanted.ids


def _ways(fabric: Fabric) -> tuple[object, ...]:
    return (
        fabric.locators,
        fabric.ports,
        fabric.links_towards,
        fabric.links,
        fabric.border_ports,
        fabric.switches,
    )
