"""TCP through the three domains of the lab, against plain WireGuard over one of its borders, in turns.

Ours passes two edges, six nodes, two tunnels and one stretch of SRv6; the peer's is one tunnel between two gateways, of
the same implementation over the same link.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.report import Row, row
from bench.slices import Slices
from dataplane.wireguard.device import DeviceConfig, Peer, public_key
from dataplane.wireguard.kernel import KernelWireGuard, kernel_has_wireguard
from dataplane.wireguard.userspace import GoWireGuard

ROUNDS = 5
SECONDS = 3
DEVICE, PORT = "wg-bench", 51999
SERVER = "10.2.0.10"


def rows(status: dict[str, Any]) -> list[Row]:
    """The intent of the demo is Active: it permits tcp/443."""
    ours = status["hosts"]["cx1"]["namespace"], status["hosts"]["ay1"]["namespace"]
    gateways = status["nodes"]["sg1"]["namespace"], status["nodes"]["t1"]["namespace"]
    taken = Slices()
    with plain_wireguard(*gateways):
        for _ in range(ROUNDS):
            taken.add("ours", 1 / mbit(*ours, SERVER, 443))
            taken.add("plain", 1 / mbit(*gateways, "10.99.0.2", 5201))
    peer = "plain kernel WireGuard" if kernel_has_wireguard() else "plain wireguard-go"
    value, peer_value, spread = 1 / taken.lower("ours"), 1 / taken.lower("plain"), taken.spread("ours", "plain")
    return [
        row("main.tunnel_tcp_mbit", value, "Mbit/s", better="higher", peer=peer, peer_value=peer_value, spread=spread)
    ]


def mbit(client: str, server: str, address: str, port: int) -> float:
    listening = subprocess.Popen(
        ["nsenter", f"--net={server}", "iperf3", "-s", "-1", "-p", str(port), "--forceflush"], stdout=subprocess.PIPE
    )
    try:
        assert listening.stdout is not None
        while b"listening" not in listening.stdout.readline():
            pass
        command = ["nsenter", f"--net={client}", "iperf3", "-c", address, "-p", str(port), "-t", str(SECONDS), "-J"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        result = json.loads(done.stdout)
        if "error" in result:
            raise RuntimeError(f"iperf3 to {address}: {result['error']}")
        return float(result["end"]["sum_received"]["bits_per_second"]) / 1e6
    finally:
        listening.kill()
        listening.wait()


@contextmanager
def plain_wireguard(first: str, second: str) -> Iterator[None]:
    """One tunnel, 10.99.0.1 to 10.99.0.2, over the link between sg1 and t1."""
    keys = [base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode() for _ in range(2)]
    ends = ((first, "192.0.2.1", "10.99.0.1"), (second, "192.0.2.2", "10.99.0.2"))
    with ExitStack() as stack:
        for place, (namespace, _, inner) in enumerate(ends):
            other = 1 - place
            peer = {"public_key": public_key(keys[other]), "endpoint": f"{ends[other][1]}:{PORT}"}
            asked = json.dumps({"private_key": keys[place], "inner": inner, "peer": peer})
            command = ["nsenter", f"--net={namespace}", sys.executable, "-m", "bench.tunnel"]
            end = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert end.stdin is not None and end.stdout is not None
            stack.callback(end.stdin.close)
            end.stdin.write(f"{asked}\n")
            end.stdin.flush()
            if end.stdout.readline() != "ready\n":
                raise RuntimeError("plain WireGuard does not come up")
        yield


def serve() -> None:
    """One end, in its network namespace, until standard input ends."""
    asked = json.loads(sys.stdin.readline())
    peer = Peer(allowed_ips=("10.99.0.0/30",), persistent_keepalive_s=0, **asked["peer"])
    with tempfile.TemporaryDirectory() as name:
        wireguard = KernelWireGuard() if kernel_has_wireguard() else GoWireGuard(Path(name) / "run", Path(name))
        wireguard.begin(DEVICE)
        wireguard.create(DEVICE, 60)
        try:
            wireguard.configure(DEVICE, DeviceConfig(private_key=asked["private_key"], listen_port=PORT, peers=(peer,)))
            for arguments in (("address", "add", f"{asked['inner']}/30", "dev", DEVICE), ("link", "set", DEVICE, "up")):
                subprocess.run(["ip", *arguments], check=True)
            print("ready", flush=True)
            sys.stdin.read()
        finally:
            wireguard.remove(DEVICE)


if __name__ == "__main__":
    os.umask(0o077)
    serve()
