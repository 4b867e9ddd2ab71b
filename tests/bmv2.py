"""BMv2's simple_switch_grpc with our P4 program, as one node in namespaces of the test's own."""

import contextlib
import queue
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
from finsy.proto import p4r, p4r_grpc
from namespaces import Namespace, veth
from waiting import LIMIT_S

from dataplane.entry import TableEntry
from dataplane.p4runtime import p4info
from dataplane.p4runtime.codec import compose
from dataplane.p4runtime.p4_program import PROGRAM_FILE
from dataplane.tables.layout import of

SWITCH = shutil.which("simple_switch_grpc")
CPU_PORT = 510
_DEVICE = 1
_ELECTION = p4r.Uint128(low=1)
_ETH_P_ALL = 3
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Bmv2:
    """Ports are veths: `p1` is port 1, its other end `h1` lies in `hosts`."""

    def __init__(self, ports: Iterable[int]) -> None:
        assert SWITCH is not None
        self._ports = tuple(ports)
        self._directory = tempfile.TemporaryDirectory(prefix="nst-bmv2-")
        self._node, self.hosts = Namespace("bmv2"), Namespace("bmv2h")
        interfaces = []
        for number in self._ports:
            veth(self._node, f"p{number}", self.hosts, f"h{number}", mtu=2000)
            for namespace, device in ((self._node, f"p{number}"), (self.hosts, f"h{number}")):
                namespace.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
            interfaces += ["-i", f"{number}@p{number}"]
        address = f"unix:{self._directory.name}/grpc"
        target = ("--", "--grpc-server-addr", address, "--cpu-port", str(CPU_PORT))
        command = self._node.command(SWITCH, *interfaces, "--device-id", str(_DEVICE), "--no-p4", *target)
        self._log = (Path(self._directory.name) / "log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=self._directory.name)
        self._sockets = {number: self._listener(number) for number in self._ports}
        self._channel = grpc.insecure_channel(address, options=_UNLIMITED)
        grpc.channel_ready_future(self._channel).result(timeout=LIMIT_S)
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        self._requests: queue.Queue[p4r.StreamMessageRequest | None] = queue.Queue()
        self._layout = of(p4info.load())
        self._entries: dict[tuple[object, ...], TableEntry] = {}
        arbitration = p4r.MasterArbitrationUpdate(device_id=_DEVICE, election_id=_ELECTION)
        self._requests.put(p4r.StreamMessageRequest(arbitration=arbitration))
        self._stream = self._stub.StreamChannel(iter(self._requests.get, None))
        assert next(self._stream).arbitration.status.code == 0
        config = p4r.SetForwardingPipelineConfigRequest(device_id=_DEVICE, election_id=_ELECTION)
        config.action = p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT
        config.config.p4info.CopyFrom(self._layout.p4info.message)
        config.config.p4_device_config = PROGRAM_FILE.read_bytes()
        self._stub.SetForwardingPipelineConfig(config, timeout=LIMIT_S)
        self._packets: queue.Queue[p4r.PacketIn] = queue.Queue()
        threading.Thread(target=self._receive_packets, daemon=True).start()

    def _receive_packets(self) -> None:
        """Until the channel is closed."""
        with contextlib.suppress(grpc.RpcError):
            for message in self._stream:
                if message.HasField("packet"):
                    self._packets.put(message.packet)

    def packet_in(self) -> tuple[dict[str, int], bytes]:
        """Metadata and frame of the next one."""
        packet = self._packets.get(timeout=LIMIT_S)
        names = {field.id: field.name for field in self._layout.p4info.packet_in}
        return {
            names[metadata.metadata_id]: int.from_bytes(metadata.value) for metadata in packet.metadata
        }, packet.payload

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()
        for listener in self._sockets.values():
            listener.close()
        self._node.remove()
        self.hosts.remove()
        self._directory.cleanup()

    def _listener(self, number: int) -> socket.socket:
        with self.hosts.entered():
            listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        listener.bind((f"h{number}", _ETH_P_ALL))
        return listener

    def sync(self, entries: Iterable[TableEntry]) -> None:
        """Exactly `entries` are in the tables."""
        wanted = {(entry.table, entry.match, entry.priority): entry for entry in entries}
        gone = [entry for key, entry in self._entries.items() if wanted.get(key) != entry]
        added = [entry for key, entry in wanted.items() if self._entries.get(key) != entry]
        self._write(p4r.Update.DELETE, gone)
        self._write(p4r.Update.INSERT, added)
        self._entries = wanted

    def _write(self, kind: "p4r.Update.Type.ValueType", entries: list[TableEntry]) -> None:
        if not entries:
            return
        request = p4r.WriteRequest(device_id=_DEVICE, election_id=_ELECTION)
        for entry in entries:
            compose(self._layout, entry, request.updates.add(type=kind).entity.table_entry)
        self._stub.Write(request, timeout=LIMIT_S)

    def counted(self, counter: str, index: int) -> int:
        """Packets."""
        request = p4r.ReadRequest(device_id=_DEVICE)
        wanted = request.entities.add().counter_entry
        wanted.counter_id = self._layout.p4info.counter_by_name[counter].id
        wanted.index.index = index
        (response,) = self._stub.Read(request, timeout=LIMIT_S)
        return int(response.entities[0].counter_entry.data.packet_count)

    def send(self, port: int, frame: bytes) -> None:
        """From the other end of `port`. What left before is forgotten."""
        self.sent(0)
        self._sockets[port].send(frame)

    def sent(self, awaited: int) -> list[tuple[int, bytes]]:
        """Ports and frames of what has left since the last frame was sent; of `awaited` at least."""
        frames: list[tuple[int, bytes]] = []
        while True:
            for number, listener in self._sockets.items():
                frames += ((number, data) for data in self._received(listener))
            if len(frames) >= awaited:
                return frames
            ready, _, _ = select.select(list(self._sockets.values()), [], [], LIMIT_S)
            assert ready, f"only {frames} left"

    def _received(self, listener: socket.socket) -> Iterator[bytes]:
        """What came from the switch, without what we sent ourselves."""
        while True:
            try:
                data, (_, _, kind, _, _) = listener.recvfrom(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if kind != socket.PACKET_OUTGOING:
                yield data
