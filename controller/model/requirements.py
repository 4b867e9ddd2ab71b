"""What an intent requires, free of how it is written: who may reach whom, and what must hold on the way."""

import msgspec

from controller.model.agreement import Alias, Flow
from controller.model.intent import Disjoint, Encryption, Prefer, Trust, Value
from controller.model.selection import Selection


class Host(Value, frozen=True, kw_only=True):
    """One attached host of an own network."""

    name: str
    node: str
    port: int
    addresses: tuple[str, ...]
    """Prefixes of full length: 10.1.0.11/32."""


class Isolation(Value, frozen=True, kw_only=True):
    """Nothing else reaches these hosts, they reach nothing else."""

    owner: str
    network: str
    hosts: tuple[Host, ...]
    until_s: int | None = None
    """Unix time of its end, once its intent is in force; None: it has none."""
    silences: bool = False
    """Whatever they send is dropped, though other intents allow it."""


class Waypoint(Value, frozen=True, kw_only=True):
    """A service on the way, at one of our edges. It knows no SRv6: it takes packets as hosts sent them by one of its
    ports, and gives them back by the other."""

    service: str
    network: str
    node: str
    inward: int
    """Port by which what goes to the destination goes in, and replies come out."""
    outward: int
    inward_addresses: tuple[str, ...]
    """Of its host at that port: at most one of IPv4 and one of IPv6."""
    outward_addresses: tuple[str, ...]


class Connection(Value, frozen=True, kw_only=True):
    """Traffic that is to go from one network to another, and its replies."""

    source_network: str
    destination_network: str
    destination_domain: str
    flows: tuple[Flow, ...]
    sources: tuple[Host, ...]
    """Empty: it comes over a border."""
    destinations: tuple[Host, ...]
    """Empty: they are in another domain."""
    latency_us_max: int | None = None
    """For what is left of the way, from here to the destination's edge."""
    encryption: Encryption = Encryption.NONE
    trust_min: Trust | None = None
    loss_ppm_max: int | None = None
    """For what is left of the way."""
    disjoint: Disjoint | None = None
    """Of own paths."""
    avoid_domains: tuple[str, ...] = ()
    avoid_labels: tuple[tuple[str, str], ...] = ()
    """Sorted; of links, nodes and domains."""
    avoid_nodes: tuple[str, ...] = ()
    """Sorted; own ones."""
    include_nodes: tuple[str, ...] = ()
    """Own ones, to pass in this order."""
    via: tuple[Waypoint, ...] = ()
    """To pass in this order, and by replies the other way round."""
    bypasses: bool = False
    """While one of these is down the traffic goes without it; else it stops."""
    prefer: Prefer = Prefer()
    """Decides between ways that hold all of the above."""
    direct: bool = False
    """Through no third domain."""
    dscp: int = 0
    """Code point of the outer headers (RFC 2474)."""
    source_prefixes: tuple[str, ...] = ()
    """Of the source's network, told so that the destination's may know them under others; empty: it may not."""
    destination_aliases: tuple[Alias, ...] = ()
    """Under which prefixes the source's network knows those of the destination's."""
    source_aliases: tuple[Alias, ...] = ()
    """The other way round, where the destination is ours; elsewhere the agreement says it."""

    @property
    def eased(self) -> "Connection":
        """Without what an intent may go on without (`on violation degrade`)."""
        return msgspec.structs.replace(self, latency_us_max=None, loss_ppm_max=None, disjoint=None)


class Requirements(Value, frozen=True, kw_only=True):
    isolation: Isolation | None
    connections: tuple[Connection, ...]
    """Sorted by networks."""
    unmet: tuple["Unsatisfiable", ...] = ()
    """What cannot be met on any way; the connections are then not carried, the isolation holds."""
    origins: tuple["Origin", ...] = ()
    """Of what the connections require, in their order."""
    selections: tuple[Selection, ...] = ()
    """Of the clauses that describe a service; where nothing is chosen there is no connection."""


class Unsatisfiable(Value, frozen=True, kw_only=True):
    """No way holds what is required."""

    binding: str
    """The requirement that cannot be met: latency, trust, encryption, transit, reachability, or another clause's name;
    or what there is no room in: capacity (of a node's table or numbers)."""
    message: str
    """Needed and best found, in words."""
    undecided: bool = False
    """Nothing was found in so many steps, and there may be something."""
    endless: tuple[str, ...] = ()
    """Names of rules that trigger each other without end, if that is why."""


class Origin(Value, frozen=True, kw_only=True):
    """Where a requirement comes from."""

    source_network: str
    destination_network: str
    clause: str
    """latency, encryption, trust, ..."""
    requirement: str
    """In words: `latency <= 30 ms`."""
    origin: str
    """`clause` of the intent, `rule NAME` or `plugin NAME`."""
    explain: str = ""
    """What the rule says why."""
