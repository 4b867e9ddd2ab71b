"""How large, long and many what comes from outside may be: checked where it is decoded (msgspec), and nowhere else.

Peers, nodes, clients and stores are read through types that are made of these. What is beyond is no message.
"""

from typing import Annotated

from msgspec import Meta

LARGEST_PORT = 511
"""Of P4Runtime."""
FLOWS_MAX = 1 << 20
"""Of one answer."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Packets, octets, and whatever else only grows."""
Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Unsigned16 = Annotated[int, Meta(ge=0, le=65535)]
Unsigned8 = Annotated[int, Meta(ge=0, le=255)]
UnixTime = Annotated[int, Meta(ge=0, le=2**40)]
UnixTimeFloat = Annotated[float, Meta(ge=0, le=2**40)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Port = Annotated[int, Meta(ge=1, le=LARGEST_PORT)]
PortOrNone = Annotated[int, Meta(ge=0, le=LARGEST_PORT)]

ONE_LINE = r"\A[^\x00-\x1f\x7f-\x9f]*\Z"
"""No control character; `$` would let a last line feed pass."""
Name = Annotated[str, Meta(max_length=200, pattern=ONE_LINE)]
"""One line of text, perhaps empty."""
Words = Annotated[str, Meta(max_length=4096)]
"""For people."""
ManyWords = Annotated[tuple[Words, ...], Meta(max_length=8192)]
AddressText = Annotated[str, Meta(max_length=45, pattern=r"\A[0-9a-f.:]*\Z")]
EndpointText = Annotated[str, Meta(max_length=120, pattern=r"\A[!-~]*\Z")]
PrefixTexts = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=1000)]
Digest = Annotated[bytes, Meta(max_length=64)]
PackedFlows = Annotated[bytes, Meta(max_length=32 << 20)]
"""Rows of `dataplane.telemetry.packed_flows`."""
Frame = Annotated[bytes, Meta(max_length=65536)]
