"""Echo requests at a steady rate, until its input ends: `python echo_load.py ADDRESS RATE`.

Prints `answered` at the first answer, at the end `sent received`. Unlike ping it keeps its rate on a busy machine:
what is late is sent at once.
"""

import socket
import struct
import sys
import threading
import time

IDENTIFIER = 0x4E53
TAIL_S = 20.0
"""How late an answer may come; when none is missing, nothing is waited for."""


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def run(address: str, rate: int) -> tuple[int, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        link.settimeout(0.1)
        answered: set[int] = set()
        ended, done = threading.Event(), threading.Event()

        def listen() -> None:
            while not done.is_set():
                try:
                    packet = link.recv(2048)
                except TimeoutError:
                    continue
                kind, _, _, identifier, _, number = struct.unpack_from("!BBHHHI", packet, 20)
                if kind == 0 and identifier == IDENTIFIER:
                    if not answered:
                        print("answered", flush=True)
                    answered.add(number)

        listener = threading.Thread(target=listen)
        listener.start()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
        total, started_s = 0, time.monotonic()
        while not ended.is_set():
            number, total = total, total + 1
            time.sleep(max(0.0, started_s + number / rate - time.monotonic()))
            echo = struct.pack("!BBHHHI", 8, 0, 0, IDENTIFIER, number & 0xFFFF, number)
            echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
            link.sendto(echo, (address, 0))
        late_s = time.monotonic() + TAIL_S
        while len(answered) < total and time.monotonic() < late_s:
            time.sleep(0.02)
        done.set()
        listener.join()
    return total, len(answered)


if __name__ == "__main__":
    print(*run(sys.argv[1], int(sys.argv[2])))
