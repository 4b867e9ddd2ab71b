"""What header blocks of HTTP/2 hold, before gRPC reads them: its own clients' pass, and what would become large does
not, however it is cut into frames and pieces."""

import random
from collections.abc import Iterator

import pytest

from dataplane.header_blocks import LIST_BYTES_MAX, HeaderBlocks, TooLarge

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PUSH_PROMISE, CONTINUATION = 0, 1, 4, 5, 9
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + (1).to_bytes(4) + payload


def integer(value: int, prefix: int, first: int) -> bytes:
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    octets, value = [first | most], value - most
    while value >= 128:
        octets.append(value % 128 + 128)
        value //= 128
    return bytes([*octets, value])


def field(name: bytes, value: bytes, first: int = 0, coded: int = 0) -> bytes:
    return bytes([first]) + integer(len(name), 7, coded) + name + integer(len(value), 7, coded) + value


TO_THE_TABLE, INDEXED, CODED = 0x40, 0x80, 0x80
USUAL = b"\x83\x86" + field(b":path", b"/netstitch.Host/Describe", TO_THE_TABLE) + b"\xbe" + field(b"te", b"trailers")
"""Fields of both tables, and of none."""
HOSTILE = {
    "one long field": [frame(HEADERS, END_HEADERS, field(b"x" * LIST_BYTES_MAX, b""))],
    "many": [frame(HEADERS, END_HEADERS, field(b"x", b"y") * 500)],
    "many that are nothing but a place in the table that is there": [frame(HEADERS, END_HEADERS, b"\x82" * 300)],
    "a long field, named again and again": [
        frame(HEADERS, END_HEADERS, USUAL + field(b"x" * 4000, b"", TO_THE_TABLE)),
        frame(HEADERS, END_HEADERS, b"\xbe" * 5),
    ],
    "a coded one": [frame(HEADERS, END_HEADERS, field(b"x" * 11_000, b"", coded=CODED))],
    "a coded one in the table": [
        frame(HEADERS, END_HEADERS, field(b"x" * 2000, b"y" * 400, TO_THE_TABLE, CODED)),
        frame(HEADERS, END_HEADERS, b"\xbe" * 5),
    ],
    "a name out of the table": [
        frame(HEADERS, END_HEADERS, field(b"x" * 4000, b"", TO_THE_TABLE)),
        frame(HEADERS, END_HEADERS, (b"\x0f\x2f" + b"\x01y") * 5),
    ],
    "no end": [frame(HEADERS, 0, USUAL)] + [frame(CONTINUATION, 0, field(b"x", b"y" * 50))] * 300,
    "no end of a field": [frame(HEADERS, 0, field(b"x" * 9000, b"")[:8000])]
    + [frame(CONTINUATION, 0, b"x" * 10)] * 2000,
    "no end of nothing": [frame(HEADERS, 0, USUAL)] + [frame(CONTINUATION, 0, b"")] * 2000,
    "sizes of the table": [frame(HEADERS, END_HEADERS, b"\x20" * 16_384)],
    "a length beyond all": [frame(HEADERS, 0, b"\x00" + integer(1 << 30, 7, 0))],
    "a number that does not end": [frame(HEADERS, 0, b"\xff" + b"\x80" * 9)],
    "a frame that does not end": [b"\xff\xff\xff" + bytes((HEADERS, 0)) + (1).to_bytes(4)],
    "half a field": [frame(HEADERS, END_HEADERS, USUAL[:-3])],
    "padding beyond its frame": [frame(HEADERS, END_HEADERS | PADDED, b"\x09" + b"\x82")],
    "padding of nothing": [frame(HEADERS, END_HEADERS | PADDED, b"")],
    "a block in a block": [frame(HEADERS, 0, USUAL), frame(HEADERS, END_HEADERS, USUAL)],
    "the end of no block": [frame(CONTINUATION, END_HEADERS, USUAL)],
    "a promise": [frame(PUSH_PROMISE, END_HEADERS, USUAL)],
}


def pieces(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """As the network may cut it."""
    position = 0
    while position < len(data):
        step = rng.choice((1, 8, 9, 10, 100, 5000))
        yield data[position : position + step]
        position += step


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("seed", range(3))
def test_what_would_become_large_does_not_go_on(frames: list[bytes], seed: int) -> None:
    blocks, passed = HeaderBlocks(), 0
    with pytest.raises(TooLarge):
        for piece in pieces(PREFACE + frame(SETTINGS, 0, b"") + b"".join(frames), random.Random(seed)):
            passed += len(blocks.take(piece))
    assert passed < 3 * LIST_BYTES_MAX


@pytest.mark.parametrize("seed", range(20))
def test_all_else_goes_on_as_it_is(seed: int) -> None:
    rng = random.Random(seed)
    said = [PREFACE, frame(SETTINGS, 0, bytes(6))]
    for _ in range(30):
        cuts = sorted(rng.sample(range(len(USUAL)), rng.randrange(4)))
        parts = [USUAL[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(USUAL)], strict=True)]
        first = bytes([3]) + bytes(5) + parts[0] + bytes(3)
        said.append(frame(HEADERS, PADDED | PRIORITY | (END_HEADERS if len(parts) == 1 else 0), first))
        said += [frame(CONTINUATION, 0, part) for part in parts[1:-1]]
        said += [frame(CONTINUATION, END_HEADERS, part) for part in parts[1:][-1:]]
        said.append(frame(DATA, 0, rng.randbytes(rng.randrange(100_000))))
    data = b"".join(said)
    blocks = HeaderBlocks()
    assert b"".join(map(blocks.take, pieces(data, rng))) == data


def test_a_server_begins_without_preface() -> None:
    data = frame(SETTINGS, 0, b"") + frame(HEADERS, END_HEADERS, b"\x88" + USUAL)
    assert HeaderBlocks(preface=False).take(data) == data
