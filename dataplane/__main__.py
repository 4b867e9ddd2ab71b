"""`stitch-agent`: composes a node's dataplane from its configuration, and serves P4Runtime and netstitch.Host.

The agent may end at any moment, by SIGTERM or SIGKILL: program, maps, attachments and tunnels stay as they are, and the
next agent takes them over. Only `--teardown` removes them.
"""

import argparse
import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import structlog
from msgspec.structs import replace

from dataplane import config as configuration
from dataplane import grpc_services, log, service_manager, state
from dataplane.agent import Agent, Parts
from dataplane.errors import AgentError, NodeRefused, RequestInvalid
from dataplane.host import service
from dataplane.host.all_groups import AllGroups
from dataplane.host.detour import Detours
from dataplane.host.device import read_device
from dataplane.host.fragmentation import Fragmenter
from dataplane.host.neighbors import Neighbors
from dataplane.host.ports import Ports
from dataplane.host.redirects import Redirects, follow_redirects
from dataplane.host_api import AgentConfig, PortStatus
from dataplane.listener import Listener
from dataplane.log import Logger
from dataplane.p4runtime import p4info
from dataplane.p4runtime.packet_io import PacketOut, punted
from dataplane.p4runtime.server import SERVER_OPTIONS, Device, P4RuntimeService, add_p4runtime
from dataplane.probes.prober import Prober
from dataplane.tables import layout, table_sizes
from dataplane.tables.node_tables import Tables
from dataplane.tables.table_digest import TableDigests
from dataplane.telemetry.losses import Losses, Watched, of_port, of_tunnel
from dataplane.telemetry.stream import Telemetry
from dataplane.version import VERSION
from dataplane.visible import visible
from dataplane.wireguard.device import WireGuard
from dataplane.wireguard.kernel import KernelWireGuard, kernel_has_wireguard
from dataplane.wireguard.tunnels import Tunnels
from dataplane.wireguard.userspace import GoWireGuard
from dataplane.xdp import program
from dataplane.xdp.bpf import RingBuffer
from dataplane.xdp.flow_cache import FlowCache
from dataplane.xdp.jiffies import JiffiesClock

if TYPE_CHECKING:
    from dataplane.telemetry.metrics import MetricsServer

_log: Logger = structlog.get_logger("stitch-agent")
_STOP_GRACE_S = 0.5
_DEVICE_ID = 1
"""Each agent is one device."""
_PUNTS_AT_ONCE = 256
_CUT_AT_ONCE = 16
"""Then the agent's other work has its turn."""
_OPTIONS = (
    *SERVER_OPTIONS,
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="stitch-agent", description="The dataplane agent of a netstitch node.")
    parser.add_argument("--version", action="version", version=f"stitch-agent {VERSION}")
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="JSON, as AgentConfig in host_api.py"
    )
    parser.add_argument("--check-config", action="store_true", help="say whether FILE can be used, and end")
    parser.add_argument("--teardown", action="store_true", help="remove tunnels, attachments and pinned maps, and end")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        config = configuration.load(options.config)
        if options.check_config:
            print(f"{options.config}: ok, node {config.name}")
            return 0
        log.configure(node=config.name)
        state_dir = Path(config.state_dir)
        state.claim(state_dir)  # held until the process ends
        if options.teardown:
            detours = Detours()
            for number in detours.numbers():
                if detours.remove(number):
                    _log.info("teardown", change=f"removed the detour of port {number}")
            changes = _tunnels(config).remove_all() + program.teardown(Path(config.pin_dir))
            for change in changes + AllGroups(state_dir).give_back(()):
                _log.info("teardown", change=change)
            return 0
        asyncio.run(_serve(config, _compose(config)))
    except RequestInvalid as error:
        print(visible(f"stitch-agent: {error}"), file=sys.stderr)
        return 2
    except (AgentError, OSError) as error:
        print(visible(f"stitch-agent: {error}"), file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    parts: Parts
    pipeline: program.Pipeline
    tables: Tables
    packets_out: PacketOut


def _compose(config: AgentConfig) -> _Node:
    """Takes over what an agent before left, or begins anew. The old program serves until `place_ports`."""
    pin_dir = Path(config.pin_dir)
    table_layout = layout.of(p4info.resized(p4info.load(), table_sizes.by_name(config.table_sizes)))
    pipeline = program.load(pin_dir, config.flow_cache_entries, table_layout)
    _log.info("pipeline", taken_over=pipeline.adopted, layout=pipeline.layout)
    cache = pipeline.maps["flow_cache"]
    flows = FlowCache(cache.fd, cache.max_entries, JiffiesClock.calibrated())
    links, groups = program.PinnedLinks(pin_dir, pipeline.program), AllGroups(Path(config.state_dir))
    ports = Ports(pipeline.maps, links, Detours(), groups, read_device)
    tunnels = _tunnels(config)
    if tunnels.guard():
        _log.info("started", change="set what the kernel may forward (nftables table `netstitch`)")
    tables = Tables(table_layout, pipeline.maps, flows.expire)

    def watched() -> Iterator[Watched]:
        for port in ports.status():
            yield from of_port(port)
        for link in tunnels.links():
            yield from of_tunnel(link)

    prober = None
    if config.probes_s_max:
        prober = Prober(pipeline.maps, table_layout.by_name["next_hop"], ports.interface, config.probes_s_max)

    def port_statuses() -> tuple[PortStatus, ...]:
        silent = prober.silent_ports() if prober is not None else frozenset()
        statuses = ports.status()
        if not silent:
            return statuses
        return tuple(_silent(status) if status.number in silent else status for status in statuses)

    packets_out = PacketOut(ports.interface)
    parts = Parts(
        config=config,
        layout=pipeline.layout,
        ports=ports,
        port_statuses=port_statuses,
        tunnels=tunnels,
        flows=flows,
        tables=tables,
        telemetry=Telemetry(
            flows, program.Counters(pipeline.maps), port_statuses, prober.read if prober is not None else tuple
        ),
        prober=prober,
        digests=TableDigests(table_layout, pipeline.maps),
        maps_bytes=lambda: sum(bpf_map.memory_bytes() for bpf_map in pipeline.maps.values()),
        losses=Losses(_follow_redirects(pin_dir, pipeline), watched),
        neighbors=Neighbors(tables, pipeline.maps["neighbor_cache"], ports, packets_out.send, flows.silence_s),
    )
    return _Node(parts=parts, pipeline=pipeline, tables=tables, packets_out=packets_out)


def _silent(status: PortStatus) -> PortStatus:
    fault = f"{status.interface} has a carrier, but probes over its link do not come back: see what is at its other end"
    return replace(status, silent=True, faults=(*status.faults, fault))


def _follow_redirects(pin_dir: Path, pipeline: program.Pipeline) -> Redirects | None:
    try:
        return follow_redirects(pin_dir, pipeline.maps)
    except OSError as error:
        effect = "packets that a port does not take are lost uncounted"
        _log.warning("redirects_not_followed", reason=str(error), effect=effect)
        return None


async def _serve(config: AgentConfig, node: _Node) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    agent = Agent(node.parts)
    listener = Listener(config, _log_refused)
    server = grpc.aio.server(options=_OPTIONS, interceptors=listener.interceptors())
    server.add_generic_rpc_handlers((service.handler(agent),))
    p4runtime = add_p4runtime(server, _device(config, node))
    health = await grpc_services.add_to(server)
    for change in (
        *await agent.place_ports(),
        *program.remove_other_layouts(Path(config.pin_dir), node.pipeline.layout),
    ):
        _log.info("started", change=change)
    listener.bind(server)
    await server.start()
    await listener.open()
    _read_rings(node.pipeline, agent, p4runtime)
    metrics = await _serve_metrics(config, agent)
    _give_back_memory()
    service_manager.ready()
    _log.info("serving", address=config.listen, wireguard=agent.wireguard)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(agent.run())
        await stop.wait()
        running.cancel()
    if metrics is not None:
        metrics.close()
    await health.enter_graceful_shutdown()
    await server.stop(_STOP_GRACE_S)
    listener.close()
    _log.info("stopped", advice="the dataplane stays as it is; `stitch-agent --teardown` removes it")


def _give_back_memory() -> None:
    """What only the start needed: compiled programs, their types, texts of the P4Info."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's
        trim(0)


def _device(config: AgentConfig, node: _Node) -> Device:
    counters = program.Counters(node.pipeline.maps)
    return Device(
        device_id=_DEVICE_ID,
        layout=node.tables.layout,
        tables=node.tables,
        counters={
            "forwarding_class_counter": node.parts.telemetry.forwarding_classes,
            "forwarding_class_drop_counter": counters.forwarding_class_drops,
            "policy_class_counter": counters.policy_classes,
            "drop_counter": counters.drops,
        },
        packets=node.packets_out,
        state_dir=Path(config.state_dir),
        fresh=not node.pipeline.adopted,
    )


def _read_rings(pipeline: program.Pipeline, agent: Agent, p4runtime: P4RuntimeService) -> None:
    """What XDP mirrors goes to watchers, what it punts to the primary controller, what is too large into pieces."""
    mirrored, to_controller = RingBuffer(pipeline.maps["capture"]), RingBuffer(pipeline.maps["punt"])
    too_large = RingBuffer(pipeline.maps["cut"])

    def not_fragmented(port: int, error: AgentError | OSError) -> None:
        agent.not_sent(port)
        _log.error("packet_not_fragmented", reason=str(error))

    fragmenter = Fragmenter(pipeline.program, not_fragmented)

    def read_mirrored() -> None:
        for record in mirrored.consume():
            agent.mirrored(record)

    def read_punted() -> None:
        for record in to_controller.consume(_PUNTS_AT_ONCE):
            report = punted(record)
            p4runtime.packet_in(report.frame, report.metadata)

    def read_too_large() -> None:
        for record in too_large.consume(_CUT_AT_ONCE):
            fragmenter.receive(record)

    loop = asyncio.get_running_loop()
    loop.add_reader(too_large.fd, read_too_large)
    loop.add_reader(mirrored.fd, read_mirrored)
    loop.add_reader(to_controller.fd, read_punted)


def _tunnels(config: AgentConfig) -> Tunnels:
    state_dir = Path(config.state_dir)
    wireguard: WireGuard = KernelWireGuard()
    if not kernel_has_wireguard():
        wireguard = GoWireGuard(Path(config.wireguard_dir), state_dir / "wireguard")
    return Tunnels(config.name, config.borders, wireguard, state_dir)


async def _serve_metrics(config: AgentConfig, agent: Agent) -> "MetricsServer | None":
    if not config.metrics:
        return None
    from dataplane.telemetry.metrics import MetricsServer  # 5 MB

    metrics = MetricsServer(agent.metrics)
    try:
        await metrics.listen(config.metrics)
    except OSError as error:
        raise NodeRefused(f"cannot listen on {config.metrics} for metrics: {error}") from error
    return metrics


def _log_refused(who: str, reason: str) -> None:
    _log.warning("refused", peer=who, reason=reason)


if __name__ == "__main__":
    sys.exit(main())
