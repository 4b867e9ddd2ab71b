"""What is known of other domains by what neighbours advertise, and what neighbours are told."""

from collections.abc import Iterator
from typing import Any

from controller.fulfillment.advertising import Candidate, candidate, takes
from controller.fulfillment.numbering import host_prefix
from controller.model.advertising import from_key, of_key
from controller.model.agreement import opened_advertisement
from controller.model.discovery import Source
from controller.model.inventory import Domain, Network, Service
from controller.reconcile.state import State


def thing_status(state: State, thing: Network | Service) -> dict[str, Any]:
    """Of a network or service of another domain: who has said so."""
    owner = thing.name.split("/")[0]
    if owner == state.own:
        return {}
    status: dict[str, Any] = {"owner": owner, "learnt_from": [way.heard.peer for way in _ways(state, thing)]}
    status["source"] = str(Source.ADVERTISEMENT if thing.learnt else Source.OPERATOR)
    if thing.learnt and not status["learnt_from"]:
        status["reason"] = "nobody advertises it any more; an intent names it"
    return status


def _ways(state: State, thing: Network | Service) -> Iterator[Candidate]:
    """Over those neighbours that say so, the most preferred first."""
    for way in candidates(state, thing.name.split("/")[0]):
        said = opened_advertisement(way.heard.route.advertisement)
        told = {network.name: network.prefixes for network in said.networks}
        told |= {service.name: tuple(map(host_prefix, service.addresses)) for service in said.services}
        if thing.name in told and takes(state.policy.learn, way.heard.peer, thing.name, told[thing.name]):
            yield way


def candidates(state: State, owner: str) -> list[Candidate]:
    """The ways to a domain that plans may use."""
    ways = []
    for name in state.reaches.by(of_key(owner)):
        heard = state.reaches[name]
        neighbour = state.inventory.domains.get(heard.peer)
        if neighbour is not None and (way := candidate(heard, neighbour, state.inventory.links, state.down)):
            ways.append(way)
    return sorted(ways, key=lambda way: way.order)


def domain_status(state: State, domain: Domain) -> dict[str, Any]:
    """How others say that they lead there; of a neighbour also where it leads, and what it is told."""
    routes: list[dict[str, Any]] = []
    usable = {way.heard.peer: way for way in candidates(state, domain.name)}
    for name in state.routes.by(of_key(domain.name)):
        heard = state.routes[name]
        way = usable.get(heard.peer)
        said = opened_advertisement(heard.route.advertisement)
        shown: dict[str, Any] = {
            "learnt_from": heard.peer,
            "path": list(heard.route.path),
            "in_use": way is not None,
            "trust": heard.route.trust.name.lower(),
            "gateways": [
                {"border": gateway.border, "latency_ms": gateway.latency_us / 1000, "cost": gateway.cost}
                for gateway in heard.route.gateways
            ],
            "networks": [network.name for network in said.networks],
            "services": [service.name for service in said.services],
            "onward": said.onward,
            "edition": heard.edition,
            "expires_s": heard.expires_s,
        }
        routes.append(shown | ({"damped_until_s": heard.damped_s} if heard.damped_s else {}))
    status: dict[str, Any] = {"routes": routes} if routes else {}
    telling = state.tellings.get(domain.name)
    if telling is None:
        return status
    leads_to = sorted(state.reaches[name].route.owner for name in state.reaches.by(from_key(domain.name)))
    status |= {"leads_to": leads_to} if leads_to else {}
    status |= {"told": sorted(telling.said)} if telling.said else {}
    status |= {"routes_ignored": dict(sorted(telling.ignored.items()))} if telling.ignored else {}
    return status | ({"silent": True} if telling.silent else {})
