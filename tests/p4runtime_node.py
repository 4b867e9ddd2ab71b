"""A P4Runtime server over maps in memory, on a unix socket, with real gRPC clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from finsy.proto import p4r, p4r_grpc, rpc_status
from map_fake import FakeMap
from pipeline_tables import LAYOUT, fake_maps
from waiting import LIMIT_S

from dataplane.errors import RequestInvalid
from dataplane.p4runtime.server import (
    CLIENT_OPTIONS,
    SERVER_OPTIONS,
    STATUS_DETAILS,
    Device,
    P4RuntimeService,
    add_p4runtime,
)
from dataplane.tables.node_tables import Tables
from dataplane.telemetry.counters import Totals

DEVICE = 7
Config = p4r.SetForwardingPipelineConfigRequest


class Ports:
    """Takes what is sent out of ports 1 to 9."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def send(self, port: int, frame: bytes) -> None:
        if not 1 <= port <= 9:
            raise RequestInvalid(f"there is no port {port}")
        self.sent.append((port, frame))


class Node:
    def __init__(self, service: P4RuntimeService, maps: dict[str, FakeMap], ports: Ports, address: str) -> None:
        self.service = service
        self.maps = maps
        self.ports = ports
        self.address = address


def counts(size: int) -> Totals:
    """Packets and bytes that tell the index."""
    index = np.arange(size, dtype=np.uint64)
    return np.stack((index, index * 100), axis=1)


@asynccontextmanager
async def node(directory: Path, maps: dict[str, FakeMap] | None = None, *, fresh: bool = True) -> AsyncIterator[Node]:
    maps = maps or fake_maps()
    ports = Ports()
    device = Device(
        device_id=DEVICE,
        layout=LAYOUT,
        tables=Tables(LAYOUT, maps),
        counters={counter.name: partial(counts, counter.size) for counter in LAYOUT.p4info.counters},
        packets=ports,
        state_dir=directory,
        fresh=fresh,
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    service = add_p4runtime(server, device)
    address = f"unix:{directory}/p4runtime.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield Node(service, maps, ports, address)
    finally:
        await server.stop(None)


class Client:
    """A controller: one channel, one stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = p4r_grpc.P4RuntimeStub(channel)
        self.stream = self.stub.StreamChannel()
        self.election_id: int | None = None
        self.role = ""

    async def arbitrate(self, election_id: int | None, role: str = "", device_id: int = DEVICE) -> None:
        """Asks only; what comes back is for `told`."""
        self.election_id, self.role = election_id, role
        update = p4r.MasterArbitrationUpdate(device_id=device_id)
        if role:
            update.role.name = role
        if election_id is not None:
            update.election_id.CopyFrom(number(election_id))
        await self.stream.write(p4r.StreamMessageRequest(arbitration=update))

    async def receive(self) -> p4r.StreamMessageResponse:
        return await asyncio.wait_for(self.stream.read(), LIMIT_S)

    async def told(self) -> tuple[int, int | None]:
        """Status code and election id of the next notification."""
        message = (await self.receive()).arbitration
        election = message.election_id
        return message.status.code, (election.high << 64 | election.low) if message.HasField("election_id") else None

    async def become_primary(self, election_id: int = 1, role: str = "") -> None:
        await self.arbitrate(election_id, role)
        assert (await self.told())[0] == 0

    async def configure(self, action: int = Config.VERIFY_AND_COMMIT) -> None:
        await self.stub.SetForwardingPipelineConfig(self.config_request(action), timeout=LIMIT_S)

    def config_request(self, action: int) -> Config:
        request = Config(device_id=DEVICE, role=self.role, action=action)
        request.election_id.CopyFrom(number(self.election_id or 0))
        request.config.p4info.CopyFrom(LAYOUT.p4info.message)
        request.config.cookie.cookie = 42
        return request

    def write_request(self, *updates: p4r.Update) -> p4r.WriteRequest:
        request = p4r.WriteRequest(device_id=DEVICE, role=self.role, updates=updates)
        if self.election_id is not None:
            request.election_id.CopyFrom(number(self.election_id))
        return request

    async def write(self, *updates: p4r.Update) -> None:
        await self.stub.Write(self.write_request(*updates), timeout=LIMIT_S)

    async def read(self, *entities: p4r.Entity) -> list[p4r.Entity]:
        request = p4r.ReadRequest(device_id=DEVICE, entities=entities)
        return [entity async for response in self.stub.Read(request, timeout=LIMIT_S) for entity in response.entities]

    async def read_tables(self, table_id: int = 0) -> list[p4r.TableEntry]:
        entities = await self.read(p4r.Entity(table_entry=p4r.TableEntry(table_id=table_id)))
        return [entity.table_entry for entity in entities]


@asynccontextmanager
async def client(node: Node) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(node.address, options=CLIENT_OPTIONS) as channel:
        yield Client(channel)


@asynccontextmanager
async def primary(directory: Path) -> AsyncIterator[tuple[Node, Client]]:
    """A node with its config set, and the controller that may write."""
    async with node(directory) as served, client(served) as controller:
        await controller.become_primary()
        await controller.configure()
        yield served, controller


def number(value: int) -> p4r.Uint128:
    return p4r.Uint128(high=value >> 64, low=value & (2**64 - 1))


def errors_of(error: grpc.aio.AioRpcError) -> list[int]:
    """Canonical codes by update, from the status details."""
    data = next(value for key, value in error.trailing_metadata() or () if key == STATUS_DETAILS)
    status = rpc_status.Status.FromString(data)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    codes = []
    for detail in status.details:
        fault = p4r.Error()
        assert detail.Unpack(fault)
        codes.append(fault.canonical_code)
    return codes
