"""The lab with its agents and controllers: all start, can be killed and restarted, and go with the lab."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from waiting import wait_for

from tests.test_lab import stitch_lab, what_is_left
from topologies import lab, processes, topology_file
from topologies.daemons import process_of
from topologies.errors import LabError
from topologies.record import LabRecord, directory_of
from topologies.status import LabStatus, status

pytestmark = pytest.mark.root

NAME = f"test-programs-{os.getpid()}"


@pytest.fixture(scope="module")
def record() -> Iterator[LabRecord]:
    yield lab.up("three-domains", NAME, say=lambda _: None)
    lab.down(NAME)


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def command_of(process: int | None) -> list[str]:
    assert process is not None
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")


def test_every_node_has_its_agent_in_its_namespace(record: LabRecord) -> None:
    for name, node in status(record).nodes.items():
        assert f"{directory_of(NAME)}/{name}/agent.json" in command_of(node.pid)
        assert os.readlink(f"/proc/{node.pid}/ns/net") == os.readlink(node.namespace)
        assert accepts(directory_of(NAME) / name / "agent.sock")


def test_every_domain_has_its_controller_outside_of_all_nodes(record: LabRecord) -> None:
    seen = status(record)
    for name, domain in seen.domains.items():
        assert f"{directory_of(NAME)}/{name}/stitchd.json" in command_of(domain.pid)
        assert os.readlink(f"/proc/{domain.pid}/ns/net") == os.readlink("/proc/self/ns/net")
        assert httpx.get(f"{domain.server}/").status_code < 500
        assert Path(domain.token_file).stat().st_mode & 0o777 == 0o600
    assert len({domain.server for domain in seen.domains.values()}) == 3


@pytest.mark.parametrize("name", ["tc1", "transit"])
def test_who_was_killed_is_missed_and_can_be_started_again(record: LabRecord, name: str) -> None:
    def pid(lab_status: LabStatus) -> int | None:
        return lab_status.nodes[name].pid if name in lab_status.nodes else lab_status.domains[name].pid

    before = status(record)
    killed = pid(before)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: pid(status(record)) is None, f"{name} is missed")
    done = stitch_lab("restart", "--lab", NAME, name)
    assert done.returncode == 0, done.stderr
    after = status(record)
    assert pid(after) not in (None, killed)
    assert after.domains.keys() == before.domains.keys()
    assert after.domains["transit"].server == before.domains["transit"].server


def test_a_restart_ends_the_old_process_first(record: LabRecord) -> None:
    old = process_of(NAME, "shop")
    assert old is not None
    new = lab.restart(NAME, "shop")
    assert new != old and not processes.alive(old) and process_of(NAME, "shop") == new


def test_a_controller_that_does_not_start_is_quoted_and_nothing_stays(tmp_path: Path) -> None:
    text = (topology_file.DIRECTORY / "three-domains.yaml").read_text()
    file = tmp_path / "refused.yaml"
    file.write_text(text.replace("ports: [tcp/443, icmp], encryption", "ports: [tcp/70000], encryption", 1))
    other = f"{NAME}-refused"
    with pytest.raises(LabError, match=r"(?s)stitchd of insight ended.*tcp/70000"):
        lab.up(str(file), other, say=lambda _: None)
    assert what_is_left(other) == []


def test_nothing_of_agents_and_controllers_is_left(record: LabRecord) -> None:
    """The last of this file: it takes the lab down."""
    running = [process.pid for group in (status(record).nodes, status(record).domains) for process in group.values()]
    lab.down(NAME)
    assert what_is_left(NAME) == []
    assert [process for process in running if process is not None and processes.alive(process)] == []
