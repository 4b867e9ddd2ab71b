"""A topology as Mininet nodes in namespaces of their own.

Hosts attach to nodes by veth. Links between nodes are TAP pairs of the relay, always: XDP redirect bypasses the
qdiscs of the device it sends to, so netem there would silently not delay.

Nothing is ever made in the root namespace, so names need to be unique in a node only, and two labs do not meet.
"""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mininet.link import Link as MininetLink
from mininet.net import Mininet
from mininet.node import Node as MininetNode

from topologies.errors import LabError
from topologies.relay import Relay, TapEnd
from topologies.topology import Host, Link, Node, Port, Topology

WIREGUARD_SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go puts its sockets, by device name; each node gets a directory of its own there."""

_HOST_MTU = 1500
_WORKERS = 4
_FIRST_IFINDEX = 1000

_SYSCTLS = (
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv6.conf.all.accept_ra=0",
    "net.ipv6.conf.default.accept_ra=0",
    "net.ipv6.conf.default.router_solicitations=0",
)
_FORWARDING_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.forwarding=1",
)
# Between nodes no address is taken twice; hosts look before they take one, though not for those that they begin with.
_NODE_SYSCTLS = (*_FORWARDING_SYSCTLS, "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
# Each of the two interfaces has an address of the same prefix.
_TWO_INTERFACES_SYSCTLS = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")

# Forwarding in the kernel is for tunnels only: decrypted packets go into the pipeline by `k-*`, and what the pipeline
# sends to a neighbour comes from there. The agent has a table of its own; this one holds before it started.
_NODE_RULES = """
table inet netstitch_lab {
	chain forward {
		type filter hook forward priority filter; policy drop;
		iifname "wg-*" oifname "k-*" accept
		iifname "wh-*" oifname "k-*" accept
		iifname "k-*" oifname "wg-*" accept
		iifname "k-*" oifname "wh-*" accept
	}
}
"""
_FIREWALL_RULES = """
table inet firewall {
	chain forward {
		type filter hook forward priority filter; policy drop;
		iifname "%(a)s" oifname "%(b)s" counter accept
		iifname "%(b)s" oifname "%(a)s" counter accept
	}
}
"""


class _VethLink(MininetLink):
    """A veth pair whose ends are made in their namespaces and never were in another."""

    @classmethod
    def makeIntfPair(  # noqa: N802
        cls,
        intfname1: str,
        intfname2: str,
        addr1: str | None = None,
        addr2: str | None = None,
        node1: MininetNode | None = None,
        node2: MininetNode | None = None,
        deleteIntfs: bool = True,  # noqa: N803
    ) -> None:
        """Ends get different ifindexes: with equal ones the kernel reports carrier changes late."""
        assert node1 is not None and node2 is not None
        first = _FIRST_IFINDEX + 2 * len(node2.intfs)
        ends = [
            f"name {name} index {index} address {mac} mtu {_HOST_MTU} netns {node.pid}".split()
            for name, index, mac, node in ((intfname1, first, addr1, node1), (intfname2, first + 1, addr2, node2))
        ]
        _run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], f"veth {intfname1}-{intfname2}")


class _RelayLink(MininetLink):
    """The interfaces are there already: the relay made them."""

    @classmethod
    def makeIntfPair(cls, *_names: object, **_rest: object) -> None:  # noqa: N802
        pass


class Emulation:
    """The namespaces of a lab; they live as long as this process, the relay, or anything started in them."""

    def __init__(self, topology: Topology, directory: Path, relay: Relay) -> None:
        self._topology = topology
        self._directory = directory
        self._relay = relay
        # Instead of Mininet.init(), which sets sysctls of the whole machine.
        Mininet.inited = True
        self._net = Mininet(build=False, controller=None)
        self.processes: dict[str, int] = {}
        """A process in the namespaces of each host and node."""

    def start(self, say: Callable[[str], None]) -> None:
        """Raises LabError; what was made until then goes when the processes go."""
        hosts, nodes = self._topology.hosts, self._topology.nodes
        say(f"{len(hosts)} hosts and {len(nodes)} nodes, each in a namespace")
        for name in (*(host.name for host in hosts), *(node.name for node in nodes)):
            self.processes[name] = self._net.addHost(name, cls=MininetNode, inNamespace=True).pid
        self._run_everywhere(self._preparation)
        say(f"{len(self._topology.links)} links through the relay, {len(list(self._attachments()))} veths to hosts")
        macs = (f"02:4e:53:00:{n >> 8:02x}:{n & 255:02x}" for n in range(1, 65536))
        for link in self._topology.links:
            self._add_link(link, next(macs), next(macs))
        for host, port in self._attachments():
            self._attach(host, port, next(macs), next(macs))
        self._run_everywhere(self._completion)

    def stop(self) -> None:
        self._net.stop()

    def _add_link(self, link: Link, mac_a: str, mac_b: str) -> None:
        a, b = link.a.node, link.b.node
        self._relay.add(
            link.name,
            TapEnd(process=self.processes[a], device=b, mac=mac_a),
            TapEnd(process=self.processes[b], device=a, mac=mac_b),
            link.mtu,
        )
        self._relay.set(
            link.name,
            delay_us=round(link.delay_ms * 1000),
            rate_kbit=round(link.rate_mbit * 1000),
            loss_ppm=round(link.loss_percent * 10_000),
        )
        self._net.addLink(a, b, cls=_RelayLink, intfName1=b, intfName2=a, addr1=mac_a, addr2=mac_b)

    def _attach(self, host: Host, port: Port, mac_host: str, mac_node: str) -> None:
        assert port.host_interface is not None
        self._net.addLink(
            host.name,
            port.host_interface.node,
            cls=_VethLink,
            intfName1=port.host_interface.name,
            intfName2=port.interface,
            addr1=mac_host,
            addr2=mac_node,
        )

    def _attachments(self) -> Iterator[tuple[Host, Port]]:
        for node in self._topology.nodes:
            for port in self._topology.ports(node.name):
                if port.host is not None:
                    yield port.host, port

    def _run_everywhere(self, script: Callable[[Host | Node], str]) -> None:
        def run(place: Host | Node) -> None:
            command = ["mnexec", "-a", str(self.processes[place.name]), "sh", "-eu"]
            _run(command, f"setting up {place.name}", script(place))

        with ThreadPoolExecutor(_WORKERS) as executor:
            for _ in executor.map(run, (*self._topology.hosts, *self._topology.nodes)):
                pass

    def _preparation(self, place: Host | Node) -> str:
        """Before there are interfaces, which inherit the settings."""
        sysctls: tuple[str, ...] = _SYSCTLS
        if isinstance(place, Node):
            sysctls += _NODE_SYSCTLS
        elif place.forward:
            sysctls += _FORWARDING_SYSCTLS + _TWO_INTERFACES_SYSCTLS
        lines = [f"sysctl -qw {' '.join(sysctls)}", "ip link set dev lo up"]
        if isinstance(place, Node):
            directory = self._directory / place.name
            lines += [
                f"mount -t bpf -o mode=0700 bpf {directory}/bpf",
                f"mount --bind {directory}/wireguard {WIREGUARD_SOCKETS.resolve()}",
                f"nft -f - <<'RULES'{_NODE_RULES}RULES",
            ]
        return "\n".join(lines)

    def _completion(self, place: Host | Node) -> str:
        match place:
            case Host():
                return "\n".join(self._host_commands(place))
            case Node():
                return "\n".join(self._node_commands(place))

    def _host_commands(self, host: Host) -> Iterator[str]:
        gateways = self._topology.network(host.network).gateways
        for interface in host.interfaces:
            # What XDP redirects must be complete: no checksums left to hardware, no segments above the MTU. GRO makes
            # the veth driver accept frames that XDP redirects to it.
            yield f"ethtool -K {interface.name} tx off tso off gso off gro on"
            yield f"ip link set dev {interface.name} up"
            for address in self._topology.addresses_with_length(host, interface):
                yield f"ip address add {address} dev {interface.name} {'nodad' if ':' in address else ''}"
        for gateway in gateways:
            yield f"ip route add default via {gateway} dev {host.interfaces[0].name}"
        if host.forward:
            a, b = (interface.name for interface in host.interfaces)
            for table, inward, outward in ((100, a, b), (101, b, a)):
                for version, gateway in ((6 if ":" in gateway else 4, gateway) for gateway in gateways):
                    yield f"ip -{version} route add default via {gateway} dev {outward} table {table}"
                    yield f"ip -{version} rule add iif {inward} lookup {table}"
            yield f"nft -f - <<'RULES'{_FIREWALL_RULES % {'a': a, 'b': b}}RULES"

    def _node_commands(self, node: Node) -> Iterator[str]:
        for port in self._topology.ports(node.name):
            if port.link is None:
                yield f"ethtool -K {port.interface} gro on"
                yield f"ip link set dev {port.interface} up"
            else:
                # A qdisc would hold back carrier events and frames behind a link that went down.
                yield f"tc qdisc replace dev {port.interface} root noqueue"
        for border in self._topology.borders(node.name):
            yield f"ip address add {border.address} dev {border.interface}"


def _run(command: list[str], what: str, script: str = "") -> None:
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{what} failed: {done.stderr.strip() or done.stdout.strip()} ({' '.join(command)})")
