"""Whatever a node refuses hurts only its owner: each kind is brought about at a real agent, in one state with what
others own, and taken away again."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import pytest
from agents import AgentProcess, Bpffs
from namespaces import Namespace, veth
from waiting import LIMIT_S, until

from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.model.event import NodeDescribed, NodeRejected, NodeSynced, NodeUnreachable, SyncNode
from controller.model.node_entries import NodeEntries, NodeState
from controller.southbound.codec import Codec
from controller.southbound.node import NodeSession
from controller.southbound.p4runtime import P4RuntimeClient
from controller.southbound.session import SessionContext
from dataplane.host_api import Gateway, HostReport, HostState, Tunnel
from dataplane.p4runtime import p4info
from dataplane.tables.layout import MASKS

pytestmark = pytest.mark.root
KEYS = {
    "b1": "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    "b2": "aDp1qigymSniyTGZtrgWr+uUAlqMOK7Qr+JpYK60F3I=",
    "b3": "cb148jA1vsuBI0TqQ2ZWRgUg01FeqsRB0BxMnkRyYR8=",
    "big": "VUllj7V9J4aAVhQCZzb8nLKks1cnad9xgIYAEtr3nHk=",
}
PEERS = {"b1": "192.0.2.2:51001", "b2": "[2001:db8:ff::2]:51002", "b3": "192.0.2.10:51003", "big": "192.0.2.14:51004"}
ADDRESSES = {"b1": "192.0.2.1/30", "b2": "2001:db8:ff::1/64", "b3": "192.0.2.9/30", "big": "192.0.2.13/30"}
INVALID, OTHERS = "intents/invalid", "intents/others"
WRAPPER = """#!/bin/sh
for last; do :; done
[ -e {directory}/dies-$last ] && {{ echo "cannot open /dev/net/tun"; exit 1; }}
[ -e {directory}/hangs-$last ] && exec sleep 100
exec {binary} "$@"
"""


def tunnel(border: str, **changed: object) -> Tunnel:
    given = {
        "peer_public_key": KEYS.get(border, KEYS["b2"]),
        "peer_endpoint": PEERS.get(border, "192.0.2.99:1"),
        "allowed_ips": ("5f00:2::/32",),
    }
    return Tunnel(border=border, **(given | changed))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Site:
    """A node with hosts at ports 2 and 3 and three borders, led by a session of a controller."""

    agent: AgentProcess
    namespace: Namespace
    directory: Path
    session: NodeSession
    events: "asyncio.Queue[NodeDescribed | NodeUnreachable | NodeSynced | NodeRejected]"
    generations: Iterator[int]

    async def make(self, entries: tuple[OwnedEntry, ...], host: HostState) -> tuple[dict[str, str], float]:
        """What was refused, by part, and how long it took."""
        generation = next(self.generations)
        while not self.events.empty():
            self.events.get_nowait()
        clock = asyncio.get_running_loop().time
        begun = clock()
        self.session.submit(
            SyncNode(
                node="sg1",
                generation=generation,
                state=NodeState(entries=NodeEntries(entries), host=host),
                audit=False,
            )
        )
        async with asyncio.timeout(LIMIT_S):
            while True:
                event = await self.events.get()
                assert not isinstance(event, NodeUnreachable), event
                if isinstance(event, NodeSynced | NodeRejected) and event.generation == generation:
                    break
        taken_s = clock() - begun
        if isinstance(event, NodeSynced):
            return {}, taken_s
        assert event.refused is not None, event
        return {each.part: each.reason for each in event.refused}, taken_s

    async def make_until_whole(self, entries: tuple[OwnedEntry, ...], host: HostState) -> None:
        async def whole() -> bool:
            return not (await self.make(entries, host))[0]

        await until(whole, "nothing is refused any more")

    def processes(self, device: str) -> list[int]:
        """That serve a device."""
        return [pid for pid in self.namespace.processes() if device in Path(f"/proc/{pid}/cmdline").read_text()]

    def present(self) -> HostState:
        return self.agent.describe().host_state


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, Namespace, Path]]:
    directory = tmp_path_factory.mktemp("refusals")
    binaries = directory / "bin"
    binaries.mkdir()
    program = subprocess.run(["which", "wireguard-go"], capture_output=True, text=True, check=True).stdout.strip()
    (binaries / "wireguard-go").write_text(WRAPPER.format(directory=directory, binary=program))
    (binaries / "wireguard-go").chmod(0o755)
    pins = Bpffs(directory / "bpf")
    namespace, far = Namespace("refuses"), Namespace("refused")
    for name in ("cx1", "cy1", "b1", "b2", "b3", "big"):
        veth(namespace, name, far, name)
    agent = AgentProcess(
        namespace,
        directory / "sg1",
        pins.path,
        ports=[{"number": n, "interface": name, "role": "attachment"} for n, name in ((2, "cx1"), (3, "cy1"))],
        borders=[
            {
                "name": name,
                "port": 100 + place,
                "interface": name,
                "address": address,
                "listen_port": 51001 + place,
                "mtu": 9000 if name == "big" else 1420,
            }
            for place, (name, address) in enumerate(ADDRESSES.items())
        ],
    )
    path = os.environ["PATH"]
    try:
        os.environ["PATH"] = f"{binaries}:{path}"
        agent.config["table_sizes"] = SIZES
        agent.start()
        yield agent, namespace, directory
    finally:
        os.environ["PATH"] = path
        agent.remove()
        far.remove()
        namespace.remove()
        pins.remove()


@pytest.fixture
async def site(served: tuple[AgentProcess, Namespace, Path]) -> AsyncIterator[Site]:
    agent, namespace, directory = served
    events: asyncio.Queue[NodeDescribed | NodeUnreachable | NodeSynced | NodeRejected] = asyncio.Queue()
    context = SessionContext(
        codec=Codec(p4info.load()),
        next_election_id=iter(range(int(asyncio.get_running_loop().time() * 1000), 1 << 60)).__next__,
        report=events.put,
        observe=lambda node, batch: None,
        domain="shop",
    )
    session = NodeSession("sg1", agent.config["listen"], context)
    task = asyncio.create_task(session.run())
    made = Site(agent, namespace, directory, session, events, iter(range(1, 1000)))
    try:
        await made.make((), HostState())
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


Undo = Callable[[], object]


def nothing(site: Site) -> Undo:
    return lambda: None


def file(name: str) -> Callable[[Site], Undo]:
    def make(site: Site) -> Undo:
        (site.directory / name).touch()
        return (site.directory / name).unlink

    return make


def no_underlay(site: Site) -> Undo:
    site.namespace.ip("link", "set", "b2", "name", "away")
    return lambda: site.namespace.ip("link", "set", "away", "name", "b2")


def no_addresses(site: Site) -> Undo:
    setting = "net.ipv6.conf.b2.disable_ipv6"
    site.namespace.run("sysctl", "-qw", f"{setting}=1")
    return lambda: site.namespace.run("sysctl", "-qw", f"{setting}=0")


def taken(name: str, kind: str) -> Callable[[Site], Undo]:
    def make(site: Site) -> Undo:
        site.namespace.ip("link", "add", name, "type", kind)
        return lambda: site.namespace.ip("link", "del", name)

    return make


def port_in_use(site: Site) -> Undo:
    with site.namespace.entered():
        blocker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        blocker.bind(("::", 51002))
    return blocker.close


TUNNELS: dict[str, tuple[Callable[[Site], Undo], Tunnel, str]] = {
    "no such border": (nothing, tunnel("b9"), "no such border"),
    "key": (nothing, tunnel("b2", peer_public_key="short"), "peer_public_key"),
    "allowed prefixes": (nothing, tunnel("b2", allowed_ips=("5f00::1/16",)), "allowed_ips"),
    "key of low order": (nothing, tunnel("b2", peer_public_key="A" * 43 + "="), "the key is of low order"),
    "key of another border": (nothing, tunnel("b2", peer_public_key=KEYS["b1"]), "its key is that of tunnel b1"),
    "our own address": (nothing, tunnel("b2", peer_endpoint="[2001:db8:ff::1]:51002"), "is our own"),
    "address by another link": (nothing, tunnel("b2", peer_endpoint="192.0.2.10:51002"), "is not on the border's link"),
    "loopback": (nothing, tunnel("b2", peer_endpoint="[::1]:51002"), "is the address of no neighbour"),
    "multicast": (nothing, tunnel("b2", peer_endpoint="[ff02::1]:51002"), "is the address of no neighbour"),
    "broadcast": (nothing, tunnel("big", peer_endpoint="192.0.2.15:51004"), "is the address of no neighbour"),
    "underlay that is away": (no_underlay, tunnel("b2"), "there is no interface b2"),
    "address that the kernel does not take": (no_addresses, tunnel("b2"), "the kernel refused a part of it"),
    "name of the device is taken": (taken("wg-b2", "bridge"), tunnel("b2"), "wg-b2"),
    "name of the pair is taken": (taken("k-b2", "bridge"), tunnel("b2"), "k-b2 is somebody else's (bridge)"),
    "UDP port in use": (port_in_use, tunnel("b2"), "refused the configuration of wg-b2"),
    "wireguard-go dies": (file("dies-wg-b2"), tunnel("b2"), "wireguard-go did not start for wg-b2: cannot open"),
    "wireguard-go hangs": (file("hangs-wg-b2"), tunnel("b2"), "wireguard-go of wg-b2 has not started yet"),
    "MTU that the pipeline does not take": (nothing, tunnel("big"), "tunnel big: "),
}
GATEWAYS = {
    "no such port": (Gateway(port=77, ipv4="10.9.0.1"), "not an attachment"),
    "border's port": (Gateway(port=100, ipv4="10.9.0.1"), "not an attachment"),
    "IPv4 address": (Gateway(port=2, ipv4="10.9.0.256"), "gateway on port 2"),
    "IPv6 address": (Gateway(port=2, ipv6="2001:db8:::1"), "gateway on port 2"),
}
GOOD = Gateway(port=3, ipv4="10.2.0.1", ipv6="")


def steer(number: int, owner: str = OTHERS) -> OwnedEntry:
    match = (Match(field="forwarding_class", value=number),)
    return owned_entry(table="steer", match=match, action="deliver", params=(("vrf", 9),), owner=owner)


@pytest.mark.parametrize("kind", TUNNELS)
async def test_a_tunnel_that_cannot_be_hurts_only_itself(site: Site, kind: str) -> None:
    break_it, wrong, reason = TUNNELS[kind]
    part = f"tunnels/{wrong.border}"
    if "wireguard-go" in kind and site.agent.describe().wireguard != "wireguard-go":
        break_it, wrong, reason = TUNNELS["underlay that is away"]
    undo = break_it(site)
    try:
        state = HostState(gateways=(GOOD,), tunnels=(tunnel("b1"), wrong, tunnel("b3")))
        refused, taken_s = await site.make((steer(5),), state)
        assert list(refused) == [part] and reason in refused[part]
        present = site.present()
        assert {tunnel.border for tunnel in present.tunnels} >= {"b1", "b3"} and present.gateways == (GOOD,)
        print(f"{kind}: others after {taken_s:.2f} s: {refused[part]}")
        # Others come and go all the while.
        refused, _ = await site.make((steer(6),), HostState(tunnels=(wrong, tunnel("b3"))))
        assert list(refused) == [part]
        assert "b1" not in {tunnel.border for tunnel in site.present().tunnels}
    finally:
        undo()
    healed = HostState(tunnels=(tunnel("b2"), tunnel("b3")))
    await site.make_until_whole((steer(6),), healed)
    assert {tunnel.border for tunnel in site.present().tunnels} == {"b2", "b3"}


async def test_a_tunnel_named_twice_hurts_only_itself(site: Site) -> None:
    state = HostState(gateways=(GOOD,), tunnels=(tunnel("b1"), tunnel("b2"), tunnel("b2"), tunnel("b3")))
    (refused,) = site.agent.ask("Sync", state, HostReport).refused
    assert refused.part == "tunnels/b2" and "named twice" in refused.reason
    assert {tunnel.border for tunnel in site.present().tunnels} == {"b1", "b3"}


async def test_wireguard_go_that_does_not_answer_hurts_only_its_tunnel_and_is_made_anew(site: Site) -> None:
    if site.agent.describe().wireguard != "wireguard-go":
        return  # the kernel answers always
    await site.make((), HostState(tunnels=(tunnel("b1"), tunnel("b2"))))
    stopped = site.processes("wg-b2")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    state = HostState(gateways=(GOOD,), tunnels=(tunnel("b1"), tunnel("b2"), tunnel("b3")))
    refused, taken_s = await site.make((steer(5),), state)
    assert "does not answer" in refused["tunnels/b2"] and list(refused) == ["tunnels/b2"]
    print(f"wireguard-go that does not answer: others after {taken_s:.2f} s")
    assert {tunnel.border for tunnel in site.present().tunnels} == {"b1", "b3"}
    await site.make_until_whole((steer(5),), state)
    assert {tunnel.border for tunnel in site.present().tunnels} == {"b1", "b2", "b3"}
    assert stopped and not set(stopped) & set(site.processes("wg-b2"))


@pytest.mark.parametrize("kind", GATEWAYS)
async def test_a_gateway_that_cannot_be_hurts_only_itself(site: Site, kind: str) -> None:
    wrong, reason = GATEWAYS[kind]
    part = f"ports/{wrong.port}"
    refused, _ = await site.make((steer(5),), HostState(gateways=(wrong, GOOD), tunnels=(tunnel("b1"),)))
    assert list(refused) == [part] and reason in refused[part]
    assert site.present().gateways == (GOOD,) and [tunnel.border for tunnel in site.present().tunnels] == ["b1"]
    assert (await site.make((), HostState(gateways=(GOOD,))))[0] == {}


# ---- tables


def entry(
    table: str, action: str, match: tuple[Match, ...], priority: int = 0, owner: str = INVALID, **params: int
) -> OwnedEntry:
    return owned_entry(
        table=table, action=action, match=match, priority=priority, params=tuple(params.items()), owner=owner
    )


def exact(**fields: int) -> tuple[Match, ...]:
    return tuple(Match(field=name, value=value) for name, value in fields.items())


def longest(field: str, value: int) -> Match:
    return Match(field=field, value=value, prefix_length=128)


def hop(number: int, owner: str = INVALID) -> OwnedEntry:
    numbers = {"port": 1, "source_mac": 2, "destination_mac": 4, "vlan": 0}
    return entry("next_hop", "forward", exact(next_hop=number), owner=owner, **numbers)


def candidate(number: int, live: int, priority: int, merge_bits: int = 16) -> OwnedEntry:
    containers = {f"container_{place}": 0x5F00 << 112 if place == 0 else 0 for place in range(4)}
    given = {"source": 1, "color": 1, "first_hop": 1, "last_container": 0, "merge_bits": merge_bits, **containers}
    match = (*exact(sr_policy=number), Match(field="live", value=live, mask=live))
    return entry("sr_policy", "h_encaps", match, priority, **given)


def policy(policy_class: int, field: str, value: int, mask: int) -> OwnedEntry:
    match = (*exact(policy_class=policy_class), Match(field=field, value=value, mask=mask))
    return entry("flow_policy", "permit", match, 1, forwarding_class=1)


def ports(table: str, protocol: int, first: int, number: int = 1) -> OwnedEntry:
    match = (*exact(protocol=protocol), Match(field="port", value=first, high=first))
    return entry(table, f"set_{table}", match, 1, port_class=number)


def punted(ether_type: int, mask: int = 0xFFFF) -> OwnedEntry:
    return entry("punt_frame", "punt", (Match(field="ether_type", value=ether_type, mask=mask),), 1, reason=1)


def translations(what: str) -> list[OwnedEntry]:
    keys = ((*exact(forwarding_class=9), longest("address", n)) for n in range(1025))
    return [entry(f"translate_{what}", f"move_{what}", key, prefix=0, host_mask=0) for key in keys]


SIZES = {
    "forwarding_classes": 4096,
    "flow_policies": 1024,
    "prefixes": 1024,
    "sr_policies": 64,
    "policy_classes": 1024,
    "local_sids": 1024,
}
"""Of the agent's tables: larger ones take seconds to fill."""
FULL: dict[str, Callable[[], list[OwnedEntry]]] = {
    "attachment": lambda: [
        entry("attachment", "attach", exact(ingress_port=1 + n % 500, vlan_id=n // 500), vrf=9, policy_class=9)
        for n in range(1025)
    ],
    "punt_frame": lambda: [punted(0x9000 + n) for n in range(65)],
    "source_guard": lambda: [
        entry("source_guard", "admit", (*exact(ingress_port=9), longest("source", n))) for n in range(1025)
    ],
    "local_sid": lambda: [
        entry("local_sid", "end", (*exact(ingress_class=9), longest("destination", n))) for n in range(1025)
    ],
    "source_group": lambda: [
        entry("source_group", "set_source_group", (*exact(vrf=9), longest("address", n)), group=n) for n in range(1025)
    ],
    "destination_group": lambda: [
        entry("destination_group", "set_destination_group", (*exact(vrf=9), longest("address", n)), group=n)
        for n in range(1025)
    ],
    "source_port_class": lambda: [ports("source_port_class", 6, n) for n in range(4097)],
    "destination_port_class": lambda: [ports("destination_port_class", 17, n) for n in range(4097)],
    "flow_policy": lambda: [policy(9, "source_group", n, 0xFFFF) for n in range(1025)],
    "route": lambda: [
        entry("route", "set_next_hop", (*exact(vrf=9), longest("destination", n)), next_hop=1) for n in range(1025)
    ],
    "translate_source": lambda: translations("source"),
    "translate_destination": lambda: translations("destination"),
}


TABLES: dict[str, Callable[[], list[OwnedEntry]]] = {
    "attachment: policy class out of range": lambda: [
        entry("attachment", "attach", exact(ingress_port=9, vlan_id=0), vrf=9, policy_class=65535)
    ],
    "punt_frame: more masks than there are": lambda: [punted(0x8000, 0x8000 + n) for n in range(MASKS + 1)],
    "destination_port_class: a fifth protocol": lambda: [
        ports("destination_port_class", n, 1) for n in (1, 6, 17, 33, 132)
    ],
    "flow_policy: more masks than there are": lambda: [
        policy(9, "source_group", 0x8000, 0x8000 + n) for n in range(MASKS + 1)
    ],
    "lease: no such forwarding class": lambda: [
        entry("lease", "expire_at", exact(forwarding_class=5000), boottime_s=1)
    ],
    "steer: no such forwarding class": lambda: [steer(5000, INVALID)],
    "path_liveness: no such group": lambda: [entry("path_liveness", "set_live", exact(liveness_group=5000), live=1)],
    "sr_policy: no such policy": lambda: [candidate(5000, 1, 8)],
    "sr_policy: no such shift": lambda: [candidate(1, 1, 8, merge_bits=96)],
    "sr_policy: not one bit": lambda: [candidate(1, 3, 8)],
    "next_hop: no such one": lambda: [hop(5000)],
    "neighbor: a port that has no room": lambda: [entry("neighbor", "set_mac", exact(port=512, address=1), mac=2)],
    "a table that the P4Info has not": lambda: [entry("colour", "paint", exact(forwarding_class=1))],
    "a number that has no room": lambda: [entry("lease", "expire_at", exact(forwarding_class=1), boottime_s=1 << 40)],
    "two that want different things": lambda: [
        steer(7, "intents/a"),
        entry(
            "steer",
            "encapsulate",
            exact(forwarding_class=7),
            sr_policy=1,
            liveness_group=1,
            service_sid=1,
            dscp=0,
            inner_mtu=0,
        ),
    ],
}


def test_every_table_has_a_kind() -> None:
    assert {kind.partition(":")[0] for kind in (*TABLES, *FULL)} >= {table.name for table in p4info.load().tables}


async def test_tables_that_are_full_hurt_only_those_who_want_more_of_them(site: Site) -> None:
    others = (hop(3, OTHERS), steer(5))
    state = HostState(gateways=(GOOD,))
    too_many = [
        msgspec.structs.replace(wanted, owner=f"intents/{name}") for name, make in FULL.items() for wanted in make()
    ]
    refused, taken_s = await site.make((*others, *too_many), state)
    assert refused.keys() == {f"intents/{name}" for name in FULL}
    for name in FULL:
        assert f"resource_exhausted {name}: is full" in refused[f"intents/{name}"]
    print(f"{len(too_many)} entries, others after {taken_s:.2f} s")
    assert await values_in(site, "steer", "forwarding_class") == {5} and await values_in(
        site, "next_hop", "next_hop"
    ) == {3}
    assert (await site.make(others, state))[0] == {}


@pytest.mark.parametrize("kind", TABLES)
async def test_an_entry_that_is_refused_hurts_only_its_owner(site: Site, kind: str) -> None:
    make = TABLES[kind]
    others = (hop(3, OTHERS), steer(5), steer(6))
    state = HostState(gateways=(GOOD,))
    await site.make(others[:2], state)
    refused, taken_s = await site.make((*others, *make()), state)
    assert list(refused) == [INVALID], refused
    print(f"{kind}: others after {taken_s:.2f} s: {refused[INVALID][:150]}")
    assert await values_in(site, "steer", "forwarding_class") >= {5, 6}
    assert await values_in(site, "next_hop", "next_hop") >= {3}
    # What others have changes and goes meanwhile.
    refused, _ = await site.make((others[0], steer(6), *make()), state)
    assert list(refused) == [INVALID]
    assert 5 not in await values_in(site, "steer", "forwarding_class")
    # And it heals by itself.
    assert (await site.make(others, state))[0] == {}


async def values_in(site: Site, table: str, field: str) -> set[int]:
    async with grpc.aio.insecure_channel(site.agent.config["listen"]) as channel:
        rows = await P4RuntimeClient("sg1", channel, Codec(p4info.load()), 0).read((table,))
    return {match.value for key in rows for match in key[1] if match.field == field}
