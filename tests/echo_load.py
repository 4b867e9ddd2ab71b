"""Echo requests at a steady rate, from wherever it is run: `python echo_load.py ADDRESS RATE SECONDS`.

Prints `sent received elapsed_s`. Unlike ping it keeps its rate on a busy machine: what is late is sent at once.
"""

import socket
import struct
import sys
import threading
import time

IDENTIFIER = 0x4E53
TAIL_S = 2.0


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def run(address: str, rate: int, seconds: float) -> tuple[int, int, float]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        link.settimeout(0.1)
        answered: set[int] = set()
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                try:
                    packet = link.recv(2048)
                except TimeoutError:
                    continue
                kind, _, _, identifier, _, number = struct.unpack_from("!BBHHHI", packet, 20)
                if kind == 0 and identifier == IDENTIFIER:
                    answered.add(number)

        listener = threading.Thread(target=listen)
        listener.start()
        total, started_s = round(rate * seconds), time.monotonic()
        for number in range(total):
            time.sleep(max(0.0, started_s + number / rate - time.monotonic()))
            echo = struct.pack("!BBHHHI", 8, 0, 0, IDENTIFIER, number & 0xFFFF, number)
            echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
            link.sendto(echo, (address, 0))
        elapsed_s = time.monotonic() - started_s
        time.sleep(TAIL_S)
        done.set()
        listener.join()
    return total, len(answered), elapsed_s


if __name__ == "__main__":
    print(*run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
