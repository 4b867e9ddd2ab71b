"""What one does with a link of a lab: cut it, change it, see what crosses it."""

import re
from dataclasses import dataclass
from pathlib import Path

from topologies import lab
from topologies.errors import LabError, NotFound, RequestInvalid
from topologies.record import LabRecord, directory_of
from topologies.relay import LinkState, Relay
from topologies.topology import Link, Topology

_SETTINGS = {
    "delay": ("delay_us", 1000, 10_000),
    "rate": ("rate_kbit", 1000, 1_000_000),
    "loss": ("loss_ppm", 10_000, 100),
}
"""Word: field of the relay, its units in one of ours, our maximum."""
_CAPTURE_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A link between nodes, or a host's attachment."""

    a: str
    """Node, or the host."""
    b: str
    device_a: str
    device_b: str
    link: Link | None
    """None: a host's."""
    several: bool = False
    """The host has others to the same node: the node's port tells them apart."""

    def __str__(self) -> str:
        """The names by which `find` finds it."""
        return f"{self.device_b if self.several else self.a} {self.b}"


def wires(topology: Topology) -> tuple[Wire, ...]:
    between = [
        Wire(a=link.a.node, b=link.b.node, device_a=link.b.node, device_b=link.a.node, link=link)
        for link in topology.links
    ]
    attached = [
        Wire(
            a=host.name,
            b=interface.node,
            device_a=interface.name,
            device_b=host.port(interface),
            link=None,
            several=sum(other.node == interface.node for other in host.interfaces) > 1,
        )
        for host in topology.hosts
        for interface in host.interfaces
    ]
    return (*between, *attached)


def find(topology: Topology, first: str, second: str) -> Wire:
    """By the names of its ends, or of the node's port where a host has several. Raises NotFound, RequestInvalid."""
    matching = [
        wire
        for wire in wires(topology)
        if {first, second} == {wire.a, wire.b} or (wire.link is None and {first, second} == {wire.device_b, wire.b})
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        ports = " or ".join(wire.device_b for wire in matching)
        raise RequestInvalid(f"{first} and {second} have several links: say {ports} instead of {matching[0].a}")
    known = ", ".join(map(str, wires(topology)))
    raise NotFound(f"there is no link {first} {second}: one of {known}")


def relay_of(record: LabRecord) -> Relay:
    lab.relay_process(record)
    return Relay(directory_of(record.lab) / "relay.sock")


def set_carrier(record: LabRecord, wire: Wire, up: bool) -> None:
    """Both ends see it. Of a host's link the node's end is taken down, so that the host keeps its addresses."""
    if wire.link is not None:
        relay_of(record).set_carrier(wire.link.name, up)
        return
    done = lab.execute(record, wire.b, "ip", "link", "set", "dev", wire.device_b, "up" if up else "down")
    if done.returncode:
        raise LabError(f"{wire.device_b} on {wire.b}: {done.stderr.strip()}")


def change(record: LabRecord, wire: Wire, settings: tuple[str, ...]) -> LinkState:
    """`delay=MS`, `rate=MBIT`, `loss=PERCENT`; what is not named stays. Returns how the link is now."""
    if wire.link is None:
        raise RequestInvalid(f"{wire.a} is attached to {wire.b} by veth: such a link has no delay, rate or loss")
    if not settings:
        raise RequestInvalid("nothing to set: expected delay=MS, rate=MBIT or loss=PERCENT")
    relay = relay_of(record)
    now = relay.links()[wire.link.name]
    values = {"delay_us": now.delay_us, "rate_kbit": now.rate_kbit, "loss_ppm": now.loss_ppm}
    values |= dict(map(_setting, settings))
    relay.set(wire.link.name, **values)
    return relay.links()[wire.link.name]


def _setting(text: str) -> tuple[str, int]:
    word, _, value = text.partition("=")
    if word not in _SETTINGS or not re.fullmatch(r"\d+(\.\d+)?", value):
        raise RequestInvalid(f"{text!r}: expected delay=MS, rate=MBIT or loss=PERCENT, with a number")
    field, scale, maximum = _SETTINGS[word]
    if float(value) > maximum:
        raise RequestInvalid(f"{text!r}: at most {maximum}")
    return field, round(float(value) * scale)


def capture(record: LabRecord, wire: Wire, count: int, seconds: float, file: Path) -> int | None:
    """What crosses the wire, in both directions, to a pcap file. Returns the number of frames where it is known.

    Links between nodes are captured in the relay, since AF_PACKET sees nothing of what XDP redirects. A host's link is
    captured at the host's end, by tcpdump.
    """
    if count < 1 or not 0 < seconds <= 86_400:
        raise RequestInvalid(f"count {count}, seconds {seconds}: expected at least 1, and more than 0 to 86400")
    target = file.absolute()
    if not target.parent.is_dir():
        raise RequestInvalid(f"{file}: there is no directory {target.parent}")
    if wire.link is not None:
        return relay_of(record).capture(wire.link.name, count, seconds, target)
    arguments = (
        "-i",
        wire.device_a,
        "-c",
        str(count),
        "-U",
        "-Z",
        "root",
        "--time-stamp-precision=nano",
        "-w",
        str(target),
    )
    done = lab.execute(
        record,
        wire.a,
        *("timeout", "--preserve-status", "-s", "INT", str(seconds), "tcpdump", *arguments),
        timeout_s=seconds + _CAPTURE_MARGIN_S,
    )
    if done.returncode:
        raise LabError(f"tcpdump on {wire.a}: {done.stderr.strip()}")
    captured = re.search(r"(\d+) packets? captured", done.stderr)
    return int(captured[1]) if captured else None
