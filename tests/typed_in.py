"""The lab as it would be if nobody told anybody anything."""

import msgspec

from topologies.topology import Acquaintance, Reach, Topology, Trust


def typed(topology: Topology) -> Topology:
    """The lab, in which what neighbours would tell is typed in: so it is there at once, also for releases that are told
    nothing."""
    ways = {
        place: (Reach(domain=place[2], latency_ms=4, trust=Trust.PARTNER, cost=30),)
        for place in (("shop", "transit", "insight"), ("insight", "transit", "shop"))
    }
    analytics, archive = (
        ("insight/analytics", "insight/analytics/analytics-y"),
        ("insight/archive", "insight/archive/archive-z"),
    )
    things = {
        ("shop", "insight"): (analytics, archive),
        ("transit", "insight"): (analytics,),
        ("transit", "shop"): (("shop/customer-x",),),
        ("insight", "shop"): (("shop/customer-x",),),
    }

    def known(domain: str, other: str, trust: Trust) -> Acquaintance:
        told = things.get((domain, other), ())
        return Acquaintance(
            trust=trust,
            reach=next((way for place, way in ways.items() if place[:2] == (domain, other)), ()),
            networks=tuple(names[0] for names in told),
            services=tuple(names[1] for names in told if len(names) > 1),
        )

    domains = tuple(
        msgspec.structs.replace(
            domain, knows={other: known(domain.name, other, known_as.trust) for other, known_as in domain.knows.items()}
        )
        for domain in topology.domains
    )
    # what an earlier release does not know it does not read
    networks = tuple(msgspec.structs.replace(network, capabilities=()) for network in topology.networks)
    return msgspec.structs.replace(topology, domains=domains, networks=networks)
