"""IPv4 packets that are larger than their path takes: XDP gives them here, and takes their fragments back.

A record of the ring buffer `cut` has what the pipeline knows of a packet (`struct judged`), the packet, and how much
the path takes. Each fragment goes through the pipeline as a frame of the loopback, with `struct judged` in front, and
from there out of whatever port its flow leads to.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dataplane.errors import AgentError
from dataplane.xdp.bpf import LOOPBACK, Program

JUDGED_BYTES = 24
_HEADER = struct.Struct(f"{JUDGED_BYTES}s12sHH")
"""struct to_cut: judged, MACs, MTU, length of the packet, which follows."""
_INGRESS_PORT = struct.Struct("16xH6x")
"""Of struct judged."""
_IPV4 = b"\x08\x00"
_IPV4_HEADER = 20
_MORE_FRAGMENTS, _OFFSET = 0x2000, 0x1FFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ToCut:
    judged: bytes
    port: int
    macs: bytes
    mtu: int
    packet: bytes

    def frames(self) -> Iterator[bytes]:
        for fragment in fragments(self.packet, self.mtu):
            yield self.macs + _IPV4 + fragment


def to_cut(record: bytes) -> ToCut:
    judged, macs, mtu, length = _HEADER.unpack_from(record)
    (port,) = _INGRESS_PORT.unpack_from(judged)
    return ToCut(judged=judged, port=port, macs=macs, mtu=mtu, packet=record[_HEADER.size : _HEADER.size + length])


def fragments(packet: bytes, mtu: int) -> Iterator[bytes]:
    """RFC 791 §3.2: of an IPv4 packet without options, as large as `mtu` (68 at least) allows.

    A fragment's fragments have its identification, and lie where it lay.
    """
    header, payload = bytearray(packet[:_IPV4_HEADER]), packet[_IPV4_HEADER:]
    (place,) = struct.unpack_from("!H", header, 6)
    most = (mtu - _IPV4_HEADER) // 8 * 8
    for at in range(0, len(payload), most):
        piece = payload[at : at + most]
        more_fragments = place & _MORE_FRAGMENTS or (_MORE_FRAGMENTS if at + most < len(payload) else 0)
        offset = (place & _OFFSET) + at // 8
        struct.pack_into("!H", header, 2, _IPV4_HEADER + len(piece))
        struct.pack_into("!H", header, 6, place & ~(_MORE_FRAGMENTS | _OFFSET) | more_fragments | offset)
        struct.pack_into("!H", header, 10, 0)
        struct.pack_into("!H", header, 10, _checksum(header))
        yield bytes(header) + piece


class Fragmenter:
    """Cuts what `receive` gets, and sends the pieces on through `program`."""

    def __init__(self, program: Program, failed: Callable[[int, AgentError | OSError], None]) -> None:
        """`failed` hears the port that a packet came from, and why not all of its pieces were sent."""
        self._program = program
        self._failed = failed

    def receive(self, record: bytes) -> None:
        """One record of the ring buffer `cut`."""
        whole = to_cut(record)
        try:
            for frame in whole.frames():
                self._program.run_live(frame, ifindex=LOOPBACK, repeat=1, batch=1, metadata=whole.judged)
        except (AgentError, OSError) as error:
            self._failed(whole.port, error)


def _checksum(header: bytes | bytearray) -> int:
    total: int = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
