"""What a lab writes down about itself, in its run directory /run/netstitch/<lab>/ (mode 0700).

| file | what |
|---|---|
| lab.json | LabRecord |
| topology.yaml | as it was when the lab was made |
| NAME.pid, NAME.log | of the holder, the relay, each agent (by node) and each controller (by domain) |
| relay.sock | the relay's commands |
| NODE/ | agent.json, agent.sock, state, bpf (a bpffs in the node's mount namespace), wireguard; of an Open vSwitch
  switch.json, and ovs with its database and sockets; of a BMv2 p4runtime.sock |
| DOMAIN/ | stitchd.json, inventory.yaml, policy.yaml, store.sqlite, token, keys |
"""

import enum
import os
from pathlib import Path

import msgspec

from topologies.topology import Switch

RUN_DIRECTORY = Path("/run/netstitch")
CHECKOUT = Path(__file__).resolve().parent.parent
RELAY, HOLDER = "relay", "holder"
"""Processes of a lab beside agents (named after their node) and controllers (after their domain)."""


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """Of its node or domain."""
    command: tuple[str, ...]
    address: str
    """Where it listens once it is ready: `unix:/path` or `host:port`."""
    namespace: str = ""
    """The node in whose namespaces it runs; empty: the root namespaces."""


class DomainRecord(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    listen: str
    """`host:port` of its controller's REST API."""
    token_file: str


class LabRecord(msgspec.Struct, frozen=True, kw_only=True):
    lab: str
    checkout: str
    """Of the netstitch that made it; other checkouts name their labs themselves."""
    bare: bool
    """Without agents and controllers."""
    switches: dict[str, Switch] = {}
    """Nodes that run no agent."""
    namespaces: dict[str, int] = {}
    """A process in the namespaces of each host and node."""
    daemons: tuple[Daemon, ...] = ()
    domains: tuple[DomainRecord, ...] = ()


class ProgressKind(enum.StrEnum):
    STEP = "step"
    READY = "ready"
    FAILED = "failed"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    kind: ProgressKind
    text: str


def directory_of(lab: str) -> Path:
    return RUN_DIRECTORY / lab


def read_record(directory: Path) -> LabRecord:
    """Raises FileNotFoundError, or msgspec.DecodeError."""
    return msgspec.json.decode((directory / "lab.json").read_bytes(), type=LabRecord)


def write_record(directory: Path, record: LabRecord) -> None:
    new = directory / "lab.json.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    os.replace(new, directory / "lab.json")
