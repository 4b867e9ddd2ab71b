"""Neighbours whose keys are pinned say whatever comes to their mind, to a controller that really runs.

Each message is signed, so that only what it says can be what is wrong with it. NETSTITCH_FUZZ_MESSAGES says how many
(300), NETSTITCH_FUZZ_SEED which (else new ones; it is printed). A peer is heard 50 times a second, so several speak.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import msgspec.inspect as mi
from federation import Controller, Federation
from msgspec.structs import replace
from waiting import LIMIT_S

from controller.eastwest.client import PeerChannel
from controller.eastwest.identity import Identity, keygen, load
from controller.eastwest.peer import greeting, pinned
from controller.fulfillment.negotiate import sealed
from controller.model.agreement import MESSAGES, PROTOCOL, Envelope, Terms, Withdrawal, opened_mandate, unsigned
from controller.model.inventory import Domain
from tests.beyond import beyond, fields, filled, usual
from tests.mutation import mutated_data
from tests.offers import first_offer
from tests.simulator import ORDER_PROCESSING, World
from tests.test_bounds import as_json

MESSAGES_SENT = int(os.environ.get("NETSTITCH_FUZZ_MESSAGES", "300"))
CALLS = 8
"""Of each neighbour at a time."""
STRANGE = ("mallory", "eve", "trudy")
"""Neighbours beside shop, which has dealings with transit."""
ROUNDS = 8 if MESSAGES_SENT >= 10_000 else 1
"""Before each nobody speaks. What others meet then and during it is compared: what else the machine does changes."""
GROWTH_MB = 20
HOSTILE: tuple[dict[str, Any], ...] = (
    {"source_prefixes": ("224.0.0.0/3",)},
    {"source_prefixes": ("8000::/1",)},
    {"source_prefixes": ("10.1.0.11/32\n",)},
    {"destination": "insight/analytics/\x1b[2J"},
)
ENDS = ("192.0.2.5:+51820", " 192.0.2.5:51820", "[[192.0.2.5]]:1", "[fe80::1%a\npublic_key=0]:1", "127.0.0.1:51820")


def offered(identity: Identity) -> Terms:
    """What shop could really offer transit now."""
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    terms = first_offer(world, "shop")
    now_s = int(time.time())
    mandate = replace(opened_mandate(terms.mandate), not_before_s=now_s - 1, expires_s=now_s + 3000)
    return replace(terms, not_before_s=now_s - 1, expires_s=now_s + 3000, mandate=sealed(mandate, identity))


@functools.cache
def generated() -> list[tuple[str, bytes]]:
    """Every field of every kind of message beyond its bounds."""
    messages = []
    for name, kind in MESSAGES.items():
        root = mi.type_info(kind)
        for path, field in fields(root):
            messages += [(name, as_json(filled(root, path, value))) for value in beyond(field)]
        messages.append((name, as_json(usual(root))))
    return [drawn for drawn in messages if len(drawn[1]) < 300_000]


def evil(terms: Terms, identity: Identity, rng: random.Random) -> Iterator[bytes]:
    """Without end; as they go over the wire."""
    beyond_bounds, own = generated(), identity.domain
    plain = json.loads(msgspec.json.encode(terms))
    for number in range(10**9):
        match rng.randrange(6):
            case 0:
                kind, payload = rng.choice(beyond_bounds)
                yield signed(kind, payload, identity)
            case 1 | 2:
                changed = mutated_data(plain, rng)
                yield signed("offer", json.dumps(changed).encode("utf-8", "replace"), identity)
            case 3:
                flow = replace(terms.flows[0], **rng.choice(HOSTILE))
                strange = replace(terms, id=f"{own}:evil:{number}", flows=(flow,))
                yield signed("offer", msgspec.json.encode(strange), identity)
            case 4:
                end = replace(terms.offeror_end, endpoint=rng.choice(ENDS))
                strange = replace(terms, id=f"{own}:evil:{number}", offeror_end=end)
                yield signed("offer", msgspec.json.encode(strange), identity)
            case _:
                gone = Withdrawal(id=f"{own}:none:{number}", reason="x" * rng.randrange(900), issued_s=1)
                data = bytearray(message(sealed(gone, identity)))
                if rng.random() < 0.5:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                yield bytes(data)


def signed(kind: str, payload: bytes, identity: Identity) -> bytes:
    envelope = replace(unsigned(Withdrawal(id="xxx", reason="", issued_s=1)), kind=kind, payload=payload)
    return message(replace(envelope, signature=identity.sign(envelope.signed_bytes)))


def message(envelope: Envelope) -> bytes:
    assert envelope.version == PROTOCOL
    return msgspec.json.encode(envelope)


async def test_whatever_a_pinned_neighbour_says_the_controller_goes_on() -> None:
    seed = int(os.environ.get("NETSTITCH_FUZZ_SEED", str(random.randrange(2**32))))
    print(f"\nNETSTITCH_FUZZ_SEED={seed}")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="stitch-") as directory:
        federation = Federation(Path(directory))
        shop, transit = federation.controllers["shop"], federation.controllers["transit"]
        await federation.start()
        try:
            await federation.settled()
            endpoint = (await shop.get("domains"))["transit"]["spec"]["endpoint"]
            await shop.kill()
            identity, theirs = (load(name, Path(directory) / name / "keys") for name in ("shop", "transit"))
            terms = offered(identity)
            hostile = [identity, *[await introduced(transit, name, Path(directory)) for name in STRANGE]]
            peer = pinned(
                Domain(name="transit", key=theirs.public_key, certificate=theirs.root_certificate, endpoint=endpoint)
            )
            channels = [PeerChannel(address, peer, greeting("an attacker")) for address in hostile]
            for channel in channels:
                await channel.greet(LIMIT_S)
            assert transit.process is not None
            pid = transit.process.pid
            idle_s, busy_s = list[float](), list[float]()
            used_s = cpu_s(pid)
            resident_mb, stored_mb = transit.resident_mb, size_mb(Path(directory) / "transit")
            answers: Counter[str] = Counter()
            sent = 0

            async def attack(channel: PeerChannel, messages: Iterator[bytes], until: float) -> None:
                nonlocal sent
                while sent < until:
                    call, data = channel._call, next(messages)
                    sent += 1
                    if rng.random() < 0.2:
                        others = [
                            drawn for drawn in itertools.islice(messages, rng.randrange(8)) if len(drawn) < 100_000
                        ]
                        call, data = channel._call_all, b'{"messages":[%s]}' % b",".join([data, *others])
                        sent += len(others)
                    try:
                        await call(data, timeout=LIMIT_S)
                        answers["taken"] += 1
                    except grpc.aio.AioRpcError as error:
                        answers[error.code().name.lower()] += 1

            began_s = time.monotonic()
            speakers = [
                (channel, evil(terms, address, rng)) for channel, address in zip(channels, hostile, strict=True)
            ]
            generated()
            for number in range(1, ROUNDS + 1):
                async with changing(transit, idle_s):
                    pass
                async with changing(transit, busy_s):
                    until = MESSAGES_SENT * number / ROUNDS
                    await asyncio.gather(*(attack(*speaker, until) for speaker in speakers for _ in range(CALLS)))
            took_s = time.monotonic() - began_s
            for channel in channels:
                await channel.close()
            print(f"{sent} messages, of the calls {dict(answers)}, in {took_s:.0f} s", end=", ")
            print(f"{cpu_s(pid) - used_s:.1f} s of its processor", end="; ")
            idle_ms, busy_ms = (statistics.median(took) * 1000 for took in (idle_s, busy_s))
            print(f"apply {idle_ms:.0f} ms idle (of {len(idle_s)}), {busy_ms:.0f} ms meanwhile (of {len(busy_s)})")
            print(f"resident {resident_mb:.0f} to {transit.resident_mb:.0f} MB, store {stored_mb:.1f} to", end=" ")
            print(f"{size_mb(Path(directory) / 'transit'):.1f} MB")
            assert set(answers) <= {"taken", "invalid_argument"}, answers
            assert sent >= MESSAGES_SENT and answers["invalid_argument"] > MESSAGES_SENT / 20
            assert transit.process.returncode is None and transit.process.pid == pid
            assert not transit.logged("event_refused"), "no step has raised"
            assert transit.resident_mb < resident_mb + GROWTH_MB
            assert size_mb(Path(directory) / "transit") < stored_mb + GROWTH_MB
            assert not any("evil" in name for name in await transit.get("agreements"))
        finally:
            await federation.stop()


async def introduced(controller: Controller, name: str, directory: Path) -> Identity:
    """A neighbour whose key is pinned there."""
    made = keygen(name, directory / name / "keys")
    spec = {
        "key": made.public_key,
        "certificate": made.root_certificate,
        "endpoint": "127.0.0.1:1",
        "sid_block": f"5f00:{100 + STRANGE.index(name)}::/32",
    }
    manifest = {"apiVersion": "netstitch/v1", "kind": "Domain", "metadata": {"name": name}, "spec": spec}
    response = await controller.apply(manifest)
    assert response.status_code == 200, response.text
    return made


@contextlib.asynccontextmanager
async def changing(controller: Controller, took_s: list[float]) -> AsyncIterator[None]:
    """Somebody else changes something meanwhile, again and again; `took_s` hears how long each took."""
    script = Path(__file__).with_name("apply_load.py")
    command = (sys.executable, str(script), f"http://{controller.listen}", controller.token_file.read_text().strip())
    running = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield
    finally:
        said, _ = await running.communicate(b"")
    assert running.returncode == 0
    took_s += map(float, said.split())


def cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def size_mb(directory: Path) -> float:
    return sum(file.stat().st_size for file in directory.glob("store*")) / 1e6
