"""A small OpenFlow switch in memory: it behaves, until it is told to lie. What it says os-ken has not made, nor we."""

import asyncio
import socket
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("!BBHI")
FLOW_MOD = struct.Struct("!QQBBHHHIIIHxx")


@dataclass
class FakeSwitch:
    path: Path
    datapath_id: int = 0xA1
    room: int = 1 << 20
    """Entries of its table."""
    ignores: int = 0
    """How many flow-mods it is to take and not to do."""
    dies_after: int = -1
    """Flow-mods until it ends the connection, and is empty; -1: never."""
    replaces: dict[int, bytes] = field(default_factory=dict)
    """By type of a message: what it sends instead, after the header's xid."""
    is_deaf: bool = False
    """It reads nothing more of a connection on which it has sent such a thing."""
    flows: dict[tuple[int, int, bytes], tuple[int, bytes]] = field(default_factory=dict)
    """(table, priority, match) -> cookie, instructions."""
    sessions: int = 0
    _server: asyncio.Server | None = None

    @property
    def agent(self) -> str:
        return f"openflow:{0xA1:016x}@unix:{self.path}"

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def start_tls(self, context: ssl.SSLContext) -> int:
        """At a port of this machine."""
        self._server = await asyncio.start_server(self._serve, "localhost", 0, ssl=context, family=socket.AF_INET)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        try:
            writer.write(self.replaces.get(0, HEADER.pack(4, 0, 8, 0)))
            while True:
                _, kind, length, xid = HEADER.unpack(await reader.readexactly(8))
                body = await reader.readexactly(length - 8)
                if kind and kind in self.replaces:
                    writer.write(self.replaces[kind].replace(b"XIDX", struct.pack("!I", xid)))
                    if self.is_deaf:
                        writer.transport.pause_reading()  # type: ignore[attr-defined]
                        await writer.drain()
                        await writer.wait_closed()
                    continue
                for answer in self._answers(kind, xid, body):
                    writer.write(answer)
                if kind == 14 and self.dies_after == 0:
                    self.dies_after, self.flows = -1, {}
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answers(self, kind: int, xid: int, body: bytes) -> list[bytes]:
        match kind:
            case 2:
                return [message(3, xid, body)]
            case 5:
                return [message(6, xid, struct.pack("!QIBBxxII", self.datapath_id, 0, 1, 0, 0, 0))]
            case 14:
                return self._flow_mod(xid, body)
            case 18:
                (multipart,) = struct.unpack_from("!H", body)
                return [message(19, xid, struct.pack("!HHxxxx", multipart, 0) + self._part(multipart))]
            case 20:
                return [message(21, xid)]
            case 24:
                return [message(25, xid, body)]
            case _:
                return []

    def _flow_mod(self, xid: int, body: bytes) -> list[bytes]:
        cookie, _, table, command, _, _, priority, *_ = FLOW_MOD.unpack_from(body)
        (length,) = struct.unpack_from("!H", body, FLOW_MOD.size + 2)
        end = FLOW_MOD.size + length + -length % 8
        key = (table, priority, body[FLOW_MOD.size : end])
        if self.dies_after > 0:
            self.dies_after -= 1
        if self.ignores:
            self.ignores -= 1
        elif command == 4:
            self.flows.pop(key, None)
        elif key not in self.flows and len(self.flows) >= self.room:
            return [message(1, xid, struct.pack("!HH", 5, 1))]
        else:
            self.flows[key] = cookie, body[end:]
        return []

    def _part(self, kind: int) -> bytes:
        if kind == 0:
            return b"".join(
                text.ljust(size, b"\0")
                for text, size in ((b"", 256), (b"fake", 256), (b"1", 256), (b"", 32), (b"", 256))
            )
        if kind == 12:
            return struct.pack("!HBxxxxx32sQQII", 64, 0, b"", 0, 0, 0, self.room)
        if kind == 13:
            return b"".join(
                struct.pack("!Ixxxx6sxx16s8I", number, bytes((2, 0, 0, 0, 0, number)), b"p", *(0,) * 8)
                for number in (1, 2)
            )
        entries = []
        for (table, priority, match), (cookie, instructions) in self.flows.items():
            head = struct.pack(
                "!HBxIIHHHHxxxxQQQ", 48 + len(match + instructions), table, 0, 0, priority, 0, 0, 0, cookie, 0, 0
            )
            entries.append(head + match + instructions)
        return b"".join(entries)


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    return HEADER.pack(4, kind, 8 + len(body), xid) + body
