"""The process that makes a lab and keeps it: `python -m topologies.holder DIRECTORY`, started by `topologies.lab.up`.

It holds Mininet (whose shells hold the namespaces) and is the parent of the relay, the agents and the controllers.
What it is to make is in DIRECTORY/lab.json; how far it is goes to standard output, one JSON record a line.
"""

import contextlib
import ipaddress
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from topologies import bmv2, domain_files, ovs, relay, topology_file
from topologies.daemons import launch, wait_ready, wait_told
from topologies.emulation import WIREGUARD_SOCKETS, Emulation
from topologies.errors import LabError
from topologies.record import (
    RELAY,
    Daemon,
    DomainRecord,
    LabRecord,
    Progress,
    ProgressKind,
    read_record,
    write_record,
)
from topologies.topology import Switch, Topology

_KEYGEN_DEADLINE_S = 300.0
_LAB_ADDRESSES = ipaddress.IPv4Network("127.64.0.0/10")
_FIRST_PORT = 7001


def say(text: str) -> None:
    _tell(Progress(kind=ProgressKind.STEP, text=text))


def _tell(progress: Progress) -> None:
    sys.stdout.write(msgspec.json.encode(progress).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    directory = Path(sys.argv[1])
    try:
        emulation = _make(directory)
    except LabError as error:
        _tell(Progress(kind=ProgressKind.FAILED, text=str(error)))
        sys.exit(1)
    # Not before: who is started with a blocked SIGTERM stays deaf to it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    _tell(Progress(kind=ProgressKind.READY, text=""))
    # Whoever reads the progress waits for its end.
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    _reap()
    while signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGCHLD:
        _reap()
    emulation.stop()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _make(directory: Path) -> Emulation:
    record = read_record(directory)
    topology = topology_file.load(directory / "topology.yaml")
    _make_directories(directory, topology)
    keygen = {} if record.bare else {domain.name: _start_keygen(directory, domain.name) for domain in topology.domains}
    emulation = _network(record, directory, topology)
    record = msgspec.structs.replace(record, namespaces=dict(emulation.processes))
    write_record(directory, record)
    if record.bare:
        return emulation
    agents = tuple(
        _DAEMONS[record.switches.get(node.name, Switch.XDP)](directory, topology, node.name) for node in topology.nodes
    )
    say(f"agents on {', '.join(agent.name for agent in agents if agent.name not in record.switches)}")
    for kind, title in ((Switch.OVS, "Open vSwitch"), (Switch.BMV2, "BMv2")):
        if names := [name for name, switch in record.switches.items() if switch is kind]:
            say(f"{title} on {', '.join(names)}")
    for agent in agents:
        launch(record, agent)
    identities = {name: _identity(name, process) for name, process in keygen.items()}
    domains = _domains(directory, topology, identities, record.switches)
    controllers = tuple(_controller(directory, domain) for domain in domains)
    record = msgspec.structs.replace(record, daemons=(*agents, *controllers), domains=domains)
    write_record(directory, record)
    say(f"controllers of {', '.join(controller.name for controller in controllers)}")
    for controller in controllers:
        launch(record, controller)
    for daemon in record.daemons:
        wait_ready(record, daemon)
    for domain in topology.domains:
        wait_told(topology, domain, next(each for each in domains if each.name == domain.name))
    return emulation


def _make_directories(directory: Path, topology: Topology) -> None:
    for node in topology.nodes:
        for name in ("", "bpf", "wireguard", "state"):
            (directory / node.name / name).mkdir(mode=0o700)
    for domain in topology.domains:
        for name in ("", "keys"):
            (directory / domain.name / name).mkdir(mode=0o700)
    # The mount point; wireguard-go would make it too.
    WIREGUARD_SOCKETS.mkdir(mode=0o700, exist_ok=True)


def _network(record: LabRecord, directory: Path, topology: Topology) -> Emulation:
    if not relay.TUN_DEVICE.is_char_device():
        raise LabError(
            f"{relay.TUN_DEVICE} is missing, so links with delay, rate and loss cannot be made: "
            "load the module tun (modprobe tun), or give this container the device"
        )
    if not relay.BINARY.exists():
        raise LabError(f"{relay.BINARY} is missing: build it with ./run setup, or sh topologies/build.sh")
    client = relay.Relay(directory / "relay.sock")
    launch(
        record,
        Daemon(name=RELAY, command=(str(relay.BINARY), str(client.socket_path)), address=f"unix:{client.socket_path}"),
    )
    client.wait()
    emulation = Emulation(topology, directory, client)
    emulation.start(say)
    return emulation


def _agent(directory: Path, topology: Topology, name: str) -> Daemon:
    config = domain_files.agent_config(topology, topology.node(name), str(directory / name))
    file = directory / name / "agent.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    return Daemon(
        name=name,
        command=(_program("stitch-agent"), "--config", str(file)),
        address=config.listen,
        namespace=name,
    )


def _open_vswitch(directory: Path, topology: Topology, name: str) -> Daemon:
    switch = domain_files.switch_file(topology, name, str(directory / name))
    file = directory / name / "switch.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(switch)))
    return Daemon(
        name=name,
        command=(sys.executable, "-m", "topologies.ovs", str(file)),
        address=f"unix:{ovs.socket_of(switch.directory)}",
        namespace=name,
    )


def _bmv2(directory: Path, topology: Topology, name: str) -> Daemon:
    socket = bmv2.socket_of(str(directory / name))
    return Daemon(
        name=name,
        command=bmv2.command(socket, {port.number: port.interface for port in topology.ports(name)}),
        address=f"unix:{socket}",
        namespace=name,
    )


_DAEMONS = {Switch.XDP: _agent, Switch.OVS: _open_vswitch, Switch.BMV2: _bmv2}


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _start_keygen(directory: Path, domain: str) -> subprocess.Popen[bytes]:
    keys = directory / domain / "keys"
    return subprocess.Popen(
        [_program("stitchd"), "keygen", "--domain", domain, "--key-dir", str(keys)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _identity(domain: str, process: subprocess.Popen[bytes]) -> domain_files.Identity:
    try:
        output, errors = process.communicate(timeout=_KEYGEN_DEADLINE_S)
        return msgspec.json.decode(output, type=domain_files.Identity)
    except (subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        said = "" if isinstance(error, subprocess.TimeoutExpired) else errors.decode(errors="replace").strip()
        raise LabError(f"`stitchd keygen` made no keys for {domain}: {said or error}") from error


def _domains(
    directory: Path,
    topology: Topology,
    identities: dict[str, domain_files.Identity],
    switches: Mapping[str, Switch],
) -> tuple[DomainRecord, ...]:
    """Writes what the controllers read."""
    address = _loopback_of(os.getpid())
    ports = {domain.name: _FIRST_PORT + 2 * place for place, domain in enumerate(topology.domains)}
    listen = {name: f"{address}:{port}" for name, port in ports.items()}
    eastwest = {name: f"{address}:{port + 1}" for name, port in ports.items()}
    peers = {
        name: domain_files.Peer(identity=identity, endpoint=eastwest[name]) for name, identity in identities.items()
    }
    agents = {node.name: f"unix:{directory / node.name}/agent.sock" for node in topology.nodes}
    for name, kind in switches.items():
        if kind is Switch.BMV2:
            agents[name] = f"p4runtime:{bmv2.DEVICE_ID}@unix:{bmv2.socket_of(str(directory / name))}"
            continue
        file = domain_files.switch_file(topology, name, str(directory / name))
        agents[name] = f"openflow:{file.datapath_id:016x}@unix:{ovs.socket_of(file.directory)}"
    for domain in topology.domains:
        own = directory / domain.name
        config = domain_files.ControllerConfig(
            domain=domain.name,
            inventory=str(own / "inventory.yaml"),
            policy=str(own / "policy.yaml"),
            store=str(own / "store.sqlite"),
            listen=listen[domain.name],
            token_file=str(own / "token"),
            eastwest=eastwest[domain.name],
            key_dir=str(own / "keys"),
        )
        Path(config.inventory).write_text(domain_files.inventory(topology, domain, peers, agents))
        Path(config.policy).write_text(domain_files.policy(domain))
        _write_secret(Path(config.token_file), secrets.token_urlsafe(32))
        (own / "stitchd.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    return tuple(
        DomainRecord(name=name, listen=listen[name], token_file=str(directory / name / "token")) for name in listen
    )


def _write_secret(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)


def _loopback_of(process: int) -> str:
    """An address for the lab alone, in 127.64.0.0/10: as long as its holder lives, no other has its process id (22
    bits). A free port of 127.0.0.1 would not stay free: any program's connection may take it for its own end, before
    the controller listens there or while it is started again.
    """
    return str(_LAB_ADDRESSES[process % _LAB_ADDRESSES.num_addresses])


def _controller(directory: Path, domain: DomainRecord) -> Daemon:
    config = directory / domain.name / "stitchd.json"
    return Daemon(name=domain.name, command=(_program("stitchd"), "--config", str(config)), address=domain.listen)


if __name__ == "__main__":
    main()
