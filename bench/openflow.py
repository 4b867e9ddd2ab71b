"""Entries on their way to an OpenFlow switch: encoding them, and an Open vSwitch that takes 10,000."""

import asyncio
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.osken import by_osken
from bench.report import Row, row
from controller.fulfillment.crossings import Crossing, crossing_entries
from controller.model.entry import OwnedEntry
from controller.southbound.codec import behaviour, key
from controller.southbound.difference import Operation, Update
from controller.southbound.openflow import bulk, flows, messages
from controller.southbound.openflow.connection import Connection
from controller.southbound.openflow.switch import OpenFlowTable

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from openflow_switches import OpenVSwitch, open_vswitch

ENTRIES = 10_000
OF_OSKEN = 500
ROUNDS = 7
PUSHES = 9


def rows() -> Iterator[Row]:
    entries = [_entry(number) for number in range(ENTRIES)]
    yield _encoding(entries)
    with open_vswitch() as switch:
        yield asyncio.run(_pushing(entries, switch))


def _entry(number: int) -> OwnedEntry:
    """Of SR Policy `number` of all headends."""
    headend, sr_policy = divmod(number, 2000)
    crossing = Crossing(
        node="s1",
        in_port=1 + number % 2,
        out_port=2 - number % 2,
        next_segment=0x5F00_0001_0100 + number % 50 << 80,
        onward=("e", 1),
    )
    macs = {("s1", crossing.out_port): 0x0200_0000_0100 + crossing.out_port, ("e", 1): 0x0200_0000_0200 + number % 50}
    source = 0x5F00_0001_0001 + headend << 80
    owner = f"sr_policies/e{headend}/{sr_policy}"
    ((entry,),) = crossing_entries(1 + sr_policy, source, [crossing], macs, owner).values()
    return flows.marked(entry)


def _encoding(entries: list[OwnedEntry]) -> Row:
    """Also checks that the octets are the same. CPU time, in turns."""
    assert bulk.encode(entries[:OF_OSKEN], 0) == b"".join(
        by_osken(entry, xid) for xid, entry in enumerate(entries[:OF_OSKEN])
    )
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        for begin in range(0, ENTRIES, bulk.PIECE):
            bulk.encode(entries[begin : begin + bulk.PIECE], begin)
        between_s = time.process_time()
        for xid, entry in enumerate(entries[:OF_OSKEN]):
            by_osken(entry, xid)
        ours.append(ENTRIES / (between_s - began_s))
        theirs.append(OF_OSKEN / (time.process_time() - between_s))
    rate, peer_rate = statistics.median(ours), statistics.median(theirs)
    return row(
        "fabric.openflow_encode", rate, "flow-mods/s", better="higher", target=100, peer="os-ken", peer_value=peer_rate
    )


async def _pushing(entries: list[OwnedEntry], switch: OpenVSwitch) -> Row:
    """What is to be written is known in both cases; of the peer it also lies there encoded."""
    updates = [
        Update(operation=Operation.INSERT, key=key(entry), entry=entry, does=behaviour(entry), row=None)
        for entry in entries
    ]
    prebuilt = messages.hello(1) + bulk.encode(entries, 2)
    connection = Connection("s1", switch.socket, None)
    await connection.open()
    holding = asyncio.ensure_future(connection.hold())
    table = OpenFlowTable("s1", connection)
    ours, theirs = [], []
    for _ in range(PUSHES):
        switch.ofctl("del-flows")
        began_s = time.perf_counter()
        refused = await table.write(updates)
        ours.append(ENTRIES / (time.perf_counter() - began_s))
        assert not refused and len(switch.flows()) == ENTRIES
        switch.ofctl("del-flows")
        theirs.append(await asyncio.to_thread(_replayed, switch.socket.removeprefix("unix:"), prebuilt))
        assert len(switch.flows()) == ENTRIES
    holding.cancel()
    connection.close()
    rate, peer_rate = statistics.median(ours), statistics.median(theirs)
    return row(
        "fabric.openflow_push",
        rate,
        "flows/s",
        better="higher",
        target=0.9,
        peer="prebuilt octets",
        peer_value=peer_rate,
    )


def _replayed(path: str, prebuilt: bytes) -> float:
    """Flows each second of a sender that has nothing to do but to send, until the barrier is answered."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        began_s = time.perf_counter()
        connection.sendall(prebuilt + messages.message(messages.BARRIER_REQUEST, 0))
        answers = connection.makefile("rb")
        while True:
            _, kind, length, _ = messages.HEADER.unpack(answers.read(messages.HEADER.size))
            answers.read(length - messages.HEADER.size)
            assert kind != messages.ERROR
            if kind == messages.BARRIER_REPLY:
                return ENTRIES / (time.perf_counter() - began_s)
