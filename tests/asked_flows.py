"""TCP connections that stay open, and packets that nobody has asked for.

    python asked_flows.py serve PORT                      answers what comes with the same
    python asked_flows.py ask ADDRESS PORT COUNT RATE     opens COUNT; at each line of input one round over all of them
    python asked_flows.py intrude FROM TO RATE            packets as replies of port 443, until its input ends

`ask` prints `open N`, then of each round how many were answered; `intrude` at the end how many it has sent. What is
not asked for goes to ports below those that `ask` uses.
"""

import itertools
import random
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator

BELOW = 32768
"""First port of those that Linux gives to clients (ip_local_port_range)."""
PATIENCE_S = 120.0


def serve(port: int) -> None:
    _allow_many()
    with socket.create_server(("0.0.0.0", port), backlog=4096) as server, select.epoll() as poll:
        server.setblocking(False)
        poll.register(server, select.EPOLLIN)
        print("serving", flush=True)
        peers: dict[int, socket.socket] = {}
        while True:
            for handle, _ in poll.poll():
                if handle == server.fileno():
                    peer = server.accept()[0]
                    peers[peer.fileno()] = peer
                    poll.register(peer, select.EPOLLIN)
                elif data := peers[handle].recv(64):
                    peers[handle].sendall(data)
                else:
                    peers.pop(handle).close()


def ask(address: str, port: int, count: int, rate: float) -> None:
    _allow_many()
    flows = [flow for _ in paced(rate, count) if (flow := _opened(address, port)) is not None]
    print("open", len(flows), flush=True)
    for number, _ in enumerate(sys.stdin):
        said = b"%8d" % number
        poll = select.epoll()
        waiting = {flow.fileno(): (flow, b"") for flow in flows}
        for handle in waiting:
            poll.register(handle, select.EPOLLIN)
        threading.Thread(target=_say, args=(flows, said, rate)).start()
        answered, until_s = 0, time.monotonic() + count / rate + PATIENCE_S
        while waiting and time.monotonic() < until_s:
            for handle, _ in poll.poll(0.1):
                flow, before = waiting[handle]
                heard = before + _heard(flow)
                waiting[handle] = flow, heard
                if heard == said or not heard or not said.startswith(heard):
                    answered += heard == said
                    poll.unregister(handle)
                    del waiting[handle]
        poll.close()
        print("answered", answered, flush=True)


def _opened(address: str, port: int) -> socket.socket | None:
    try:
        return socket.create_connection((address, port), timeout=PATIENCE_S)
    except OSError:
        return None


def _say(flows: list[socket.socket], said: bytes, rate: float) -> None:
    for flow, _ in zip(flows, paced(rate, len(flows)), strict=False):
        try:
            flow.sendall(said)
        except OSError:
            continue  # it is not answered either


def _heard(flow: socket.socket) -> bytes:
    try:
        return flow.recv(64)
    except OSError:
        return b""


def intrude(source: str, destination: str, rate: float) -> None:
    from scapy.layers.inet import ICMP, IP, TCP, UDP

    rng = random.Random(1)

    def packet() -> bytes:
        ports = {"sport": 443, "dport": rng.randrange(1024, BELOW)}
        kinds = [TCP(**ports, flags=flags) for flags in ("", "F", "FPU", "A", "SA", "S", "R", "RA", "PA")]
        transport = rng.choice([*kinds, UDP(**ports), ICMP(type=0, id=ports["dport"])])
        return bytes(IP(src=source, dst=destination) / transport / b"nobody asked")

    packets = [packet() for _ in range(2000)]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as link:
        print("sending", flush=True)
        for number, data in zip(paced(rate), itertools.cycle(packets), strict=False):
            if ended.is_set():
                print(number)
                return
            link.sendto(data, (destination, 0))


def paced(rate: float, count: int | None = None) -> Iterator[int]:
    """What is late is done at once."""
    began_s = time.monotonic()
    for number in itertools.count() if count is None else range(count):
        time.sleep(max(0.0, began_s + number / rate - time.monotonic()))
        yield number


def _allow_many() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(int(port))
        case ["ask", address, port, count, rate]:
            ask(address, int(port), int(count), float(rate))
        case ["intrude", source, destination, rate]:
            intrude(source, destination, float(rate))
