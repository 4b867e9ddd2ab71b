"""What all stitches of one version of what is wanted add, made where it is asked for.

Nothing of it is kept from one step to the next: what one adds follows in a moment from the stitch, and to keep it for
all of them takes more memory than the stitches themselves.
"""

from collections.abc import Mapping

from controller.fulfillment.contribution import Basis, Contribution, Edge, Networks, contribution
from controller.fulfillment.networks import attached_prefixes
from controller.fulfillment.plan_entries import Place, inside_mtu
from controller.fulfillment.wanted import Wanted
from controller.model.intent import Replies
from controller.model.stitch import Stitch

MadeOnce = dict[str, list[tuple[Wanted, Contribution]]]
"""By stitch, what was made in this step, and from what: what is counted is mostly what is installed then."""
MOST = 16_384
"""Of so many stitches that is remembered at most: where all are made anew it would be as much as all there is."""


class Contributions:
    def __init__(self, wanted: Wanted, networks: Networks, places: dict[Edge, Place], made: MadeOnce) -> None:
        """`places`: as far as they were asked for."""
        self._wanted, self._networks, self._places, self._made = wanted, networks, places, made
        self._alike: dict[int, bool] = {}
        """Of each version from which something was made, by id, whether it leads to the same."""

    def get(self, name: str) -> Contribution | None:
        stitch = self._wanted.stitch(name)
        return None if stitch is None else self.of(stitch, self.basis(stitch))

    def __getitem__(self, name: str) -> Contribution:
        """Raises KeyError."""
        made = self.get(name)
        if made is None:
            raise KeyError(name)
        return made

    def of(self, stitch: Stitch, basis: Basis) -> Contribution:
        """`basis`: of the stitch."""
        name = stitch.plan.name
        for wanted, made in self._made.get(name, ()):
            if made.serial == stitch.serial and made.basis == basis and self._is_alike(wanted):
                return made
        made = contribution(stitch, basis, self._wanted.fabric, self._wanted.sr_policies)
        if len(self._made) < MOST:
            self._made.setdefault(name, []).append((self._wanted, made))
        return made

    def _is_alike(self, wanted: Wanted) -> bool:
        if id(wanted) not in self._alike:
            self._alike[id(wanted)] = wanted.has_ways_of(self._wanted)
        return self._alike[id(wanted)]

    def basis(self, stitch: Stitch) -> Basis:
        wanted = self._wanted
        return Basis(
            stitch.plan,
            stitch.ids,
            stitch.upstream,
            stitch.downstream,
            stitch.expires_s,
            self._places_of(stitch),
            inside_mtu(stitch.plan, wanted.fabric, wanted.sr_policies),
            {node: wanted.fabric.boot_epochs_s.get(node) for node in stitch.plan.ends},
        )

    def _places_of(self, stitch: Stitch) -> Mapping[Edge, Place]:
        connection = stitch.plan.connection
        ends = stitch.plan.ends
        places = {}
        services = {waypoint.network for waypoint in stitch.plan.via}
        for network in (connection.source_network, connection.destination_network, *sorted(services)):
            for node in ends:
                if (network, node) in self._networks:
                    places[network, node] = self._place((network, node))
        return places

    def _place(self, edge: Edge) -> Place:
        if edge not in self._places:
            (name, node), (ids, _) = edge, self._networks[edge]
            network = self._wanted.inventory.networks[name]
            self._places[edge] = Place(
                vrf=ids.vrf,
                policy_class=ids.hosts,
                attached=attached_prefixes(network, node),
                is_stateful=network.replies is Replies.STATEFUL,
                serves=any(
                    service.through is not None and service.name.rpartition("/")[0] == name
                    for service in self._wanted.inventory.services.values()
                ),
            )
        return self._places[edge]
