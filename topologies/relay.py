"""Client of the relay (topologies/relay.c), which makes the links between nodes."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from topologies.errors import LabError

BINARY = Path(__file__).parent.parent / "build/lab/relay"
TUN_DEVICE = Path("/dev/net/tun")
_ANSWER_DEADLINE_S = 60.0
"""On a machine that is busy with much else."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one direction."""

    packets: int
    bytes: int
    lost: int
    """By the link's loss."""
    dropped: int
    """Backlog, no carrier, or refused by the other end's device."""


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    up: bool
    delay_us: int
    rate_kbit: int
    loss_ppm: int
    a: Counts
    """Sent by end a."""
    b: Counts


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    error: str = ""
    frames: int = 0
    links: dict[str, LinkState] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TapEnd:
    """A device to be made in the network namespace of a process."""

    process: int
    device: str
    mac: str


@dataclass(frozen=True, slots=True)
class Relay:
    """Raises LabError where the relay refuses or does not answer."""

    socket_path: Path

    def add(self, link: str, a: TapEnd, b: TapEnd, mtu: int) -> None:
        ends = " ".join(f"{end.process} {end.device} {end.mac}" for end in (a, b))
        self._ask(f"add {link} {ends} {mtu}")

    def set(self, link: str, *, delay_us: int, rate_kbit: int, loss_ppm: int) -> None:
        self._ask(f"set {link} {delay_us} {rate_kbit} {loss_ppm}")

    def set_carrier(self, link: str, up: bool) -> None:
        self._ask(f"{'up' if up else 'down'} {link}")

    def links(self) -> dict[str, LinkState]:
        return self._ask("stats").links

    def capture(self, link: str, count: int, seconds: float, file: Path) -> int:
        """Waits until `count` frames crossed the link, or for `seconds`. Returns how many are in the file."""
        return self._ask(f"capture {link} {count} {seconds} {file}", seconds + _ANSWER_DEADLINE_S).frames

    def wait(self, deadline_s: float = _ANSWER_DEADLINE_S) -> None:
        """Until it answers."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                self._ask("stats")
                return
            except LabError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)

    def _ask(self, command: str, deadline_s: float = _ANSWER_DEADLINE_S) -> _Answer:
        if "\n" in command:
            raise LabError(f"a line break in {command!r}: the relay takes one line")
        answer = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(deadline_s)
                connection.connect(str(self.socket_path))
                connection.sendall(command.encode() + b"\n")
                while part := connection.recv(65536):
                    answer += part
            decoded = msgspec.json.decode(answer, type=_Answer)
        except (OSError, msgspec.DecodeError) as error:
            verb = command.partition(" ")[0]
            raise LabError(f"the relay at {self.socket_path} did not answer `{verb}`: {error}") from error
        if not decoded.ok:
            raise LabError(f"relay: {decoded.error}")
        return decoded
