"""Open vSwitches for tests, each in a network namespace of its own."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from waiting import wait_for

from topologies.ovs import SOCKET, SwitchFile

PORTS = {"p1": 1, "p2": 2}


@dataclass
class OpenVSwitch:
    directory: Path
    datapath_id: int = 0xA1
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket(self) -> str:
        return f"unix:{self.directory}/ovs/{SOCKET}"

    @property
    def agent(self) -> str:
        return f"openflow:{self.datapath_id:016x}@{self.socket}"

    def start(self) -> None:
        """Empty, with two ports that lead nowhere."""
        file = self.directory / "switch.json"
        switch = SwitchFile(directory=f"{self.directory}/ovs", datapath_id=self.datapath_id, ports=PORTS)
        file.write_bytes(msgspec.json.encode(switch))
        devices = "; ".join(f"ip link add {name} type veth peer {name}x; ip link set {name} up" for name in PORTS)
        command = f"{devices}; exec {sys.executable} -m topologies.ovs {file}"
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(["unshare", "-n", "sh", "-ec", command], stdout=log, stderr=log)
        wait_for(self._is_ready, f"Open vSwitch at {self.socket}")

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "log").read_text()
        return (self.directory / "ovs" / SOCKET).exists()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def flows(self) -> list[str]:
        """As ovs-ofctl shows them, without what counts."""
        return self.ofctl("dump-flows").splitlines()

    def ofctl(self, command: str, *words: str) -> str:
        """A command about the bridge."""
        done = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow13", "--no-stats", command, self.socket, *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@contextmanager
def open_vswitch(datapath_id: int = 0xA1) -> Iterator[OpenVSwitch]:
    directory = Path(tempfile.mkdtemp(prefix="ovs-"))
    switch = OpenVSwitch(directory, datapath_id)
    try:
        switch.start()
        yield switch
    finally:
        switch.stop()
        shutil.rmtree(directory)
