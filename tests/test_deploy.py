"""docs/deploy.md as it stands: its commands, typed on two machines with systemd that have nothing but the package.

The hosts are namespaces that nobody prepared.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machine
from namespaces import Namespace, run, veth

pytestmark = pytest.mark.root
ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```sh\n# (east|west|both)\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
RESTART = next(place for place, (_, block) in enumerate(BLOCKS) if "systemctl restart" in block)

BACKUP = next(place for place, (_, block) in enumerate(BLOCKS) if "stitch backup" in block)

ECHO = """
import socket
server = socket.create_server(("10.2.0.10", 5432))
print("listening", flush=True)
connection, _ = server.accept()
while data := connection.recv(65536):
    connection.sendall(data)
"""
CLIENT = """
import socket, sys, threading
connection = socket.create_connection(("10.2.0.10", 5432))
def send():
    connection.sendall(sys.stdin.buffer.read())
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while data := connection.recv(65536):
    sys.stdout.buffer.write(data)
"""


class Deployment:
    def __init__(self) -> None:
        self.machines = {name: Machine(name) for name in ("east", "west")}
        self.hosts = {"east": Namespace("app"), "west": Namespace("db")}
        east, west = (machine.namespace for machine in self.machines.values())
        veth(east, "eth0", west, "eth0")
        for number, (name, machine) in enumerate(self.machines.items(), 1):
            host = self.hosts[name]
            machine.namespace.ip("address", "add", f"192.0.2.{number}/30", "dev", "eth0")
            veth(machine.namespace, "eth1", host, "eth0")
            host.ip("address", "add", f"10.{number}.0.10/24", "dev", "eth0")
            host.ip("route", "add", "default", "via", f"10.{number}.0.1")

    def type(self, where: str, block: str) -> str:
        return "".join(machine.type(block) for name, machine in self.machines.items() if where in (name, "both"))

    def follow(self, blocks: list[tuple[str, str]]) -> str:
        seen = ""
        for where, block in blocks:
            seen += self.type(where, block)
            if "keygen" in block:
                self.exchange_keys()
        return seen

    def exchange_keys(self) -> None:
        """What the operators send each other."""
        for name, other in (("east", "west"), ("west", "east")):
            folder = "etc/netstitch"
            shutil.copy(self.machines[name].root / folder / f"{name}.json", self.machines[other].root / folder)

    def pings(self, count: int) -> int:
        """How many of them are answered."""
        command = self.hosts["east"].command("ping", "-n", "-i", "0.05", "-W", "10", "-c", str(count), "10.2.0.10")
        found = re.search(r"(\d+) received", subprocess.run(command, capture_output=True, text=True).stdout)
        return int(found.group(1)) if found else 0

    def remove(self) -> None:
        for each in (*self.machines.values(), *self.hosts.values()):
            each.remove()


@pytest.fixture(scope="module")
def package() -> Path:
    """As `./run package` makes it."""
    folder = ROOT / "build" / "package"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(["debian/rules", "binary"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("netstitch_*.deb")
    return found


@pytest.fixture(scope="module")
def deployment(package: Path) -> Iterator[Deployment]:
    found = Deployment()
    try:
        for machine in found.machines.values():
            shutil.copy(package, machine.root / "root")
            machine.boot()
        yield found
    finally:
        found.remove()


def test_the_package_has_programs_units_man_pages_and_no_path_of_the_machine_that_made_it(package: Path) -> None:
    files = run("dpkg-deb", "--contents", str(package))
    for wanted in (
        "/usr/bin/stitch",
        "/usr/bin/stitchd",
        "/usr/bin/stitch-agent",
        "/lib/systemd/system/stitchd.service",
        "/lib/systemd/system/stitch-agent@.service",
        "/usr/share/man/man1/stitch.1.gz",
        "/usr/share/man/man8/stitchd.8.gz",
        "/usr/lib/netstitch/build/ebpf/stitch.bpf.o",
        "/usr/share/doc/netstitch/deploy.md.gz",
    ):
        assert f" .{wanted}\n" in files, wanted
    own = subprocess.run(["grep", "-rl", str(ROOT), str(ROOT / "debian/netstitch")], capture_output=True, text=True)
    assert own.stdout == ""


def test_a_stranger_who_types_what_the_guide_says_gets_an_intent_that_works(deployment: Deployment) -> None:
    assert deployment.pings(3) == 0
    seen = deployment.follow(BLOCKS[:RESTART])
    assert re.search(r"orders +web +Active", seen), seen
    assert deployment.pings(20) == 20
    for machine in deployment.machines.values():
        said = machine.type("stitch doctor -o json 2>/dev/null || true")
        checks = json.loads(said)["checks"]  # this machine's clock is perhaps kept by nobody
        assert [one for one in checks if not one["ok"] and one["subject"] != "clock"] == []
    host = deployment.hosts
    wanted = bytes(range(256)) * 4000
    server = subprocess.Popen(host["west"].command(sys.executable, "-c", ECHO), stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"listening\n"
    sent = subprocess.run(host["east"].command(sys.executable, "-c", CLIENT), input=wanted, capture_output=True)
    server.wait()
    assert sent.stdout == wanted, sent.stderr
    denied = subprocess.run(host["east"].command("nc", "-z", "-w", "1", "10.2.0.10", "22"))
    assert denied.returncode != 0


def test_the_guides_restart_loses_no_packet_and_nothing_that_was_acknowledged(deployment: Deployment) -> None:
    before = state(deployment)
    assert before["intents"] == ["orders"] and before["domains"] == ["east", "west"]
    ping = deployment.hosts["east"].command("ping", "-n", "-i", "0.02", "10.2.0.10")
    running = subprocess.Popen(ping, stdout=subprocess.PIPE, text=True)
    deployment.follow(BLOCKS[RESTART:BACKUP])
    running.send_signal(2)
    said = running.communicate()[0]
    assert " 0% packet loss" in said, said
    assert state(deployment) == before


def test_a_machine_whose_current_fails_comes_back_with_all_of_it(deployment: Deployment) -> None:
    before, west = state(deployment), deployment.machines["west"]
    west.power_off()
    west.boot()
    west.type("systemctl start stitch-agent@west1 stitchd")  # basic.target begins neither
    answered = 0
    for _ in range(60):
        answered = deployment.pings(3)
        if answered == 3:
            break
    assert answered == 3, west.log()
    assert state(deployment) == before


def test_the_guides_restore_brings_back_what_its_backup_saved(deployment: Deployment) -> None:
    before = state(deployment)
    deployment.follow(BLOCKS[BACKUP:])
    assert state(deployment) == before
    for _ in range(60):
        if deployment.pings(3) == 3:
            return
    raise AssertionError(deployment.machines["east"].log())


def state(deployment: Deployment) -> dict[str, list[str]]:
    """Names of what the east has."""
    east = deployment.machines["east"]
    return {
        kind: [one["metadata"]["name"] for one in json.loads(east.type(f"stitch get {kind} -o json"))]
        for kind in ("intents", "networks", "services", "nodes", "links", "domains", "tokens")
    }
