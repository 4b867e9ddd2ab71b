import contextlib
import grp
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from agents import AgentProcess, Bpffs
from controllers import Controller, entry
from echo_load import no_packet_lost
from namespaces import Namespace, run, veth
from pipeline_tables import LAYOUT
from waiting import LIMIT_S, wait_for

from dataplane.host_api import (
    CapturedFrame,
    CaptureQuery,
    FlowBatch,
    FlowQuery,
    Gateway,
    HostState,
    TelemetryBatch,
    TelemetryQuery,
    Tunnel,
)
from dataplane.p4runtime import p4info
from dataplane.reasons import DropReason
from dataplane.state import boot_epoch_s
from dataplane.version import VERSION
from dataplane.wireguard.device import KeyStore

PUBLIC = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
PORTS = [
    {"number": 1, "interface": "fabric", "role": "fabric", "way": "native"},
    {"number": 2, "interface": "cx1", "role": "attachment", "way": "native"},
    {"number": 3, "interface": "t1", "role": "underlay"},
]
BORDERS = [
    {"name": "sg1-t1", "port": 100, "interface": "t1", "address": "192.0.2.1/30", "listen_port": 51820, "mtu": 1420}
]
STATE = HostState(
    gateways=(Gateway(port=2, ipv4="10.1.0.1", ipv6="2001:db8:1::1"),),
    tunnels=(
        Tunnel(border="sg1-t1", peer_public_key=PUBLIC, peer_endpoint="192.0.2.2:51820", allowed_ips=("5f00:2::/32",)),
    ),
)
HTTP2_SETTINGS = 4
pytestmark = pytest.mark.root


class Node:
    """A namespace with a host on port 2, and its agent."""

    def __init__(self, directory: Path, pins: Path) -> None:
        self.namespace, self.host = Namespace("sg1"), Namespace("cx1")
        veth(self.namespace, "cx1", self.host, "eth0")
        veth(self.namespace, "fabric", self.host, "fabric")
        veth(self.namespace, "t1", self.host, "t1")
        self.host.ip("addr", "add", "10.1.0.11/24", "dev", "eth0")
        self.host.run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "on")
        self.agent = AgentProcess(self.namespace, directory / "sg1", pins, ports=PORTS, borders=BORDERS)

    def attach(self) -> None:
        """The host's network; without, all that comes in is dropped."""
        with contextlib.closing(Controller(self.agent)) as controller:
            controller.insert(
                entry("attachment", "attach", params={"vrf": 7, "policy_class": 8}, ingress_port=2, vlan_id=0),
                entry("source_guard", "admit", ingress_port=2, source="10.1.0.11/32"),
            )

    def remove(self) -> None:
        self.agent.remove()
        self.host.remove()
        self.namespace.remove()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    pins = Bpffs(tmp_path / "bpf")
    made = Node(tmp_path, pins.path)
    try:
        yield made
    finally:
        made.remove()
        pins.remove()


def second(**others: Any) -> dict[str, Any]:
    """A border beside the one that is there."""
    own = {"name": "sg1-u1", "port": 101, "interface": "u1", "address": "192.0.2.5/30", "listen_port": 51821}
    return {**own, "mtu": 1420, **others}


def refusal(code: grpc.StatusCode, call: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is code  # type: ignore[attr-defined]
    return str(caught.value.details())  # type: ignore[attr-defined]


def test_an_agent_serves_soon_privately_and_small(node: Node) -> None:
    took = node.agent.start()
    description = node.agent.describe()
    print(f"serving after {took:.2f} s (figure: 1.5 s), {node.agent.memory_mb():.0f} MB (figure: 100 MB)")
    assert node.agent.memory_mb() < 100
    assert description.name == "sg1"
    assert description.software == f"stitch-agent {VERSION}"
    assert description.wireguard in ("kernel", "wireguard-go")
    assert abs(description.boot_epoch_s - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) < 2
    assert [(port.number, port.interface, port.role, port.mtu, port.carrier) for port in description.ports] == [
        (1, "fabric", "fabric", 1500, True),
        (2, "cx1", "attachment", 1500, True),
        (3, "t1", "underlay", 1500, True),
    ]
    can = description.capabilities
    assert (can.dataplane, can.kernel, can.cpus) == ("xdp", os.uname().release, os.cpu_count())
    assert (can.h_encaps_segments, can.srh_segments, can.meters) == (4, 8, 0)
    (border,) = description.borders
    assert not border.up
    assert (border.port, border.endpoint, len(border.public_key)) == (100, "192.0.2.1:51820", 44)
    assert description.host_state == HostState()
    path = node.agent.directory / "run" / "agent.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for private in (path.parent, node.agent.directory / "state"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    attached = {name: "prog/xdp" in node.namespace.ip("link", "show", name) for name in ("cx1", "fabric", "t1")}
    assert attached == {"cx1": True, "fabric": True, "t1": False}
    assert "policy drop" in node.namespace.run("nft", "list", "chain", "inet", "netstitch", "forward")


def test_the_socket_can_be_shared_with_a_group_that_exists(node: Node) -> None:
    node.agent.config["listen_group"] = "nogroup"
    node.agent.start()
    path = node.agent.directory / "run" / "agent.sock"
    group = grp.getgrnam("nogroup").gr_gid
    assert [(place.stat().st_gid, stat.S_IMODE(place.stat().st_mode)) for place in (path.parent, path)] == [
        (group, 0o710),
        (group, 0o660),
    ]
    node.agent.end(signal.SIGTERM)
    node.agent.config["listen_group"] = "nobody-has-this"
    done = subprocess.run(node.agent.command(), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1 and "cannot be shared with group 'nobody-has-this'" in done.stderr


def test_a_desired_state_is_made_once_and_read_back(node: Node) -> None:
    node.agent.start()
    node.attach()
    assert "created tunnel sg1-t1 to 192.0.2.2:51820" in node.agent.sync(STATE)
    assert node.agent.sync(STATE) == ()
    description = node.agent.describe()
    assert description.host_state == STATE
    assert description.borders[0].up
    assert "prog/xdp" in node.namespace.ip("link", "show", "t-t1")
    assert description.borders[0].mac in node.namespace.ip("link", "show", "t-t1")
    node.host.run("ping", "-c2", "-i0.1", "-W10", "10.1.0.1")
    assert "removed port 100" in node.agent.sync(HostState())
    assert node.agent.describe().host_state == HostState()
    with pytest.raises(AssertionError, match="100% packet loss"):
        node.host.run("ping", "-c1", "-W0.3", "10.1.0.1")


def test_what_cannot_be_is_refused_with_the_reason_and_changes_nothing(node: Node) -> None:
    node.agent.start()
    node.agent.sync(STATE)
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    with node.agent.channel() as channel:
        sync = channel.unary_unary("/netstitch.Host/Sync")
        assert "not a HostState" in refusal(invalid, lambda: sync(b"\xc1garbage", timeout=LIMIT_S))
        assert "unknown field" in refusal(invalid, lambda: sync(b"\x81\xa1x\x01", timeout=LIMIT_S))
    assert "no port 77" in refusal(
        invalid, lambda: list(node.agent.stream("Capture", CaptureQuery(port=77), CapturedFrame))
    )
    assert "underlay" in refusal(
        invalid, lambda: list(node.agent.stream("Capture", CaptureQuery(port=3), CapturedFrame))
    )
    query = TelemetryQuery(interval_s=0.0)
    assert "interval_s" in refusal(invalid, lambda: next(node.agent.stream("WatchTelemetry", query, TelemetryBatch)))
    assert node.agent.describe().host_state == STATE
    assert node.agent.sync(STATE) == ()


def test_a_killed_agent_leaves_all_as_it_is_and_the_next_takes_over(node: Node) -> None:
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    before = node.agent.describe()
    links = node.namespace.ip("link")
    with no_packet_lost(node.host.command, "10.1.0.1") as load:
        node.agent.end(signal.SIGKILL)
        load.answered()
        assert "prog/xdp" in node.namespace.ip("link", "show", "cx1")
        took = node.agent.start()
    after = node.agent.describe()
    print(f"taken over in {took:.2f} s (figure: 3 s)")
    assert node.agent.logged("pipeline")[0]["taken_over"]
    assert after.host_state == before.host_state == STATE
    assert (after.boot_epoch_s, after.layout) == (before.boot_epoch_s, before.layout)
    assert after.borders[0].public_key == before.borders[0].public_key
    assert node.agent.sync(STATE) == ()
    strip = [line.partition(" prog/xdp")[0] for line in links.splitlines()]
    assert [line.partition(" prog/xdp")[0] for line in node.namespace.ip("link").splitlines()] == strip


def test_an_agent_whose_file_is_torn_says_so_within_its_start_and_leaves_all_as_it_is(node: Node) -> None:
    took_s = node.agent.start()
    node.attach()
    node.agent.end(signal.SIGKILL)
    file = Path(node.agent.config["state_dir"]) / "p4runtime.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    begin = time.perf_counter()
    ended = subprocess.run(node.agent.command(), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    print(f"ended after {time.perf_counter() - begin:.2f} s; a start takes {took_s:.2f} s")
    assert ended.returncode == 1 and f"{file}: unreadable" in ended.stderr, ended
    assert "the controller then sends all anew" in ended.stderr
    assert "prog/xdp" in node.namespace.ip("link", "show", "cx1")
    file.write_bytes(whole)
    node.agent.start()
    assert node.agent.logged("pipeline")[0]["taken_over"]


def test_sigterm_leaves_the_dataplane_and_teardown_removes_it(node: Node) -> None:
    before = sorted(node.namespace.ip("-br", "link").splitlines())
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    assert node.agent.end(signal.SIGTERM) == 0
    assert "ALLMULTI" in node.namespace.ip("link", "show", "cx1"), "hosts are heard while no agent runs"
    assert "the dataplane stays as it is" in node.agent.logged("stopped")[0]["advice"]
    assert "Traceback" not in node.agent.log
    node.host.run("ping", "-c2", "-i0.1", "-W10", "10.1.0.1")
    run(*node.agent.command("--teardown"))
    assert sorted(node.namespace.ip("-br", "link").splitlines()) == before
    assert "prog/xdp" not in node.namespace.ip("link")
    assert node.namespace.run("nft", "list", "ruleset") == ""
    assert node.namespace.processes() == []
    pins = Path(node.agent.config["pin_dir"])
    assert list(pins.rglob("*")) == []
    run(*node.agent.command("--teardown"))


def test_what_somebody_else_has_set_stays_when_a_port_goes(node: Node) -> None:
    node.namespace.ip("link", "set", "cx1", "allmulticast", "on")
    node.agent.start()
    node.agent.end(signal.SIGTERM)
    run(*node.agent.command("--teardown"))
    assert "ALLMULTI" in node.namespace.ip("link", "show", "cx1")


def test_another_map_layout_is_never_read_but_rebuilt_aside(node: Node) -> None:
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    layout = node.agent.describe().layout
    node.agent.end(signal.SIGKILL)
    node.agent.config["flow_cache_entries"] = 2048
    node.agent.start()
    description = node.agent.describe()
    assert description.layout != layout
    (line,) = node.agent.logged("map_layout_differs")
    assert (line["pinned"], line["ours"]) == (layout, description.layout)
    assert f"removed the maps of layout {layout}" in node.agent.log
    assert [path.name for path in Path(node.agent.config["pin_dir"]).glob("maps-*")] == [f"maps-{description.layout}"]
    # New maps are empty: closed until the controller has synced.
    assert description.host_state == HostState(tunnels=STATE.tunnels)
    with pytest.raises(AssertionError, match="100% packet loss"):
        node.host.run("ping", "-c1", "-W0.3", "10.1.0.1")
    node.attach()
    node.agent.sync(STATE)
    node.host.run("ping", "-c1", "-W10", "10.1.0.1")


def test_pinned_maps_of_which_some_are_gone_are_rebuilt(node: Node) -> None:
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    layout = node.agent.describe().layout
    pins = Path(node.agent.config["pin_dir"])
    node.agent.end(signal.SIGKILL)
    (pins / f"maps-{layout}" / "flow_policy").unlink()
    node.agent.start()
    assert node.agent.logged("pinned_maps_are_gone")
    (line,) = node.agent.logged("map_layout_differs")
    assert (line["pinned"], line["ours"]) == (f"{layout}-incomplete", layout)
    assert [path.name for path in pins.glob("maps-*")] == [f"maps-{layout}"]
    with pytest.raises(AssertionError, match="100% packet loss"):  # new maps: closed until the controller has synced
        node.host.run("ping", "-c1", "-W0.3", "10.1.0.1")
    node.attach()
    node.agent.sync(STATE)
    node.host.run("ping", "-c1", "-W10", "10.1.0.1")


def test_an_interface_that_comes_later_or_again_gets_its_port(node: Node) -> None:
    node.namespace.ip("link", "del", "fabric")
    node.agent.start()
    assert [port.carrier for port in node.agent.describe().ports] == [False, True, True]
    veth(node.namespace, "fabric", node.host, "fabric")
    wait_for(lambda: "prog/xdp" in node.namespace.ip("link", "show", "fabric"))
    node.namespace.ip("link", "del", "cx1")
    veth(node.namespace, "cx1", node.host, "eth0")
    wait_for(lambda: "prog/xdp" in node.namespace.ip("link", "show", "cx1"))
    assert [port.carrier for port in node.agent.describe().ports] == [True, True, True]


def test_an_interface_with_another_mac_takes_frames_to_that_one_only(node: Node) -> None:
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    node.host.run("ping", "-c1", "-W10", "10.1.0.1")
    node.namespace.ip("link", "set", "cx1", "address", "02:00:00:00:aa:01")
    ask = node.host.command("ping", "-c1", "-W0.3", "-q", "10.1.0.1")  # the MAC that the host knows
    wait_for(lambda: subprocess.run(ask, stdout=subprocess.DEVNULL).returncode == 1)
    node.host.ip("neigh", "flush", "dev", "eth0")
    node.host.run("ping", "-c1", "-W10", "10.1.0.1")
    assert "02:00:00:00:aa:01" in node.host.ip("neigh", "show", "10.1.0.1")


def test_captured_frames_are_those_that_came_in(node: Node) -> None:
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    stream = node.agent.stream("Capture", CaptureQuery(port=2, count=3, seconds=60), CapturedFrame)
    ping = subprocess.Popen(
        node.host.command("ping", "-i", "0.05", "-s", "400", "-q", "10.1.0.1"), stdout=subprocess.DEVNULL
    )
    frames = list(stream)
    ping.terminate()
    ping.wait()
    assert len(frames) == 3
    echo = next(frame for frame in frames if frame.frame[12:14] == b"\x08\x00")
    assert echo.original_length == 14 + 20 + 8 + 400
    assert len(echo.frame) == 256
    assert echo.frame[26:34] == socket.inet_aton("10.1.0.11") + socket.inet_aton("10.1.0.1")
    assert abs(echo.time_s - time.time()) < LIMIT_S


def test_frames_go_up_to_the_controller_and_out_of_ports(node: Node) -> None:
    node.agent.start()
    lldp = bytes.fromhex("0180c200000e 020000000001 88cc") + b"\x02\x07\x04" + bytes(60)
    reply = bytes.fromhex("0180c200000e 020000000002 88cc") + bytes(range(60))
    with node.host.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88CC))
    wire.bind(("eth0", 0x88CC))
    wire.settimeout(LIMIT_S)
    node.attach()
    with wire, contextlib.closing(Controller(node.agent, election_id=2)) as controller:
        controller.insert(
            entry("punt_frame", "punt", 1, {"reason": 16}, ingress_class=(0, 0xFFFF), ether_type=(0x88CC, 0xFFFF))
        )
        wire.send(lldp)
        packet = controller.receive().packet
        names = {field.id: field.name for field in LAYOUT.p4info.packet_in}
        metadata = {names[item.metadata_id]: int.from_bytes(item.value) for item in packet.metadata}
        assert packet.payload == lldp
        assert metadata == {"ingress_port": 2, "reason": 16, "vrf": 7, "mtu": 0, "answer_class": 0}
        controller.send(2, reply)
        assert wire.recv(2000) == reply
        controller.send(99, reply)
        assert "no port 99" in controller.receive().error.message


def test_drops_are_streamed_as_totals_of_what_changed(node: Node) -> None:
    node.agent.start()
    stream = node.agent.stream("WatchTelemetry", TelemetryQuery(interval_s=0.2), TelemetryBatch)
    first = next(stream)
    assert [port.number for port in first.ports] == [1, 2, 3]
    before = {sample.index: sample.packets for sample in first.drops}.get(DropReason.UNKNOWN_ATTACHMENT, 0)
    node.host.run("sh", "-c", "ping -c3 -i0.01 -W0.1 10.1.0.1 || true")
    packets = before
    for batch in stream:
        assert batch.lost_batches == 0
        packets = {sample.index: sample.packets for sample in batch.drops}.get(DropReason.UNKNOWN_ATTACHMENT, packets)
        if packets > before:
            break
    assert packets > before
    assert node.agent.ask("ReadFlows", FlowQuery(), FlowBatch).flows == ()


def test_a_second_agent_of_the_same_node_is_refused(node: Node) -> None:
    node.agent.start()
    done = subprocess.run(node.agent.command(), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1
    assert "another stitch-agent uses" in done.stderr
    assert node.agent.describe().name == "sg1"


@pytest.mark.parametrize(("moved_s", "kept"), [(1, True), (-7200, False), (7200, False)])
def test_the_time_of_boot_moves_only_when_the_clock_was_set(tmp_path: Path, moved_s: int, kept: bool) -> None:
    present_s = boot_epoch_s(tmp_path)
    record = tmp_path / "boot.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot_epoch_s": present_s + moved_s}))
    assert abs(boot_epoch_s(tmp_path) - (present_s + (moved_s if kept else 0))) <= (0 if kept else 1)
    assert json.loads(record.read_text())["boot_epoch_s"] == boot_epoch_s(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"listen": "127.0.0.1:9559"}, "needs mutual TLS"),
        ({"name": ""}, "name '' has a slash or is empty"),
        ({"name": "a/../b"}, "name 'a/../b' has a slash or is empty"),
        ({"listen": "somewhere"}, "neither unix:/PATH nor HOST:PORT"),
        ({"flow_cache_entries": 1000}, "no power of two"),
        ({"table_sizes": {"policy_classes": 65537}}, r"table_sizes.policy_classes 65537 is not in 16..65536"),
        ({"table_sizes": {"prefixes": 0}}, r"table_sizes.prefixes 0 is not in 16.."),
        ({"ports": [*PORTS, {"number": 1, "interface": "x", "role": "fabric"}]}, "port number 1 is used twice"),
        ({"borders": [*BORDERS, second(listen_port=51820)]}, "listen_port 51820 is of two borders"),
        ({"borders": [*BORDERS, second(second_listen_port=51820)]}, "listen_port 51820 is of two borders"),
        ({"borders": [*BORDERS, second(second_listen_port=70000)]}, "second_listen_port 70000 is not in 0..65535"),
        ({"borders": [*BORDERS, second(interface="t1")]}, "borders sg1-t1 and sg1-u1 would both have the device wg-t1"),
        ({"ports": [{"number": 512, "interface": "x", "role": "fabric"}]}, "not in 1..511"),
        ({"ports": [{"number": 1, "interface": "x", "role": "other"}]}, "Invalid enum value 'other'"),
        ({"unknown": 1}, "unknown field `unknown`"),
        ({"state_dir": "here"}, "not an absolute path"),
        ({"metrics": "0.0.0.0:9100"}, "address of the loopback"),
        ({"metrics": "9100"}, "neither unix:/PATH nor ADDRESS:PORT"),
        ({"ports": [{"number": 1, "interface": "stitch-p3", "role": "fabric"}]}, "are the agent's own"),
        ({"listen": "127.0.0.1:9559", "listen_group": "nogroup"}, "listen_group is for Unix sockets"),
    ],
)
def test_a_wrong_configuration_is_refused_with_file_and_field(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    config = {"name": "x", "listen": f"unix:{tmp_path}/s", "state_dir": str(tmp_path / "state"), "pin_dir": "/x"}
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({**config, "ports": PORTS, **change}))
    done = subprocess.run(
        [".venv/bin/python", "-m", "dataplane", "--config", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"stitch-agent: {path}: ")
    assert complaint in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_configuration_can_be_checked_without_touching_anything(tmp_path: Path) -> None:
    config = {"name": "x", "listen": f"unix:{tmp_path}/s", "state_dir": str(tmp_path / "state"), "pin_dir": "/x"}
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({**config, "ports": PORTS, "metrics": "[::1]:9100"}))
    command = [".venv/bin/python", "-m", "dataplane", "--config", str(path), "--check-config"]
    assert run(*command) == f"{path}: ok, node x\n"
    assert not (tmp_path / "state").exists()


def test_tables_are_as_large_as_the_configuration_says_and_memory_is_told(node: Node) -> None:
    small = {"forwarding_classes": 64, "flow_policies": 32, "prefixes": 100, "sr_policies": 16, "policy_classes": 16}
    node.agent.config["table_sizes"] = small
    node.agent.start()
    assert 0 < node.agent.describe().maps_bytes < 64 << 20
    with contextlib.closing(Controller(node.agent)) as controller:
        info = p4info.view(controller.config().p4info)
        sizes = {sized.name: sized.size for sized in (*info.tables, *info.counters)}
        assert (sizes["steer"], sizes["sr_policy"], sizes["route"], sizes["policy_class_counter"]) == (64, 128, 100, 16)
        controller.insert(entry("steer", "deliver", params={"vrf": 1}, forwarding_class=63))
        with pytest.raises(grpc.RpcError, match=r"64 is not in 0\.\.63"):
            controller.insert(entry("steer", "deliver", params={"vrf": 1}, forwarding_class=64))


def test_two_borders_with_one_key_are_refused(tmp_path: Path) -> None:
    """A neighbour would take one for the other. Keys of borders that are not there any more are nobody's."""
    config = {"name": "x", "listen": f"unix:{tmp_path}/s", "state_dir": str(tmp_path / "state"), "pin_dir": "/x"}
    path, keys = tmp_path / "agent.json", KeyStore(tmp_path / "state" / "keys")
    keys.private_key("sg1-t1")
    path.write_text(json.dumps({**config, "ports": PORTS, "borders": [*BORDERS, second()]}))
    for name in ("sg1-u1", "gone"):
        keys.path(name).write_text(keys.private_key("sg1-t1") + "\n")
    command = [".venv/bin/python", "-m", "dataplane", "--config", str(path), "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"borders sg1-t1 and sg1-u1 have one private key: remove {keys.path('sg1-u1')}" in done.stderr
    keys.path("sg1-u1").unlink()
    assert run(*command) == f"{path}: ok, node x\n"


def test_prometheus_reads_what_the_kernel_holds_by_a_private_socket(node: Node) -> None:
    address = node.agent.directory / "metrics.sock"
    node.agent.config["metrics"] = f"unix:{address}"
    node.agent.start()
    node.attach()
    node.agent.sync(STATE)
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    node.host.run("ping", "-c1", "-W10", "10.1.0.1")
    node.host.run("sh", "-c", "ping -c3 -i0.01 -W0.1 10.9.9.9 || true")
    status, samples = scrape(address)
    assert status == "HTTP/1.0 200 OK"
    assert (
        samples[
            f'netstitch_build_info{{layout="{node.agent.describe().layout}",version="{VERSION}",wireguard="'
            f'{node.agent.describe().wireguard}"}}'
        ]
        == 1
    )
    assert samples['netstitch_table_entries{table="source_guard"}'] == 1
    assert samples['netstitch_table_size{table="source_guard"}'] == 131072
    assert samples['netstitch_pipeline_events_total{event="echo_answered"}'] >= 1
    assert samples['netstitch_port_carrier{interface="cx1"}'] == 1
    assert samples['netstitch_tunnel_latest_handshake_timestamp_seconds{border="sg1-t1"}'] == 0
    assert samples["process_resident_memory_bytes"] > 1e6
    assert scrape(address, "/other")[0] == "HTTP/1.0 404 Not Found"


def scrape(address: Path, path: str = "/metrics") -> tuple[str, dict[str, float]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect(str(address))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    lines = [line.rpartition(" ") for line in body.splitlines() if not line.startswith("#")]
    return head.splitlines()[0], {name: float(value) for name, _, value in lines if path == "/metrics"}


def test_pins_belong_on_a_bpffs(node: Node, tmp_path: Path) -> None:
    node.agent.config["pin_dir"], before = str(tmp_path / "elsewhere"), node.agent.config["pin_dir"]
    done = subprocess.run(node.agent.command(), capture_output=True, text=True, timeout=LIMIT_S)
    node.agent.config["pin_dir"] = before
    assert done.returncode == 1
    assert "is on no bpffs: mount -t bpf bpf" in done.stderr


def test_tcp_needs_a_client_certificate(node: Node, tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("sg1.example", "127.0.0.1"), authority.issue_cert("stitchd.example")
    server.private_key_pem.write_to_path(tmp_path / "key")
    server.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    files = {"tls_key": "key", "tls_certificate": "certificate", "tls_client_ca": "ca"}
    node.agent.config |= {name: str(tmp_path / file) for name, file in files.items()}
    node.agent.config |= {"listen": "127.0.0.1:9559", "tls_client_name": "stitchd.example"}
    with (node.agent.directory / "log").open("wb") as log:
        node.agent.process = subprocess.Popen(node.agent.command(), stdout=log, stderr=log)
    wait_for(lambda: "serving" in node.agent.log)
    assert is_served(node, authority, client)
    assert not is_served(node, authority, None)
    assert not is_served(node, authority, trustme.CA().issue_cert("stitchd.example"))


def test_keys_that_stitchd_makes_let_the_controller_lead_and_no_other_agent(node: Node, tmp_path: Path) -> None:
    keygen = [".venv/bin/python", "-m", "controller", "keygen", "--domain", "shop", "--key-dir", str(tmp_path / "keys")]
    made = json.loads(run(*keygen, "--agent", "sg1", "--address", "127.0.0.1"))
    other = json.loads(run(*keygen, "--agent", "se1", "--address", "127.0.0.1"))
    assert other["agent_tls"] == made["agent_tls"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys/agents").iterdir()} == {0o600}
    node.agent.config |= {**made["agent"], "listen": "127.0.0.1:9559"}
    with (node.agent.directory / "log").open("wb") as log:
        node.agent.process = subprocess.Popen(node.agent.command(), stdout=log, stderr=log)
    wait_for(lambda: "serving" in node.agent.log)
    ours, theirs = made["agent_tls"], other["agent"]
    for certificate, key, served in (
        (ours["certificate"], ours["key"], True),
        (theirs["tls_certificate"], theirs["tls_key"], False),
    ):
        context = ssl.create_default_context(cafile=ours["ca"])
        context.load_cert_chain(certificate, key)
        assert speaks(node, context) is served


def is_served(node: Node, authority: trustme.CA, own: trustme.LeafCert | None) -> bool:
    """The agent begins to speak HTTP/2 (RFC 9113 §3.4) over TLS.

    Without gRPC, whose threads stay in the namespace where the first of them began.
    """
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if own:
        own.configure_cert(context)
    return speaks(node, context)


def speaks(node: Node, context: ssl.SSLContext) -> bool:
    context.set_alpn_protocols(["h2"])
    with node.namespace.entered():
        raw = socket.create_connection(("127.0.0.1", 9559), timeout=LIMIT_S)
    with raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
        try:
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, HTTP2_SETTINGS)) + bytes(5))
            return tls.recv(9)[3:4] == bytes((HTTP2_SETTINGS,))
        except (ssl.SSLError, ConnectionError):  # TLS 1.3 refuses a client after its handshake
            return False


def test_the_version_is_the_projects() -> None:
    assert f'version = "{VERSION}"' in Path("pyproject.toml").read_text()
