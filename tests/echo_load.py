"""Echo requests at a steady rate: `EchoLoad`, and the program that it runs, `python echo_load.py ADDRESS RATE TAIL_S`.

For each line of its input, a number, the program prints `answered` as soon as so many requests that it sent since were
answered, and when its input ends, `sent received`. On a machine that is too busy for the rate there are fewer, not many
at once, which queues on the way would not take.
"""

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDENTIFIER = 0x4E53
TAIL_S = 20.0
"""How late an answer may come; when none is missing, nothing is waited for."""
LIMIT_S = 300.0
BEHIND_S = 0.01
"""What is later than this is not made up for."""


class EchoLoad:
    def __init__(
        self, command: Callable[..., list[str]], address: str, rate: int = 1000, tail_s: float = TAIL_S
    ) -> None:
        """`command` puts a program, with its arguments, where it shall run."""
        program = command(sys.executable, __file__, address, str(rate), str(tail_s))
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answered(self, count: int = 100) -> None:
        """Waits until so many that are sent from now on were answered."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(count, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "answered\n", f"not {count} answers within {LIMIT_S} s"

    def lost(self) -> int:
        """Of all; it ends here."""
        sent, received = self.counts()
        return sent - received

    def counts(self) -> tuple[int, int]:
        """Sent and received; it ends here."""
        sent, received = map(int, self._process.communicate(timeout=LIMIT_S)[0].split())
        return sent, received


@contextmanager
def no_packet_lost(command: Callable[..., list[str]], address: str, rate: int = 1000) -> Iterator[EchoLoad]:
    """Of those that are sent meanwhile, and some before and after."""
    load = EchoLoad(command, address, rate)
    try:
        load.answered()
        yield load
        load.answered()
    finally:
        lost = load.lost()
    assert lost == 0, f"{lost} packets lost"


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def run(address: str, rate: int, tail_s: float) -> tuple[int, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        link.settimeout(0.1)
        answered: set[int] = set()
        total = since = fresh = 0
        ended, done = threading.Event(), threading.Event()

        def listen() -> None:
            nonlocal fresh
            while not done.is_set():
                try:
                    packet = link.recv(2048)
                except TimeoutError:
                    continue
                kind, _, _, identifier, _, number = struct.unpack_from("!BBHHHI", packet, 20)
                if kind == 0 and identifier == IDENTIFIER:
                    answered.add(number)
                    fresh += number >= since

        def follow() -> None:
            nonlocal since, fresh
            for line in sys.stdin:
                since, fresh, late_s = total, 0, time.monotonic() + LIMIT_S
                while fresh < int(line) and time.monotonic() < late_s:
                    time.sleep(0.01)
                print("answered" if time.monotonic() < late_s else "late", flush=True)
            ended.set()

        listener = threading.Thread(target=listen)
        listener.start()
        threading.Thread(target=follow).start()
        due_s = time.monotonic()
        while not ended.is_set():
            number, total = total, total + 1
            due_s = max(due_s + 1 / rate, time.monotonic() - BEHIND_S)
            time.sleep(max(0.0, due_s - time.monotonic()))
            echo = struct.pack("!BBHHHI", 8, 0, 0, IDENTIFIER, number & 0xFFFF, number)
            echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
            link.sendto(echo, (address, 0))
        late_s = time.monotonic() + tail_s
        while len(answered) < total and time.monotonic() < late_s:
            time.sleep(0.02)
        done.set()
        listener.join()
    return total, len(answered)


if __name__ == "__main__":
    print(*run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
