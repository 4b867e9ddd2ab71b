"""The lab on its own: namespaces, links, captures, and that nothing of it is left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import LIMIT_S, wait_for

from topologies import lab, links, processes, topology_file
from topologies.daemons import process_of
from topologies.errors import LabError, LabExists, NotFound, RequestInvalid
from topologies.record import HOLDER, RELAY, LabRecord, directory_of
from topologies.status import status

pytestmark = pytest.mark.root

NAME = f"test-lab-{os.getpid()}"
OTHER = f"{NAME}-other"


@pytest.fixture(scope="module")
def bare() -> Iterator[LabRecord]:
    record = lab.up("three-domains", NAME, bare=True, say=lambda _: None)
    yield record
    lab.down(NAME)


def stitch_lab(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from controller.cli.lab import app; app()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, **options)  # type: ignore[call-overload]


def ping(record: LabRecord, place: str, address: str, *options: str, wait_s: int = 10) -> list[float]:
    """Round-trip times in ms of the answered ones of 5; the last may be late by `wait_s`."""
    done = lab.execute(record, place, "ping", "-c", "5", "-i", "0.02", "-W", str(wait_s), *options, address)
    return [float(round_trip) for round_trip in re.findall(r"time=([\d.]+) ms", done.stdout)]


def is_answered(record: LabRecord, place: str, address: str) -> bool:
    return ping(record, place, address, wait_s=1) != []


def check_round_trip_ms(record: LabRecord, place: str, address: str, low: float, high: float, *options: str) -> None:
    """At least `low`, always; and not much more, as soon as this machine has the time."""

    def quickest() -> float:
        round_trips = ping(record, place, address, *options)
        assert len(round_trips) == 5 and min(round_trips) >= low, round_trips
        return min(round_trips)

    wait_for(lambda: quickest() < high, f"an answer within {high} ms")


def checked(record: LabRecord, place: str, *command: str) -> str:
    done = lab.execute(record, place, *command)
    assert done.returncode == 0, (place, command, done.stderr)
    return done.stdout


def wire(record: LabRecord, a: str, b: str) -> links.Wire:
    return links.find(lab.topology_of(record), a, b)


def what_is_left(name: str) -> list[str]:
    """Whatever the machine still has of a lab, found without the lab's own means."""
    left = [f"directory {directory_of(name)}"] if directory_of(name).exists() else []
    left += [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    left += [f"socket {line.split()[-1]}" for line in Path("/proc/net/unix").read_text().splitlines() if name in line]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"NETSTITCH_LAB={name}".encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                left.append(f"process {entry.name} {(entry / 'cmdline').read_text()}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return left


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def check_interfaces(before: set[str]) -> None:
    """None is left; those of other labs that are being made are here for a moment."""
    wait_for(lambda: not interfaces() - before, "no interface is left")


def test_every_host_and_node_is_in_namespaces_of_its_own(bare: LabRecord) -> None:
    topology = lab.topology_of(bare)
    names = {value.name for value in (*topology.hosts, *topology.nodes)}
    assert set(bare.namespaces) == names
    for kind in ("net", "mnt"):
        namespaces = {os.readlink(f"/proc/{process}/ns/{kind}") for process in bare.namespaces.values()}
        assert len(namespaces) == len(names)
        assert os.readlink(f"/proc/self/ns/{kind}") not in namespaces


def test_the_status_tells_what_scripts_need(bare: LabRecord) -> None:
    done = stitch_lab("status", "--lab", NAME, "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["hosts"]["cx1"] == {
        "network": "shop/customer-x",
        "ipv4": "10.1.0.11",
        "ipv6": "2001:db8:1::11",
        "namespace": f"/proc/{bare.namespaces['cx1']}/ns/net",
    }
    assert told["nodes"]["t1"]["role"] == "gateway"
    assert told["nodes"]["t1"]["locator"] == "5f00:2:1::/48"
    assert told["nodes"]["t1"]["ports"] == {"tc1": 1, "tc2": 2, "sg1": 3}
    internet = next(link for link in told["links"] if (link["a"], link["b"]) == ("sg1", "ig1"))
    assert internet == {
        "a": "sg1",
        "b": "ig1",
        "state": "up",
        "delay_ms": 40,
        "rate_mbit": 100,
        "loss_percent": 0,
        "devices": ["ig1", "sg1"],
    }
    assert "analytics" in stitch_lab("status", "--lab", NAME).stdout


def test_hosts_have_their_addresses_at_once_and_a_way_out(bare: LabRecord) -> None:
    for name, ipv4, ipv6 in (
        ("cx1", "10.1.0.11/24", "2001:db8:1::11/64"),
        ("cz1", "10.1.0.11/24", "2001:db8:1::11/64"),
    ):
        shown = checked(bare, name, "ip", "address", "show", "dev", "eth0")
        lasting = [line for line in shown.splitlines() if "scope global" in line and "tentative" not in line]
        assert any(ipv4 in line for line in lasting) and any(ipv6 in line for line in lasting)
        assert "default via 10.1.0.1 dev eth0" in checked(bare, name, "ip", "route")
        assert "default via 2001:db8:1::1 dev eth0" in checked(bare, name, "ip", "-6", "route")
    features = checked(bare, "cx1", "ethtool", "-k", "eth0")
    assert "tx-checksumming: off" in features and "generic-receive-offload: on" in features


def test_underlay_links_delay_each_way_what_the_topology_says(bare: LabRecord) -> None:
    check_round_trip_ms(bare, "sg1", "192.0.2.2", 0, 5)
    check_round_trip_ms(bare, "sg1", "192.0.2.10", 80, 90)


def test_delay_loss_and_rate_of_a_link_can_be_changed(bare: LabRecord) -> None:
    link = wire(bare, "t2", "ig1")
    try:
        links.change(bare, link, ("delay=15",))
        check_round_trip_ms(bare, "t2", "192.0.2.6", 30, 45)
        links.change(bare, link, ("loss=100",))
        assert not is_answered(bare, "t2", "192.0.2.6")
        # 1442 bytes at 1 Mbit/s are 11.5 ms, there and back.
        links.change(bare, link, ("loss=0", "delay=0", "rate=1"))
        check_round_trip_ms(bare, "t2", "192.0.2.6", 23, 45, "-s", "1400")
    finally:
        done = stitch_lab("link", "--lab", NAME, "t2", "ig1", "set", "delay=0", "loss=0", "rate=1000")
    assert done.stdout == "t2 ig1: delay 0 ms, rate 1000 Mbit/s, loss 0 %\n"
    assert len(ping(bare, "t2", "192.0.2.6")) == 5


def test_lost_frames_are_about_as_many_as_the_link_loses(bare: LabRecord) -> None:
    link = wire(bare, "sg1", "t1")
    links.change(bare, link, ("loss=20",))
    before = links.relay_of(bare).links()["sg1-t1"].a
    checked(bare, "sg1", "ping", "-q", "-i", "0.001", "-c", "1000", "-W", "1", "192.0.2.2")
    after = links.relay_of(bare).links()["sg1-t1"].a
    links.change(bare, link, ("loss=0",))
    lost, sent = after.lost - before.lost, after.lost - before.lost + after.packets - before.packets
    assert 1000 <= sent < 1100
    assert 0.13 < lost / sent < 0.27  # five standard deviations


@pytest.mark.parametrize("ends", [("sg1", "t1"), ("t1", "sg1")])
def test_a_cut_link_has_no_carrier_at_both_ends_until_it_is_restored(bare: LabRecord, ends: tuple[str, str]) -> None:
    assert stitch_lab("link", "--lab", NAME, *ends, "down").returncode == 0
    for node, device in (("sg1", "t1"), ("t1", "sg1")):
        assert "NO-CARRIER" in checked(bare, node, "ip", "link", "show", "dev", device)
    assert [link.state for link in status(bare).links if {link.a, link.b} == set(ends)] == ["down"]
    assert not is_answered(bare, "sg1", "192.0.2.2")
    assert stitch_lab("link", "--lab", NAME, *ends, "up").returncode == 0
    for node, device in (("sg1", "t1"), ("t1", "sg1")):
        assert "LOWER_UP" in checked(bare, node, "ip", "link", "show", "dev", device)
    # the kernel makes an interface's queue ready up to a second after its carrier is back
    wait_for(lambda: len(ping(bare, "sg1", "192.0.2.2", wait_s=1)) == 5, "pings are answered again")


def test_a_carrier_event_is_seen_within_milliseconds(bare: LabRecord) -> None:
    """The kernel alone reports at most one a second."""
    link = wire(bare, "t1", "tc1")
    command = lab.command(bare, "tc1", ("stdbuf", "-oL", "ip", "monitor", "link", "dev", "t1"))

    def listeners() -> list[str]:
        """Sockets that are told of routes, links and the like, on tc1."""
        lines = [line.split() for line in checked(bare, "tc1", "cat", "/proc/net/netlink").splitlines()[1:]]
        return [line[0] for line in lines if line[1] == "0" and int(line[3], 16)]

    before = len(listeners())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=processes.environment(NAME)) as monitor:
        assert monitor.stdout is not None
        wait_for(lambda: len(listeners()) > before, "the monitor listens")

        def seen_after_s(up: bool) -> float:
            assert monitor.stdout is not None
            start = time.monotonic()
            links.set_carrier(bare, link, up)
            while ("LOWER_UP" if up else "NO-CARRIER") not in monitor.stdout.readline():
                pass
            return time.monotonic() - start

        # Two within a second are more than the kernel alone tells, as soon as this machine has the time.
        wait_for(lambda: seen_after_s(False) + seen_after_s(True) < 0.5, "both events at once")
        monitor.terminate()


def test_a_host_can_be_cut_off_and_keeps_its_addresses(bare: LabRecord) -> None:
    assert stitch_lab("link", "--lab", NAME, "cx1", "se1", "down").returncode == 0
    shown = checked(bare, "cx1", "ip", "address", "show", "dev", "eth0")
    assert "NO-CARRIER" in shown and "2001:db8:1::11/64" in shown
    assert [link.state for link in status(bare).links if link.a == "cx1"] == ["down"]
    assert stitch_lab("link", "--lab", NAME, "cx1", "se1", "up").returncode == 0
    assert "LOWER_UP" in checked(bare, "cx1", "ip", "address", "show", "dev", "eth0")


def test_a_capture_has_what_crossed_the_link_and_tshark_reads_it(bare: LabRecord, tmp_path: Path) -> None:
    file = tmp_path / "underlay link.pcap"
    with _pinging(bare, "sg1", "192.0.2.10"):
        done = stitch_lab("capture", "--lab", NAME, "sg1", "ig1", "--count", "6", "--seconds", "100", "-w", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: 6 frames\n"), done.stderr
    rows = subprocess.run(
        ["tshark", "-r", file, "-T", "fields", "-e", "ip.src", "-e", "icmp.type", "-e", "frame.time_epoch"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {tuple(row.split("\t")[:2]) for row in rows} == {("192.0.2.9", "8"), ("192.0.2.10", "0")}
    times = [float(row.split("\t")[2]) for row in rows]
    assert times == sorted(times) and abs(times[-1] - time.time()) < LIMIT_S


def test_a_capture_of_a_quiet_link_ends_in_time_with_a_valid_file(bare: LabRecord, tmp_path: Path) -> None:
    file = tmp_path / "quiet.pcap"
    start = time.monotonic()
    assert links.capture(bare, wire(bare, "tc2", "t2"), 10, 0.5, file) == 0
    assert time.monotonic() - start > 0.4
    assert subprocess.run(["tshark", "-r", file], capture_output=True, text=True, check=True).stdout == ""


def test_a_capture_of_a_hosts_link_is_taken_at_the_host(bare: LabRecord, tmp_path: Path) -> None:
    file = tmp_path / "host.pcap"
    with _pinging(bare, "cx2", "10.1.0.99"):
        frames = links.capture(bare, wire(bare, "cx2", "se1"), 1, 100, file)
    shown = subprocess.run(["tshark", "-r", file], capture_output=True, text=True, check=True).stdout
    assert frames == 1 and "Who has 10.1.0.99? Tell 10.1.0.12" in shown


class _pinging:  # noqa: N801
    def __init__(self, record: LabRecord, place: str, address: str) -> None:
        self._command = lab.command(record, place, ("ping", "-q", "-i", "0.05", address))
        self._environment = processes.environment(record.lab)

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=self._environment)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def test_exec_passes_arguments_input_and_exit_status_on(bare: LabRecord) -> None:
    assert stitch_lab("exec", "--lab", NAME, "cx1", "--", "sh", "-c", "exit 7").returncode == 7
    done = stitch_lab("exec", "--lab", NAME, "cx1", "--", "sh", "-c", "cat; echo $1 >&2", "sh", "-x", input="in")
    assert (done.stdout, done.stderr) == ("in", "-x\n")
    assert "10.1.0.11" in stitch_lab("exec", "--lab", NAME, "cx1", "ip", "-4", "-br", "address").stdout
    assert stitch_lab("exec", "--lab", NAME, "cx1", "--", "no-such-command").returncode == 127


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("exec", "cx9", "--", "true"), 1, "has no cx9: one of cx1"),
        (("link", "cx1", "ie1", "down"), 1, "there is no link cx1 ie1"),
        (("link", "fw1", "se1", "down"), 2, "say fw1a or fw1b"),
        (("link", "cx1", "se1", "set", "delay=1"), 2, "attached to se1 by veth"),
        (("link", "t1", "tc1", "set", "delay=fast"), 2, "'delay=fast': expected delay=MS"),
        (("link", "t1", "tc1", "set", "loss=101"), 2, "at most 100"),
        (("link", "t1", "tc1", "set"), 2, "nothing to set"),
        (("link", "t1", "tc1", "down", "delay=1"), 2, "only `set` takes values"),
        (("capture", "t1", "tc1", "-w", "/nowhere/at/all.pcap"), 2, "there is no directory"),
        (("capture", "t1", "tc1", "--count", "0", "-w", "/tmp/x.pcap"), 2, "at least 1"),
        (("restart", "se1"), 1, "has no agent or controller se1"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_status(
    bare: LabRecord, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = stitch_lab(arguments[0], "--lab", NAME, *arguments[1:])
    assert done.returncode == code and says in done.stderr, (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (b"\n", "unknown command"),
        (b"fly t1-tc1\n", "unknown command fly"),
        (b"set t1-tc1 1\n", "set: expected LINK DELAY_US"),
        (b"set t1-tc1 0 0 1000001\n", "set: expected LINK DELAY_US"),
        (b"set nowhere 0 0 0\n", "set nowhere: no such link"),
        (b"capture t1-tc1 1 1 relative.pcap\n", "capture: expected LINK COUNT SECONDS FILE"),
        (b'capture t1-tc1 1 1 /no/"such"\\dir\n', 'capture t1-tc1: /no/"such"\\dir: No such file'),
        (b"add t1-tc1 1 a 02:00:00:00:00:01 1 b 02:00:00:00:00:02 1500\n", "is there already"),
        (b"add new 1 a 02:00:00:00:00:zz 1 b 02:00:00:00:00:02 1500\n", "add: expected LINK PID"),
        (b"x" * 4607, "longer than"),
        (bytes(range(1, 256)), None),
    ],
)
def test_the_relay_says_what_is_wrong_with_a_command_and_goes_on(
    bare: LabRecord, command: bytes, says: str | None
) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory_of(NAME) / "relay.sock"))
        connection.sendall(command)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if says is not None:
        reply = json.loads(answer)
        assert not reply["ok"] and says in reply["error"]
    assert len(links.relay_of(bare).links()) == 9


def test_who_stops_waiting_for_a_capture_ends_it(bare: LabRecord, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory_of(NAME) / "relay.sock"))
        connection.sendall(f"capture tc1-t2 5 1000 {tmp_path}/given-up.pcap\n".encode())
        wait_for((tmp_path / "given-up.pcap").exists, "the capture runs")
        with pytest.raises(LabError, match="one is running there already"):
            links.capture(bare, wire(bare, "tc1", "t2"), 1, 0.1, tmp_path / "second.pcap")

    def is_over() -> bool:
        try:
            return links.capture(bare, wire(bare, "tc1", "t2"), 1, 0.1, tmp_path / "third.pcap") == 0
        except LabError:
            return False

    wait_for(is_over, "the capture has ended with who waited for it")


def test_nodes_forward_nothing_in_the_kernel_but_tunnels(bare: LabRecord) -> None:
    checked(bare, "ig1", "ip", "route", "add", "192.0.2.0/30", "via", "192.0.2.9")
    checked(bare, "t1", "ip", "route", "add", "192.0.2.8/30", "via", "192.0.2.1")
    try:
        assert not is_answered(bare, "ig1", "192.0.2.2")
        checked(bare, "sg1", "nft", "add", "chain", "inet", "netstitch_lab", "forward", "{ policy accept; }")
        assert len(ping(bare, "ig1", "192.0.2.2")) == 5, "the rule, and nothing else, held it back"
    finally:
        checked(bare, "sg1", "nft", "add", "chain", "inet", "netstitch_lab", "forward", "{ policy drop; }")
        checked(bare, "ig1", "ip", "route", "delete", "192.0.2.0/30")
        checked(bare, "t1", "ip", "route", "delete", "192.0.2.8/30")


def test_the_firewall_sends_on_by_one_port_what_comes_in_by_the_other(bare: LabRecord, tmp_path: Path) -> None:
    file = tmp_path / "firewall.pcap"
    try:
        checked(bare, "se1", "ip", "address", "add", "10.1.9.1/32", "dev", "fw1b")  # answers for the gateway there
        checked(bare, "se1", "ip", "route", "add", "203.0.113.7", "via", "10.1.9.2", "dev", "fw1a", "onlink")
        with _pinging(bare, "se1", "203.0.113.7"):
            links.capture(bare, wire(bare, "fw1b", "se1"), 5, 10, file)
    finally:
        checked(bare, "se1", "ip", "route", "delete", "203.0.113.7")
        checked(bare, "se1", "ip", "address", "delete", "10.1.9.1/32", "dev", "fw1b")
    rows = subprocess.run(["tshark", "-r", file], capture_output=True, text=True, check=True).stdout
    assert "→ 203.0.113.7" in rows and "ttl=63" in rows


def test_mounts_of_a_node_are_its_own(bare: LabRecord) -> None:
    directory = directory_of(NAME)
    mounts = checked(bare, "sg1", "cat", "/proc/mounts")
    assert f"bpf {directory}/sg1/bpf bpf" in mounts and f"{directory}/t1/bpf" not in mounts
    checked(bare, "sg1", "touch", "/var/run/wireguard/x.sock")
    assert (directory / "sg1/wireguard/x.sock").exists()
    assert not Path("/var/run/wireguard/x.sock").exists()
    checked(bare, "sg1", "rm", "/var/run/wireguard/x.sock")


def test_the_run_directories_are_closed_to_others(bare: LabRecord) -> None:
    directory = directory_of(NAME)
    for closed in (directory, directory / "se1", directory / "shop", directory / "shop/keys"):
        assert closed.stat().st_mode & 0o777 == 0o700, closed


def test_a_lab_that_is_up_is_not_made_again(bare: LabRecord) -> None:
    with pytest.raises(LabExists, match=f"stitch lab down --lab {NAME}"):
        lab.up("three-domains", NAME, bare=True, say=lambda _: None)
    assert stitch_lab("up", "three-domains", "--bare", "--lab", NAME).returncode == 1
    assert processes.alive(bare.namespaces["se1"])


def test_two_labs_do_not_disturb_each_other(bare: LabRecord) -> None:
    before = interfaces()
    try:
        other = lab.up("three-domains", OTHER, bare=True, say=lambda _: None)
        assert not set(other.namespaces.values()) & set(bare.namespaces.values())
        links.set_carrier(other, wire(other, "sg1", "t1"), False)
        assert not is_answered(other, "sg1", "192.0.2.2")
        assert len(ping(bare, "sg1", "192.0.2.2")) == 5
    finally:
        lab.down(OTHER)
    assert what_is_left(OTHER) == []
    assert len(ping(bare, "sg1", "192.0.2.2")) == 5
    check_interfaces(before)


@pytest.mark.parametrize("killed", [HOLDER, RELAY])
def test_nothing_is_left_when_a_process_of_the_lab_was_killed(killed: str) -> None:
    record = lab.up("three-domains", OTHER, bare=True, say=lambda _: None)
    running = process_of(OTHER, killed)
    assert running is not None
    # What runs in a host without the lab's environment goes too.
    subprocess.Popen(lab.command(record, "cx1", ("-i", "sleep", "1000")))
    os.kill(running, signal.SIGKILL)
    lab.down(OTHER)
    assert what_is_left(OTHER) == []
    assert [process for process in record.namespaces.values() if processes.alive(process)] == []
    lab.down(OTHER)


def test_a_lab_without_its_holder_can_be_made_again_at_once() -> None:
    lab.up("three-domains", OTHER, bare=True, say=lambda _: None)
    try:
        holder = process_of(OTHER, HOLDER)
        assert holder is not None
        os.kill(holder, signal.SIGKILL)
        record = lab.up("three-domains", OTHER, bare=True, say=lambda _: None)
        assert len(ping(record, "sg1", "192.0.2.2")) == 5
    finally:
        lab.down(OTHER)
    assert what_is_left(OTHER) == []


def test_a_lab_that_cannot_be_made_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    text = (topology_file.DIRECTORY / "three-domains.yaml").read_text()
    file = tmp_path / "impossible.yaml"
    file.write_text(text.replace("{name: eth0, node: se1", "{name: lo, node: se1", 1))  # cx1 has a lo already
    before = interfaces()
    with pytest.raises(LabError, match="veth lo-cx1 failed: RTNETLINK answers: File exists"):
        lab.up(str(file), OTHER, bare=True, say=lambda _: None)
    assert what_is_left(OTHER) == []
    check_interfaces(before)
    assert stitch_lab("up", str(file), "--bare", "--lab", OTHER).returncode == 3


def test_an_interrupted_start_leaves_nothing() -> None:
    command = [sys.executable, "-c", "from controller.cli.lab import app; app()"]
    with subprocess.Popen(
        [*command, "up", "three-domains", "--bare", "--lab", OTHER], stdout=subprocess.PIPE
    ) as starting:
        assert starting.stdout is not None
        starting.stdout.readline()
        starting.send_signal(signal.SIGINT)
    assert starting.returncode != 0
    assert what_is_left(OTHER) == []


def test_a_bad_topology_is_refused_with_its_position(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\nnodes: 7\n")
    done = stitch_lab("up", str(file), "--lab", OTHER)
    assert done.returncode == 2 and f"{file}:2:1: nodes: expected a mapping" in done.stderr
    assert not directory_of(OTHER).exists()


def test_labs_are_found_by_name_or_when_there_is_one(bare: LabRecord) -> None:
    assert lab.find(NAME) == bare
    assert bare in lab.running()
    with pytest.raises(NotFound, match="no lab nothing-here is up"):
        lab.find("nothing-here")
    with pytest.raises(RequestInvalid, match="cannot name a lab"):
        lab.find("../etc")


def test_two_checkouts_name_their_labs_differently(monkeypatch: pytest.MonkeyPatch, bare: LabRecord) -> None:
    topology = lab.topology_of(bare)
    here = lab.default_name(topology)
    monkeypatch.setattr(lab, "CHECKOUT", Path("/somewhere/else"))
    assert here.startswith("three-domains-") and lab.default_name(topology) != here
    assert bare not in lab.running(), "labs of another checkout are not ours to end by default"


def test_simultaneous_starts_of_one_lab_make_one(bare: LabRecord) -> None:
    outcomes: list[object] = []

    def start() -> None:
        try:
            outcomes.append(lab.up("three-domains", OTHER, bare=True, say=lambda _: None))
        except LabExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["LabExists", "LabExists", "LabRecord"]
    finally:
        lab.down(OTHER)
    assert what_is_left(OTHER) == []


def test_mininet_alone_runs_the_topology() -> None:
    """In namespaces of its own: `mn` cleans up the whole machine where it fails."""
    script = (
        f"mount --bind {topology_file.DIRECTORY.parent} /mnt && mount -t tmpfs tmpfs /tmp && "
        "mount -t sysfs sysfs /sys && ip link set dev lo up && "
        "exec mn --custom /mnt/topologies/mininet_topos.py --topo three-domains --test pingall"
    )
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert "Results: 0% dropped (30/30 received)" in done.stdout + done.stderr, done.stdout + done.stderr
