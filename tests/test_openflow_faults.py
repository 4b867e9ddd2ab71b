"""Switches that lie, forget, overflow or speak something else: what they shall have is repaired, or what is wrong is
named."""

import asyncio
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from switch_fake import FakeSwitch
from test_openflow import Controller, controller, entries
from waiting import until

from controller.config import AgentTls
from controller.model.event import NodeDescribed, NodeRejected, NodeSynced, NodeUnreachable
from controller.serving import switch_tls
from controller.southbound.openflow import connection


@pytest.fixture
async def switch() -> AsyncIterator[FakeSwitch]:
    with tempfile.TemporaryDirectory(prefix="of-") as directory:
        fake = FakeSwitch(Path(directory) / "s")
        await fake.start()
        yield fake
        fake.stop()


async def test_the_fake_behaves(switch: FakeSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        assert (await own.sync(*entries(1, 2))).writes == 4
        assert (await own.sync(*entries(2))).writes == 1
        assert len(switch.flows) == 3


async def test_what_a_switch_takes_and_does_not_do_is_repaired(switch: FakeSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.next(NodeDescribed)
        switch.ignores = 1
        await own.sync(*entries(1))
        synced = await own.sync(*entries(1), audit=True)
        assert len(synced.deviations) == 1 and len(switch.flows) == 3


async def test_a_switch_that_never_does_what_it_takes_is_marked_with_whose_it_is(switch: FakeSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.sync(*entries(1))
        switch.ignores = 1 << 30
        await own.sync(*entries(1, 2))
        for _ in range(2):
            assert isinstance(await own.sync(*entries(1, 2), audit=True), NodeSynced)
        for audit in (True, False, True):
            rejected = await own.sync(*entries(1, 2), audit=audit)
            assert isinstance(rejected, NodeRejected)
            (part,) = rejected.refused or ()
            assert part.part == "sr_policies/e1/2" and "does not do what it takes" in part.reason
        switch.ignores = 0
        await own.sync(*entries(1, 2))
        assert not (await own.sync(*entries(1, 2), audit=True)).deviations


async def test_a_switch_that_is_full_says_for_whom_it_has_no_room(switch: FakeSwitch) -> None:
    switch.room = 4
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        described = await own.next(NodeDescribed)
        assert described.sizes == {"openflow": 4}  # so the core asks for no more
        rejected = await own.sync(*entries(1, 2, 3))
        (part,) = rejected.refused
        assert part.part == "sr_policies/e1/3" and "table full" in part.reason
        assert isinstance(await own.sync(*entries(1, 3)), NodeSynced)  # what goes makes room


async def test_a_switch_that_is_started_anew_in_the_middle_of_a_write_has_all_of_it_then(switch: FakeSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.next(NodeDescribed)
        switch.dies_after = 500
        synced = await own.sync(*entries(*range(1, 1000)))
        assert isinstance(synced, NodeSynced) and synced.writes == 1001
        assert len(switch.flows) == 1001 and switch.sessions == 2


async def test_a_switch_that_lies_about_its_datapath_gets_nothing(switch: FakeSwitch) -> None:
    switch.datapath_id = 0xBAD
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        gone = await own.next(NodeUnreachable)
        assert "is datapath 0000000000000bad, not 00000000000000a1" in gone.reason
        assert not switch.flows


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [
        (0, b"\1\0\0\10\0\0\0\0", "does not speak OpenFlow 1.3"),
        (0, b"SSH-2.0-OpenSSH_9.2\r\n", "a message of version 83"),
        (0, b"\4\0\0\3\0\0\0\0", "a message of 3 octets"),
        (5, b"\4\6\0\12XIDX\0\0", "FEATURES_REPLY: 2 octets are too few"),
        (5, b"\6\6\0\10XIDX", "a message of version 6"),
        (24, b"\4\1\0\14XIDX\0\13\0\0", "role request failed: stale"),
        (20, b"\4\1\0\14XIDX\0\1\0\1", "bad request: type"),
        (14, b"\4\12\0\11\0\0\0\0\0", "ofp_match"),
        (14, b"\4\14\0\12\0\0\0\0\0\0", "half a port"),
    ],
    ids=["version-1", "ssh", "length-3", "short-features", "version-6", "stale", "no-barrier", "packet-in", "port"],
)
async def test_what_is_no_answer_is_named(switch: FakeSwitch, kind: int, answer: bytes, reason: str) -> None:
    switch.replaces[kind] = answer
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        if kind in (14, 20):
            await own.next(NodeDescribed)
        told = await refusal(own)
        assert reason in told, told


async def refusal(own: Controller) -> str:
    """Of what it is given, or of the connection."""
    if own.nodes.fault("s1"):
        return str((await own.next(NodeUnreachable)).reason)
    seen = len(own.events)
    own.submit(*entries(1))
    return str((await own.next(NodeUnreachable, NodeRejected, after=seen)).reason)


async def test_answers_without_end_are_given_up(switch: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PARTS_OCTETS_MAX", 1 << 20)
    more = struct.pack("!HHxxxx", 0, 1) + bytes(60_000)
    switch.replaces[18] = b"".join(struct.pack("!BBH", 4, 19, 8 + len(more)) + b"XIDX" + more for _ in range(20))
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        assert "an answer without end" in (await own.next(NodeUnreachable)).reason


async def test_who_wants_echoes_and_takes_none_is_given_up(switch: FakeSwitch) -> None:
    request = struct.pack("!BBHI", 4, 2, 60_000, 7) + bytes(60_000 - 8)
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.sync(*entries(1))
        switch.replaces[20], switch.is_deaf = request * 100, True
        own.submit(*entries(1, 2))
        assert "wants echoes, and does not take them" in (await own.next(NodeUnreachable)).reason
        switch.replaces, switch.is_deaf = {}, False
        await until(lambda: not own.nodes.fault("s1"), "there is a session again")


async def test_while_a_switch_talks_without_end_all_else_has_its_turn(switch: FakeSwitch) -> None:
    count, turns = 20_000, 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    switch.replaces[24] = struct.pack("!BBHI", 4, 77, 8, 0) * count + b"\4\31\0\10XIDX"
    counting = asyncio.create_task(count_turns())
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.next(NodeDescribed)
    counting.cancel()
    assert turns > count / connection.TURN


async def test_ports_beyond_those_of_a_node_are_none(switch: FakeSwitch) -> None:
    def status(number: int) -> bytes:
        port = struct.pack("!Ixxxx6sxx16s8I", number, b"\2\0\0\0\0\7", b"far", *(0,) * 8)
        return struct.pack("!BBHIBxxxxxxx", 4, 12, 80, 0, 2) + port

    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.next(NodeDescribed)
        switch.replaces[20] = b"".join(map(status, (0, 512, 1 << 31, 3))) + b"\4\25\0\10XIDX"
        own.submit(*entries(1))
        described = await own.next(NodeDescribed, after=1)
        assert [port.number for port in described.description.ports] == [1, 2, 3]
        assert described.sizes == {"openflow": 1 << 20}


async def test_a_switch_that_says_nothing_is_given_up_and_tried_again(
    switch: FakeSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ECHO_S", 0.05)
    monkeypatch.setattr(connection, "SILENCE_S_MAX", 0.2)
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.sync(*entries(1))
        switch.replaces[2] = b""
        assert "silent for" in (await own.next(NodeUnreachable)).reason
        del switch.replaces[2]
        await until(lambda: not own.nodes.fault("s1"), "there is a session again")


@dataclass
class Certificates:
    """Of a domain's nodes and controller, and of somebody else."""

    directory: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def of_controller(self, ca: trustme.CA | None = None) -> ssl.SSLContext:
        """As `agent_tls` makes it; `ca`: who signed it, if not who signs for the nodes."""
        files = AgentTls(
            ca=self.directory / "ca", certificate=self.directory / "certificate", key=self.directory / "key"
        )
        own = (ca or self.ca).issue_cert("controller")
        self.ca.cert_pem.write_to_path(str(files.ca))
        own.private_key_pem.write_to_path(str(files.key))
        own.cert_chain_pems[0].write_to_path(str(files.certificate))
        return switch_tls(files)

    def of_switch(self, name: str, ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (ca or self.ca).issue_cert(name).configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


async def test_a_switch_with_tls_is_led(switch: FakeSwitch, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    switch.stop()
    port = await switch.start_tls(certificates.of_switch("localhost"))
    async with controller(certificates.of_controller()) as own:
        own.nodes.connect("s1", f"openflow:{0xA1:016x}@localhost:{port}")
        assert (await own.sync(*entries(1))).writes == 3


TLS_FAULTS = {
    "name": "Hostname mismatch",
    "ca": "certificate verify failed",
    "ours": "it may not know who signed our certificate",
}


@pytest.mark.parametrize("wrong", TLS_FAULTS)
async def test_a_switch_that_is_not_the_one_or_does_not_let_us_in_is_named(
    switch: FakeSwitch, tmp_path: Path, wrong: str
) -> None:
    certificates, stranger = Certificates(tmp_path), trustme.CA()
    switch.stop()
    name, ca = ("elsewhere" if wrong == "name" else "localhost"), (stranger if wrong == "ca" else None)
    port = await switch.start_tls(certificates.of_switch(name, ca))
    async with controller(certificates.of_controller(stranger if wrong == "ours" else None)) as own:
        own.nodes.connect("s1", f"openflow:{0xA1:016x}@localhost:{port}")
        reason = (await own.next(NodeUnreachable)).reason
        assert TLS_FAULTS[wrong] in reason, reason
        assert not switch.flows
