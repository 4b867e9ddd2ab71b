"""The `tests` of intents: what must hold, whatever else is said."""

from collections.abc import Iterator, Sequence

from controller.fulfillment.aliases import moved
from controller.fulfillment.conflict import SOURCE_PORT, is_ipv4, packet_of, pieces, sorts, sorts_of_requests
from controller.fulfillment.conflict_index import Claim, Index, Places
from controller.fulfillment.meaning import Meaning, Packet
from controller.model.intent import Allow, Intent, IntentTest


def touching(test: IntentTest, index: Index, places: Places) -> list[Claim]:
    """Those in force that can change what a test finds; the oldest first."""
    return sorted(index.touching(_asked(test, places)), key=lambda claim: (claim.serial, claim.intent.name))


def failure(test: IntentTest, claims: Sequence[Claim], places: Places) -> tuple[Packet, str] | None:
    """A packet of which `claims` (all that touch it) say something else than the test, and why they do."""
    meaning = Meaning([claim.intent for claim in claims], places.inventory)
    for packet in _packets(test, claims, places):
        decision = meaning.of(packet)
        if (decision.allowed and not decision.reply) != test.allowed:
            return packet, decision.because
    return None


def words(test: IntentTest) -> str:
    labels = "".join(f" {name}={value}" for name, value in test.source.labels)
    return f"{'allow' if test.allowed else 'deny'} {test.source.network}{labels} to {test.to}"


def _asked(test: IntentTest, places: Places) -> Claim:
    allow = Allow(to=test.to, ports=test.ports, source=test.source)
    return places.claim(Intent(name="", tenant="", allow=(allow,)), serial=0, start_s=0, end_s=1)


def _packets(test: IntentTest, claims: Sequence[Claim], places: Places) -> Iterator[Packet]:
    """One request of each sort that the claims may tell apart."""
    path = _asked(test, places).paths[0]
    source, destination = path.source, path.destination
    targets = pieces(destination, claims)
    if destination.own:
        hosts = sorted(places.within(destination.network, destination.prefixes))
        targets = sorts(destination.network, hosts, claims)
        if source.network == destination.network:
            targets = hosts
    for sort in sorts(source.network, sorted(source.addresses), claims):
        for other in targets:
            if sort != other and is_ipv4(sort) == is_ipv4(other):
                ends = (source.network, sort), (destination.network, moved(other, path.views.destination))
                for kind, port in sorts_of_requests(path.ports, claims):
                    yield packet_of(*ends, kind, SOURCE_PORT, port)
