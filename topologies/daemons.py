"""Starting the programs of a lab, and waiting until they are ready."""

import fnmatch
import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from topologies import processes
from topologies.errors import LabError
from topologies.record import Daemon, DomainRecord, LabRecord, directory_of
from topologies.topology import Domain, Topology

_LOG_LINES = 15
_READY_DEADLINE_S = 300.0
"""For machines that are busy with much else: one that has ended is found at once."""


def inside(record: LabRecord, place: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """`command` in the network and mount namespaces of a host or node; empty: in the root ones."""
    return ("mnexec", "-a", str(record.namespaces[place]), *command) if place else command


def launch(record: LabRecord, daemon: Daemon) -> int:
    """Starts it and notes its process id; output is added to its log."""
    directory = directory_of(record.lab)
    with open(directory / f"{daemon.name}.log", "ab") as log:
        process = subprocess.Popen(
            inside(record, daemon.namespace, daemon.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=processes.environment(record.lab),
            start_new_session=True,
        )
    note_process(record.lab, daemon.name, process.pid)
    return process.pid


def note_process(lab: str, name: str, process: int) -> None:
    (directory_of(lab) / f"{name}.pid").write_text(str(process))


def process_of(lab: str, name: str) -> int | None:
    """None: it does not run."""
    try:
        process = int((directory_of(lab) / f"{name}.pid").read_text())
    except FileNotFoundError:
        return None
    return process if processes.belongs(process, lab) else None


def wait_ready(record: LabRecord, daemon: Daemon) -> None:
    """Until it accepts connections. Raises LabError with the end of its log if it ends, or takes too long."""
    deadline = time.monotonic() + _READY_DEADLINE_S
    while not _accepts(daemon.address):
        if process_of(record.lab, daemon.name) is None:
            raise LabError(f"{_title(daemon)} ended: {' '.join(daemon.command)}\n{_last_words(record.lab, daemon)}")
        if time.monotonic() > deadline:
            raise LabError(
                f"{_title(daemon)} is not ready after {_READY_DEADLINE_S:.0f} s "
                f"(nobody listens on {daemon.address})\n{_last_words(record.lab, daemon)}"
            )
        time.sleep(0.02)


def wait_told(topology: Topology, domain: Domain, record: DomainRecord) -> None:
    """Until its controller knows the services that their owners tell it, and where its neighbours lead. Raises LabError
    where it takes too long."""
    services = {
        service.name
        for owner in topology.domains
        for rule in owner.policy.advertise
        for service in topology.services
        if service.name.startswith(f"{owner.name}/") and owner.name in domain.knows
        if fnmatch.fnmatchcase(service.name, rule.what) and fnmatch.fnmatchcase(domain.name, rule.to)
        if any(fnmatch.fnmatchcase(service.name, taken.what) for taken in domain.policy.learn)
    }
    ways = {
        f"{owner.name} over {neighbour.name}"
        for neighbour in topology.domains
        for rule in neighbour.policy.advertise
        for owner in topology.domains
        if neighbour.name in domain.knows and domain.policy.learn
        if owner.name in neighbour.knows and owner.name != domain.name
        if fnmatch.fnmatchcase(owner.name, rule.what) and fnmatch.fnmatchcase(domain.name, rule.to)
    }
    deadline = time.monotonic() + _READY_DEADLINE_S
    while missing := (services | ways) - _known(record):
        if time.monotonic() > deadline:
            raise LabError(f"the controller of {domain.name} has not been told of {', '.join(sorted(missing))}")
        time.sleep(0.1)


def _known(record: DomainRecord) -> set[str]:
    """Services; and domains that neighbours lead to."""
    ways = {
        f"{owner} over {domain['metadata']['name']}"
        for domain in _get(record, "domains")
        for owner in domain["status"].get("leads_to", ())
    }
    return ways | {service["metadata"]["name"] for service in _get(record, "services")}


def _get(record: DomainRecord, kind: str) -> list[dict[str, Any]]:
    token = Path(record.token_file).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{record.listen}/v1/{kind}", headers=headers), timeout=10
    ) as answer:
        resources: list[dict[str, Any]] = json.load(answer)
        return resources


def _title(daemon: Daemon) -> str:
    return f"{Path(daemon.command[0]).name} of {daemon.name}"


def _last_words(lab: str, daemon: Daemon) -> str:
    log = directory_of(lab) / f"{daemon.name}.log"
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _accepts(address: str) -> bool:
    unix = address.startswith("unix:")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        host, _, port = address.rpartition(":")
        try:
            connection.connect(address.removeprefix("unix:") if unix else (host, int(port)))
        except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
            return False
    return True
