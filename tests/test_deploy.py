"""docs/deploy.md as it stands: its commands, typed on two machines that have nothing but the package.

The hosts are namespaces that nobody prepared. The machines have systemd, and in the last test nothing of the kind.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from echo_load import no_packet_lost
from machines import Bare, Machine
from namespaces import Namespace, run, veth
from waiting import wait_for

pytestmark = pytest.mark.root
ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs/deploy.md").read_text()
*BLOCKS, WITHOUT_SYSTEMD = re.findall(r"```sh\n# (east|west|both)\n(.*?)```", GUIDE, re.DOTALL)


def place(command: str) -> int:
    return next(at for at, (_, block) in enumerate(BLOCKS) if command in block)


START, RESTART, BACKUP = place("systemctl enable"), place("systemctl restart"), place("stitch backup")

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
    def __init__(self, kind: type[Bare], package: Path) -> None:
        self.machines = {name: kind(name) for name in ("east", "west")}
        self.hosts = {"east": Namespace("app"), "west": Namespace("db")}
        east, west = (machine.namespace for machine in self.machines.values())
        veth(east, "eth0", west, "eth0")
        for number, (name, machine) in enumerate(self.machines.items(), 1):
            host = self.hosts[name]
            machine.namespace.ip("address", "add", f"192.0.2.{number}/30", "dev", "eth0")
            veth(machine.namespace, "eth1", host, "eth0")
            host.ip("address", "add", f"10.{number}.0.10/24", "dev", "eth0")
            host.ip("route", "add", "default", "via", f"10.{number}.0.1")
            shutil.copy(package, machine.root / "root")

    def boot(self) -> None:
        for machine in self.machines.values():
            machine.boot()

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
        received = re.search(r"(\d+) received", subprocess.run(command, capture_output=True, text=True).stdout)
        return int(received.group(1)) if received else 0

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
    (built,) = folder.glob("netstitch_*.deb")
    return built


@pytest.fixture(scope="module")
def deployment(package: Path) -> Iterator[Deployment]:
    deployed = Deployment(Machine, package)
    try:
        deployed.boot()
        yield deployed
    finally:
        deployed.remove()


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
        assert [check for check in checks if not check["ok"] and check["subject"] != "clock"] == []
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
    with no_packet_lost(deployment.hosts["east"].command, "10.2.0.10", rate=100):
        deployment.follow(BLOCKS[RESTART:BACKUP])
    assert state(deployment) == before


def test_an_upgrade_starts_controller_and_agent_again_on_new_code_and_loses_no_packet(
    deployment: Deployment, package: Path, tmp_path: Path
) -> None:
    newer(package, tmp_path / "netstitch_newer.deb")
    before = state(deployment)
    with no_packet_lost(deployment.hosts["east"].command, "10.2.0.10", rate=100):
        for name, machine in deployment.machines.items():
            pids = machine.type(f"systemctl show -P MainPID stitchd stitch-agent@{name}1").split()
            shutil.copy(tmp_path / "netstitch_newer.deb", machine.root / "root")
            machine.type("apt-get install -y ./netstitch_newer.deb")
            assert not {*pids} & {*machine.type(f"systemctl show -P MainPID stitchd stitch-agent@{name}1").split()}
            wait_for(
                lambda at=machine: software(at) == "stitch-agent newer", "the agent's new code is the one that runs"
            )
    assert state(deployment) == before


def newer(package: Path, built: Path) -> None:
    """The next version of `package`, whose agent says so."""
    tree = built.parent / "tree"
    run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+newer", control.read_text()))
    (tree / "usr/lib/netstitch/dataplane/version.py").write_text('VERSION = "newer"\n')
    run("dpkg-deb", "-Zgzip", "-z1", "--build", str(tree), str(built))


def software(machine: Bare) -> str:
    """What the machine's only node runs, as its controller knows it."""
    (node,) = json.loads(machine.type("stitch get nodes -o json"))
    return str(node["status"].get("software"))


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
        kind: [load["metadata"]["name"] for load in json.loads(east.type(f"stitch get {kind} -o json"))]
        for kind in ("intents", "networks", "services", "nodes", "links", "domains", "tokens")
    }


def test_without_systemd_it_is_the_same(package: Path) -> None:
    bare = Deployment(Bare, package)
    try:
        bare.boot()
        seen = bare.follow([*BLOCKS[:START], WITHOUT_SYSTEMD, *BLOCKS[START + 1 : RESTART]])
        assert re.search(r"orders +web +Active", seen), seen
        assert bare.pings(20) == 20
        before = state(bare)
        with no_packet_lost(bare.hosts["east"].command, "10.2.0.10", rate=100):
            bare.type("both", "kill $(jobs -p)\nwait")
            bare.follow([WITHOUT_SYSTEMD])
            assert state(bare) == before
        west = bare.machines["west"]
        west.type("sed -i 's#tcp/5432, #tcp/5432, tcp/5433, #' /etc/netstitch/policy.yaml")
        assert "5433" not in west.type("stitch get policy")
        west.type("stitch policy reload")
        assert "5433" in west.type("stitch get policy")
    finally:
        bare.remove()
