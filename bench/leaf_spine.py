"""A whole controller in this process, for a domain of leaves and spines whose nodes do at once what they are told.

The shell, the core, the store (on disk) and the history are the real ones. Not there: REST, P4Runtime, other domains.
What the core hands to a node's session is taken and confirmed; so work that only a session does (encoding, writing) is
not counted.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from controller import reconcile
from controller.language.policy import parse_policy
from controller.model.agreement import Envelope
from controller.model.event import Applied, NodeDescribed, NodeSynced, SyncNode
from controller.model.intent import Ports, Value
from controller.model.inventory import Attachment, Domain, Link, LinkEnd, Network, Node, Service
from controller.model.stitch import Stage
from controller.shell import Shell
from controller.store.sqlite import SqliteStore
from dataplane.host_api import HostState, NodeDescription, PortRole, PortStatus

OWN = "shop"
FIRST_HOST_PORT = 100


class Size(msgspec.Struct, frozen=True):
    leaves: int
    spines: int
    hosts: int
    """Half of them customers, half of them services; each network is a half of a pod."""
    pods: int = 1
    """Into which leaves and hosts are divided evenly."""

    @property
    def pod_leaves(self) -> int:
        return self.leaves // self.pods

    @property
    def pod_half(self) -> int:
        return self.hosts // self.pods // 2


class Keys:
    """Of a domain that has no neighbours."""

    public_key = "A" * 43 + "="

    def sign(self, data: bytes) -> bytes:
        raise NotImplementedError

    def verify(self, domain_key: str, data: bytes, signature: bytes) -> bool:
        raise NotImplementedError


def described(name: str, number: int, roles: Mapping[int, PortRole], down: Collection[int] = ()) -> NodeDescription:
    """What the agent of a node with these ports says; `down`: those without a carrier."""
    return NodeDescription(
        name=name,
        software="bench",
        wireguard="none",
        boot_epoch_s=1_700_000_000,
        layout="bench",
        ports=tuple(
            PortStatus(
                number=port,
                interface=f"p{port}",
                role=role,
                mac=f"02:00:{number >> 8:02x}:{number & 255:02x}:{port >> 8:02x}:{port & 255:02x}",
                mtu=9000,
                carrier=port not in down,
            )
            for port, role in roles.items()
        ),
        borders=(),
        host_state=HostState(),
    )


def inventory(size: Size) -> tuple[Applied, ...]:
    values: list[Value] = [Domain(name=OWN, sid_block="5f00:1::/32", own=True, key=Keys.public_key)]
    for number, (name, role) in enumerate(_nodes(size), 1):
        values.append(Node(name=name, role=role, locator=f"5f00:1:{number:x}::/48", agent=f"unix:/run/{name}"))
    for leaf in range(size.leaves):
        for spine in range(size.spines):
            a, b = LinkEnd(node=f"leaf{leaf}", port=spine + 1), LinkEnd(node=f"spine{spine}", port=leaf + 1)
            values.append(
                Link(name=link_name(leaf, spine), a=a, b=b, delay_us=100, rate_bps=10**10, loss_percent=0.0, mtu=9000)
            )
    for pod in range(size.pods):
        for network, block, first in ((_customers(pod), 10, 0), (_services(pod), 11, size.pod_half)):
            hosts = range(first, first + size.pod_half)
            values.append(
                Network(
                    name=network,
                    prefixes=(f"{block}.{pod}.0.0/16",),
                    gateways=(f"{block}.{pod}.255.254",),
                    attachments=tuple(_attachment(size, pod, block, host) for host in hosts),
                    tenants=("bench", "another"),
                )
            )
        for host in range(size.pod_half, 2 * size.pod_half):
            ports = (Ports(protocol="tcp", first=443, last=443),)
            name = f"{_services(pod)}/s{host - size.pod_half}"
            values.append(Service(name=name, addresses=(_address(11, pod, host),), ports=ports, tenants=("*",)))
    return tuple(Applied(kind=type(value).__name__, content=msgspec.json.encode(value)) for value in values)


def intent(size: Size, number: int) -> dict[str, Any]:
    """The manifest of one customer that reaches one service; each number is another pair."""
    pod, place = number % size.pods, number // size.pods
    customer, lap = place % size.pod_half, place // size.pod_half
    service = (customer * 7 + lap) % size.pod_half
    customers, services = _customers(pod), _services(pod)
    allow = {"from": {"network": customers, "select": {"app": f"h{customer}"}}, "to": f"{services}/s{service}"}
    return {
        "apiVersion": "netstitch/v1",
        "kind": "Intent",
        "metadata": {"name": f"i{number}", "tenant": "bench"},
        "spec": {"allow": [allow]},
    }


def link_name(leaf: int, spine: int) -> str:
    return f"leaf{leaf}-spine{spine}"


def _nodes(size: Size) -> list[tuple[str, str]]:
    leaves = [(f"leaf{number}", "edge") for number in range(size.leaves)]
    return leaves + [(f"spine{number}", "transit") for number in range(size.spines)]


def _attachment(size: Size, pod: int, block: int, host: int) -> Attachment:
    return Attachment(
        name=f"h{host}",
        node=f"leaf{pod * size.pod_leaves + host % size.pod_leaves}",
        port=FIRST_HOST_PORT + host // size.pod_leaves,
        addresses=(_address(block, pod, host),),
        labels=(("app", f"h{host}"),),
    )


def _customers(pod: int) -> str:
    return f"{OWN}/customers{pod}"


def _services(pod: int) -> str:
    return f"{OWN}/services{pod}"


def _address(block: int, pod: int, host: int) -> str:
    return f"{block}.{pod}.{host // 250}.{host % 250 + 1}"


class Nodes:
    """The southbound of a controller whose nodes confirm at once whatever they are told."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: set[str] = set()
        self._names = [name for name, _ in _nodes(size)]
        self.shell: Shell
        self.syncs = 0
        self.sent_s = 0.0
        """CPU time of this process when a node was last told something."""

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    async def reported(self) -> None:
        await asyncio.gather(*self._tasks)

    def connect(self, node: str, agent: str) -> None:
        self._report(NodeDescribed(node=node, description=self._description(node)))

    def disconnect(self, node: str) -> None:
        raise NotImplementedError

    def sync(self, wanted: SyncNode) -> None:
        self.syncs += not wanted.audit
        self.sent_s = time.process_time()
        self._report(NodeSynced(node=wanted.node, generation=wanted.generation, writes=1))

    def cut(self, leaf: int, spine: int) -> None:
        self._cut.add(link_name(leaf, spine))
        for node in (f"leaf{leaf}", f"spine{spine}"):
            self.connect(node, "")

    def _report(self, event: NodeDescribed | NodeSynced) -> None:
        task = asyncio.get_running_loop().create_task(self.shell.report(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _description(self, node: str) -> NodeDescription:
        number = self._names.index(node) + 1
        if node.startswith("leaf"):
            leaf = int(node.removeprefix("leaf"))
            links = {spine + 1: link_name(leaf, spine) for spine in range(self._size.spines)}
            hosts = range(FIRST_HOST_PORT, FIRST_HOST_PORT + math.ceil(self._size.hosts / self._size.leaves))
        else:
            spine = int(node.removeprefix("spine"))
            links = {leaf + 1: link_name(leaf, spine) for leaf in range(self._size.leaves)}
            hosts = range(0)
        roles = dict.fromkeys(links, PortRole.FABRIC) | dict.fromkeys(hosts, PortRole.ATTACHMENT)
        down = {port for port, link in links.items() if link in self._cut}
        return described(node, number, roles, down)


class NoNeighbours:
    def set_domains(self, domains: Mapping[str, Domain]) -> None:
        """There are none."""

    def send(self, peer: str, message_id: str, message: Envelope) -> None:
        raise NotImplementedError


@asynccontextmanager
async def controller(size: Size, directory: Path) -> AsyncIterator[tuple[Shell, Nodes]]:
    """Its inventory is applied, and its nodes are there."""
    store = await SqliteStore.open(directory / "store.sqlite")
    try:
        policy = parse_policy("accept: []\n", "policy.yaml")
        state, effects = reconcile.initial((), OWN, policy)
        nodes = Nodes(size)
        shell = Shell(state, effects, journal=store, keys=Keys(), log=_no_log)
        nodes.shell = shell
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(shell.run(NoNeighbours(), nodes))
            answer = await shell.apply_values(inventory(size))
            if answer.problems or answer.conflict:
                raise RuntimeError(str(answer))
            await settled(shell, nodes)
            yield shell, nodes
            running.cancel()
    finally:
        await store.close()


async def settled(shell: Shell, nodes: Nodes) -> None:
    """Until all that was told is confirmed and nothing is awaited."""
    while True:
        await nodes.reported()
        await shell.quiet()
        if not nodes.busy and not shell.state.awaiting:
            return


async def apply(shell: Shell, nodes: Nodes, manifests: Sequence[dict[str, Any]]) -> None:
    """Until they are active."""
    answer = await shell.apply(list(manifests), dry_run=False)
    if answer.problems or answer.conflict:
        raise RuntimeError(f"{answer.conflict} {answer.problems[:3]}")
    await settled(shell, nodes)
    for manifest in manifests:
        intent_record = shell.state.intent_records[manifest["metadata"]["name"]]
        stitches = [
            shell.state.stitches.get(connection_status.plan) for connection_status in intent_record.connection_statuses
        ]
        if not all(stitch is not None and stitch.stage == Stage.ACTIVE for stitch in stitches):
            raise RuntimeError(f"{manifest['metadata']['name']} is not active: {intent_record.connection_statuses}")


def _no_log(level: str, event: str, fields: Mapping[str, str]) -> None:
    """A log costs what its receiver does with it."""
