"""The conflict check of one new intent against 10,000: by the index, and pair by pair."""

import random
import time

from bench.report import Row, row
from bench.slices import Slices
from controller.fulfillment.conflict import against, between
from controller.fulfillment.conflict_index import Claim, Index, Places
from controller.model.intent import Allow, Intent, Ports, Require, Selector, Trust
from controller.model.inventory import Attachment, Domain, Inventory, Network, Service

INTENTS, NEW, PAIRWISE = 10_000, 200, 8
NETWORKS, HOSTS = 40, 200


def rows() -> list[Row]:
    chance = random.Random(3)
    places = Places(inventory())
    index = Index()
    for number in range(INTENTS):
        index.add(claim(places, chance, number))
    new = [claim(places, chance, INTENTS + number) for number in range(NEW)]
    taken = Slices()
    for number, asked in enumerate(new):
        started_s = time.thread_time()
        again = places.claim(asked.intent, serial=asked.serial, start_s=asked.start_s, end_s=asked.end_s)
        of_index = against(again, index, places)
        taken.add("index", (time.thread_time() - started_s) * 1000)
        if number % (NEW // PAIRWISE):
            continue
        started_s = time.thread_time()
        conflicts = [conflict for earlier in index.claims.values() for conflict in between(asked, earlier, places)]
        taken.add("pairs", (time.thread_time() - started_s) * 1000)
        if sorted(map(str, conflicts)) != sorted(map(str, of_index)):
            raise AssertionError(f"index and pairs differ for {asked.intent}")
    # Each intent costs something else, so it is the middle one that is compared, not the quickest.
    median_ms = taken.median("index")
    return [
        row(
            "language.conflict_one_of_10k",
            median_ms,
            "ms",
            better="lower",
            target=100,
            peer="pairwise",
            peer_value=taken.median("pairs"),
            spread=taken.spread("index", "pairs"),
        ),
        row("language.conflict_one_of_10k_median", median_ms, "ms", better="lower", target=5),
    ]


def inventory() -> Inventory:
    """40 networks of 200 hosts; in each two in three of the hosts have a service."""
    networks, services = {}, {}
    for index in range(NETWORKS):
        name = f"shop/n{index}"
        hosts = tuple(
            Attachment(
                name=f"h{host}",
                node="e1",
                port=host + 1,
                addresses=(f"10.{index}.0.{host + 2}",),
                labels=(("app", f"a{host // 4}"), ("host", f"h{host}")),
            )
            for host in range(HOSTS)
        )
        networks[name] = Network(name=name, prefixes=(f"10.{index}.0.0/16",), attachments=hosts)
        for host in range(0, HOSTS, 3):
            ports = (Ports(protocol="tcp", first=443, last=443), Ports(protocol="icmp"))
            service = Service(name=f"{name}/s{host}", addresses=hosts[host].addresses, ports=ports)
            services[service.name] = service
    return Inventory(
        domains={"shop": Domain(name="shop", sid_block="5f00:1::/32", own=True)}, networks=networks, services=services
    )


def claim(places: Places, chance: random.Random, number: int) -> Claim:
    """Hosts of one application or one host, to a service or, now and then, a network; one in twenty isolates."""
    network, other = chance.sample(range(NETWORKS), 2)
    host = chance.randrange(HOSTS)
    label = ("app", f"a{host // 4}") if chance.random() < 0.5 else ("host", f"h{host}")
    source = Selector(network=f"shop/n{network}", labels=(label,))
    service = f"shop/n{other}/s{chance.randrange(0, HOSTS, 3)}"
    to = f"shop/n{other}" if chance.random() < 0.05 else service
    isolates = chance.random() < 0.05
    allow = Allow(to=to, source=None if isolates else source)
    intent = Intent(
        name=f"i{number}",
        tenant=f"t{network}",
        isolate=source if isolates else None,
        allow=(allow,),
        require=Require(trust_min=Trust.OWN) if chance.random() < 0.5 else Require(),
    )
    return places.claim(intent, serial=number, start_s=0, end_s=float("inf"))
