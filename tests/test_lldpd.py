"""A node and a real lldpd hear each other: packet-out, packet-in and XDP, with the entries that a controller makes."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from agents import AgentProcess, Bpffs
from namespaces import Namespace, run, veth
from pipeline_tables import SIZES
from waiting import LIMIT_S, until

from controller.fulfillment.fabric import fabric
from controller.model.event import Discovered, Event, NodeDescribed, SyncNode
from controller.model.inventory import Inventory, Link, LinkEnd, Node
from controller.model.node_entries import NodeEntries, NodeState
from controller.southbound.codec import Codec
from controller.southbound.lldp import REMOTE_SYSTEMS_MAX, Lldpdu, encode
from controller.southbound.node import NodeSession
from controller.southbound.session import SessionContext
from dataplane.host_api import HostState, PortRole
from dataplane.p4runtime import p4info

pytestmark = pytest.mark.root
DECLARED, UNDECLARED, HOSTS = 1, 2, 3


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[AgentProcess, Namespace, Callable[..., str]]]:
    """A node whose declared link leads to a machine with lldpd; the test has the other ports' far ends."""
    pins = Bpffs(tmp_path / "bpf")
    near, far = Namespace("near"), Namespace("far")
    for name in ("l1", "l2", "h1"):
        veth(near, name, far, name)
    roles = {DECLARED: ("l1", PortRole.FABRIC), UNDECLARED: ("l2", PortRole.FABRIC), HOSTS: ("h1", PortRole.ATTACHMENT)}
    agent = AgentProcess(
        near,
        tmp_path / "sg1",
        pins.path,
        ports=[{"number": number, "interface": name, "role": role} for number, (name, role) in roles.items()],
        table_sizes=msgspec.structs.asdict(SIZES),
    )
    place = Path(tempfile.mkdtemp(prefix="stitch-lldpd-"))
    place.chmod(0o755)  # lldpcli becomes the user _lldpd
    control = str(place / "socket")
    Path("/run/lldpd").mkdir(exist_ok=True)  # of its package's unit; what faces the network is shut in there
    with (tmp_path / "lldpd.log").open("wb") as log:
        command = far.command("lldpd", "-d", "-u", control, "-p", str(tmp_path / "pid"), "-I", "l1", "-C", "l1")
        lldpd = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(*words: str) -> str:
        return run("lldpcli", "-u", control, *words)

    try:
        agent.start()
        yield agent, far, ask
    finally:
        lldpd.terminate()
        lldpd.wait(LIMIT_S)
        shutil.rmtree(place)
        agent.remove()
        far.remove()
        near.remove()
        pins.remove()


async def test_a_real_lldpd_is_heard_and_hears_us_and_lies_are_bounded(
    site: tuple[AgentProcess, Namespace, Callable[..., str]],
) -> None:
    agent, far, ask = site
    events: asyncio.Queue[Event] = asyncio.Queue()
    context = SessionContext(
        codec=Codec(p4info.load()),
        next_election_id=iter(range(int(time.time() * 1000), 1 << 60)).__next__,
        report=events.put,
        observe=lambda node, batch: None,
        domain="shop",
    )
    session = NodeSession("sg1", agent.config["listen"], context)
    task = asyncio.create_task(session.run())

    async def event(is_it: Callable[[Event], bool]) -> Event:
        async with asyncio.timeout(LIMIT_S):
            while True:
                found = await events.get()
                if is_it(found):
                    return found

    try:
        described = await event(lambda one: isinstance(one, NodeDescribed))
        assert isinstance(described, NodeDescribed)
        link = Link(
            name="sg1-x",
            a=LinkEnd(node="sg1", port=DECLARED),
            b=LinkEnd(node="x", port=1),
            delay_us=0,
            rate_bps=0,
            loss_percent=0,
            mtu=1500,
        )
        nodes = {
            name: Node(name=name, role="gateway", locator=f"5f00:1:{number}::/48", agent="unix:/none")
            for number, name in enumerate(("sg1", "x"), 1)
        }
        made = fabric(Inventory(nodes=nodes, links={link.name: link}), {"sg1": described.description}, "shop").entries[
            "sg1"
        ]
        session.submit(SyncNode(node="sg1", generation=1, state=NodeState(entries=NodeEntries(made), host=HostState())))

        def said() -> bool:
            with contextlib.suppress(AssertionError, json.JSONDecodeError):
                ask("configure", "lldp", "tx-interval", "1")
                ask("configure", "system", "hostname", "a-real-one")
                shown = json.loads(ask("show", "neighbors", "-f", "json0"))
                return "shop/sg1" in json.dumps(shown)
            return False

        await until(lambda: asyncio.to_thread(said), "lldpd hears us")
        shown = json.loads(ask("show", "neighbors", "-f", "json0"))["lldp"][0]["interface"][0]
        assert shown["chassis"][0]["id"][0] == {"type": "local", "value": "shop/sg1"}
        assert shown["chassis"][0]["name"][0]["value"] == "sg1"
        assert shown["port"][0]["id"][0] == {"type": "local", "value": str(DECLARED)}
        found = await event(
            lambda one: isinstance(one, Discovered) and any(s.system_name == "a-real-one" for s in one.remote_systems)
        )
        assert isinstance(found, Discovered)
        (remote,) = found.remote_systems
        mac = next(line for line in far.ip("-o", "link", "show", "l1").split() if line.count(":") == 5)
        assert (remote.port, remote.port_id, remote.node) == (DECLARED, f"mac:{mac}", "")

        with far.entered():
            wires = {name: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for name in ("l2", "h1")}
        for name, wire in wires.items():
            wire.bind((name, 0))
        with contextlib.ExitStack() as stack:
            for wire in wires.values():
                stack.enter_context(wire)
            for number in range(10_000):
                lie = Lldpdu(chassis_id=f"shop/n{number}", port_id="1", ttl_s=120)
                wires["h1"].send(encode(b"\2\0\0\0\0\1", lie))
                wires["l2"].send(encode(b"\2\0\0\0\0\1", lie))
        found = await event(
            lambda one: (
                isinstance(one, Discovered)
                and sum(s.port == UNDECLARED for s in one.remote_systems) == REMOTE_SYSTEMS_MAX
            )
        )
        assert isinstance(found, Discovered)
        assert sum(s.port == DECLARED for s in found.remote_systems) == 1, "what other ports hear stays"
        assert not any(s.port == HOSTS for s in found.remote_systems), "hosts are not heard"
        assert agent.describe().name == "sg1"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
