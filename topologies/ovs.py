"""An Open vSwitch of a lab, in the namespaces of its node: `python -m topologies.ovs FILE`, where FILE is a SwitchFile.

Its database and sockets are in a directory of its own, so it meets no other Open vSwitch of the machine. It begins
empty: what it shall forward its controller says, at its management socket there. It uses the userspace datapath, which
needs no kernel module.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

BRIDGE = "ovs_br"
"""No node is called so, and so no port."""
SOCKET = f"{BRIDGE}.mgmt"
"""Where an Open vSwitch always listens for controllers."""
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
_READY_S_MAX = 60.0
_PR_SET_PDEATHSIG = 1


class SwitchFile(msgspec.Struct, frozen=True, kw_only=True):
    directory: str
    """Of the switch alone; its sockets' paths must stay short (108 characters)."""
    datapath_id: int
    ports: dict[str, int]
    """Interface: OpenFlow port number."""


def missing() -> str:
    """What of Open vSwitch is not on this machine; empty: nothing."""
    return ", ".join(program for program in PROGRAMS if shutil.which(program) is None)


def socket_of(directory: str) -> str:
    return f"{directory}/{SOCKET}"


def main() -> None:
    switch = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=SwitchFile)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        children = run(switch, stack)
        ended, status = os.waitpid(-1, 0)
        names = {child.pid: str(child.args[0]) for child in children if isinstance(child.args, list)}
        sys.exit(f"{names.get(ended, ended)} ended with status {os.waitstatus_to_exitcode(status)}")


def run(switch: SwitchFile, stack: contextlib.ExitStack) -> tuple[subprocess.Popen[bytes], ...]:
    """Starts it, and returns when controllers can connect; it ends with the stack."""
    directory = Path(switch.directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    database, remote = directory / "conf.db", f"unix:{directory}/db.sock"
    environment = {**os.environ} | {f"OVS_{kind}DIR": str(directory) for kind in ("RUN", "LOG", "DB", "SYSCONF")}
    subprocess.run(["ovsdb-tool", "create", database, SCHEMA], env=environment, check=True)
    server = _start(
        ["ovsdb-server", str(database), f"--remote=p{remote}", f"--unixctl={directory}/db.ctl"], environment, stack
    )
    _await(directory / "db.sock", server)
    daemon = _start(["ovs-vswitchd", remote, f"--unixctl={directory}/vswitchd.ctl"], environment, stack)
    subprocess.run(
        ["ovs-vsctl", f"--db={remote}", f"--timeout={_READY_S_MAX:.0f}", *_configuration(switch)],
        env=environment,
        check=True,
    )
    _await(directory / SOCKET, daemon)
    return server, daemon


def _configuration(switch: SwitchFile) -> Iterator[str]:
    """Nothing is forwarded but what a controller says (`secure`)."""
    yield from ("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev", "fail_mode=secure")
    yield from ("protocols=OpenFlow13", f"other-config:datapath-id={switch.datapath_id:016x}")
    for interface, number in switch.ports.items():
        yield from ("--", "add-port", BRIDGE, interface)
        yield from ("--", "set", "interface", interface, f"ofport_request={number}")


def _start(command: list[str], environment: dict[str, str], stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S_MAX
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r}: no {path}")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
