"""Our topologies for Mininet alone: `mn --custom topologies/mininet_topos.py --topo three-domains`.

Hosts are hosts, nodes are switches; Mininet numbers the hosts, so that they reach each other where networks overlap.
There is no netstitch in it: that is `stitch lab up`. Delays and rates take effect with `--link tc`.

`mn` runs this in its own Python, which has none of our libraries: the topology is read by the project's.
"""

# mypy: disable-error-code="no-untyped-call"
# (Mininet has no types.)

import functools
import json
import os
import shutil
import subprocess
import sys
from typing import Any

from mininet.node import Switch
from mininet.topo import Topo

_HERE = os.path.dirname(os.path.abspath(sys._getframe().f_code.co_filename))  # mn sets no __file__
_PYTHON = os.path.join(_HERE, os.pardir, ".venv", "bin", "python")


class KernelBridge(Switch):
    """A bridge of the kernel in a namespace, with spanning tree, for machines where no Open vSwitch runs."""

    _FORWARD_DELAY = 200
    """Hundredths of a second, the least that the kernel takes (IEEE 802.1D: 15 s)."""

    def __init__(self, name: str, **params: Any) -> None:
        super().__init__(name, **{**params, "inNamespace": True})

    def start(self, controllers: list[Any]) -> None:
        self.cmd(f"ip link add br0 type bridge stp_state 1 forward_delay {self._FORWARD_DELAY}")
        for interface in self.intfList():
            if interface.name != "lo":
                self.cmd(f"ip link set dev {interface} master br0 up")
        self.cmd("ip link set dev br0 up")

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803
        self.cmd("ip link delete br0")
        super().stop(deleteIntfs)

    def connected(self) -> bool:
        """Each port has its role in the spanning tree: it forwards (3) or is blocked (4)."""
        return set(self.cmd("cat /sys/class/net/*/brport/state").split()) <= {"3", "4"}


def _runs_open_vswitch() -> bool:
    """It may be installed, and not run."""
    asked = ["ovs-vsctl", "--timeout=5", "show"]
    return shutil.which(asked[0]) is not None and subprocess.run(asked, capture_output=True).returncode == 0


class NetstitchTopo(Topo):
    def build(self, topology: dict[str, Any], **_params: Any) -> None:
        switch = {} if _runs_open_vswitch() else {"cls": KernelBridge}
        for number, node in enumerate(topology["nodes"], 1):
            self.addSwitch(node["name"], dpid=f"{number:016x}", stp=True, failMode="standalone", **switch)
        for host in topology["hosts"]:
            self.addHost(host["name"])
            for interface in host["interfaces"]:
                self.addLink(host["name"], interface["node"])
        for link in topology["links"]:
            quality = {"bw": min(link["rate_mbit"], 1000), "delay": f"{link['delay_ms']}ms"}
            self.addLink(link["a"]["node"], link["b"]["node"], **quality)


def netstitch_topo(name: str, *_arguments: object, **_parameters: object) -> Topo:
    command = [_PYTHON, "-m", "topologies.topology_file", name]
    done = subprocess.run(command, cwd=os.path.dirname(_HERE), stdout=subprocess.PIPE, check=True)
    return NetstitchTopo(topology=json.loads(done.stdout))


topos = {
    file[: -len(".yaml")]: functools.partial(netstitch_topo, file[: -len(".yaml")])
    for file in sorted(os.listdir(_HERE))
    if file.endswith(".yaml")
}
