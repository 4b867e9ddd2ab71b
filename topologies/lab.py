"""The life of a lab: up, down, and what one does with it in between.

A lab is known by its id, which is a directory in /run/netstitch. Unless it is named it is called after its topology
and the checkout of netstitch that made it, so that two checkouts do not disturb each other.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from topologies import bmv2, ovs, processes, topology_file
from topologies.daemons import inside, launch, note_process, process_of, wait_ready
from topologies.errors import LabError, LabExists, NotAllowed, NotFound, RequestInvalid
from topologies.record import (
    CHECKOUT,
    HOLDER,
    RELAY,
    RUN_DIRECTORY,
    LabRecord,
    Progress,
    ProgressKind,
    directory_of,
    read_record,
    write_record,
)
from topologies.topology import Switch, Topology

_LAB_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
"""So short that the paths of sockets stay below 108 characters."""


def default_name(topology: Topology) -> str:
    return f"{topology.name[:31]}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]}"


def running() -> tuple[LabRecord, ...]:
    """Labs of this checkout, also those that lost their holder."""
    if not RUN_DIRECTORY.is_dir():
        return ()
    records = (record for directory in sorted(RUN_DIRECTORY.iterdir()) if (record := _record(directory)) is not None)
    return tuple(record for record in records if record.checkout == str(CHECKOUT))


def find(lab: str | None) -> LabRecord:
    """The named one, or the only one of this checkout. Raises NotFound, RequestInvalid."""
    if lab is None:
        labs = running()
        if len(labs) == 1:
            return labs[0]
        if labs:
            raise RequestInvalid(f"several labs are up: name one with --lab {'|'.join(record.lab for record in labs)}")
        raise NotFound("no lab is up: start one with `stitch lab up three-domains`")
    record = _record(directory_of(_checked(lab)))
    if record is None:
        raise NotFound(f"no lab {lab} is up ({directory_of(lab)} is not there)")
    return record


def topology_of(record: LabRecord) -> Topology:
    return topology_file.load(directory_of(record.lab) / "topology.yaml")


def up(
    topology: str,
    lab: str | None = None,
    *,
    bare: bool = False,
    switch: Switch = Switch.XDP,
    say: Callable[[str], None] = print,
) -> LabRecord:
    """Makes a lab and returns when all of it is ready. Leaves nothing if that fails. `switch`: what nodes are that are
    only crossed, beside those of which the topology says it.

    Raises TopologyInvalid, LabExists, RequestInvalid, NotAllowed, LabError.
    """
    file = topology_file.find(topology)
    checked = topology_file.load(file)
    name = _checked(lab or default_name(checked))
    directory = directory_of(name)
    switches: dict[str, Switch] = {
        node.name: kind
        for node in checked.nodes
        if checked.is_only_crossed(node)
        and (kind := node.switch if node.switch is not Switch.XDP else switch) is not Switch.XDP
    }
    for kind, missing, advice in (
        (Switch.OVS, ovs.missing(), "run ./run setup, or install openvswitch-switch"),
        (Switch.BMV2, bmv2.missing(), "build it from its sources, with PI (docs/fabrics.md), and put it on PATH"),
    ):
        if missing and kind in switches.values():
            names = ", ".join(name for name, switch_kind in switches.items() if switch_kind is kind)
            raise LabError(f"{names}: {missing} not found: {advice}")
    if os.geteuid() != 0:
        raise NotAllowed("a lab needs root, for namespaces and BPF: run it with sudo")
    with _locked():
        if process_of(name, HOLDER) is not None:
            raise LabExists(f"lab {name} is up already: end it with `stitch lab down --lab {name}`")
        _remove(name)
        directory.mkdir(mode=0o700)
        shutil.copyfile(file, directory / "topology.yaml")
        record = LabRecord(lab=name, checkout=str(CHECKOUT), bare=bare, switches=switches)
        write_record(directory, record)
        holder = _start_holder(record)
    try:
        _follow(name, holder, say)
    except BaseException:
        down(name)
        raise
    return read_record(directory)


def down(lab: str) -> None:
    """Ends everything of a lab, whatever state it is in; does nothing where there is none."""
    with _locked():
        _remove(_checked(lab))
    with contextlib.suppress(OSError):
        RUN_DIRECTORY.rmdir()  # another lab's directory keeps it


def command(record: LabRecord, place: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """What runs `arguments` in the namespaces of a host or node. Raises NotFound for unknown ones."""
    if place not in record.namespaces:
        raise NotFound(f"lab {record.lab} has no {place}: one of {', '.join(record.namespaces)}")
    if not processes.belongs(record.namespaces[place], record.lab):
        raise LabError(f"{place} of lab {record.lab} is gone: take the lab down and up again")
    return inside(record, place, ("env", *arguments))


def execute(
    record: LabRecord, place: str, *arguments: str, timeout_s: float | None = None, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a host or node to its end; standard output and error are captured."""
    return subprocess.run(
        command(record, place, arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        input=input,
        env=processes.environment(record.lab),
    )


def restart(lab: str, name: str) -> int:
    """Ends the agent of a node or the controller of a domain, if it runs, and starts it again. Returns its process."""
    record = find(lab)
    daemon = next((daemon for daemon in record.daemons if daemon.name == name), None)
    if daemon is None:
        known = ", ".join(daemon.name for daemon in record.daemons) or "none: the lab is bare"
        raise NotFound(f"lab {lab} has no agent or controller {name}: one of {known}")
    process = process_of(lab, name)
    if process is not None:
        processes.stop(process)
    started = launch(record, daemon)
    wait_ready(record, daemon)
    return started


def relay_process(record: LabRecord) -> int:
    process = process_of(record.lab, RELAY)
    if process is None:
        raise LabError(f"the relay of lab {record.lab} does not run, so no link works: take the lab down and up again")
    return process


def _checked(lab: str) -> str:
    if not _LAB_NAME.fullmatch(lab):
        raise RequestInvalid(f"{lab!r} cannot name a lab: expected lower-case letters, digits, . and -, at most 40")
    return lab


def _record(directory: Path) -> LabRecord | None:
    """None: there is no lab, or none that wrote down anything."""
    try:
        return read_record(directory)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def _start_holder(record: LabRecord) -> subprocess.Popen[bytes]:
    directory = directory_of(record.lab)
    with open(directory / "holder.log", "ab") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "topologies.holder", str(directory)],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=processes.environment(record.lab),
            start_new_session=True,
        )
    note_process(record.lab, HOLDER, holder.pid)
    return holder


def _follow(lab: str, holder: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    assert holder.stdout is not None
    with holder.stdout as lines:
        for line in lines:
            progress = msgspec.json.decode(line, type=Progress)
            match progress.kind:
                case ProgressKind.STEP:
                    say(progress.text)
                case ProgressKind.READY:
                    return
                case ProgressKind.FAILED:
                    raise LabError(progress.text)
    log = (directory_of(lab) / "holder.log").read_text(errors="replace")
    raise LabError(f"the process that makes the lab ended (status {holder.wait()}) before the lab was ready\n{log}")


def _remove(lab: str) -> None:
    processes.end(lab)
    directory = directory_of(lab)
    if directory.exists():
        shutil.rmtree(directory)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One at a time makes or removes directories of labs."""
    while True:
        RUN_DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(RUN_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if RUN_DIRECTORY.exists() and os.fstat(handle).st_ino == RUN_DIRECTORY.stat().st_ino:
                yield
                return
        finally:
            os.close(handle)
