"""Many intents from shop over transit to insight, in the simulator: what three controllers take until all are agreed
and installed, and in how many calls between them.

A process of its own: `python -m bench.chain INTENTS`.
"""

import subprocess
import sys
import time

import msgspec

from bench.report import Row, row
from controller.model.policy import AcceptRule
from controller.model.stitch import Stage
from controller.reconcile import State
from tests.simulator import World

INTENTS = 1000
VIRTUAL_S = 60.0
MANIFEST = """
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: chain-{}, tenant: customer-x}}
spec:
  allow:
    - {{from: {{network: shop/customer-x, select: {{app: web}}}}, to: insight/analytics, ports: [tcp/{}]}}
---
"""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    agreed_s: float
    """CPU time of all three, from the request until the last is active."""
    calls: int
    """Between controllers, in both directions."""
    agreements: int
    """Of shop with transit."""


def rows() -> list[Row]:
    run = subprocess.run([sys.executable, "-m", "bench.chain", str(INTENTS)], check=True, stdout=subprocess.PIPE)
    measured = msgspec.json.decode(run.stdout, type=Measured)
    return [
        row(
            "scale.chain_1k_agreed_s",
            measured.agreed_s,
            f"s, of {INTENTS} intents",
            better="lower",
            target=10,
        ),
        row("scale.chain_1k_calls", measured.calls, "calls", better="lower", target=200),
        row("scale.chain_1k_agreements", measured.agreements, "agreements", better="lower"),
    ]


def measure(intents: int) -> Measured:
    world = World()
    world.checked = False
    for controller in world.controllers.values():
        accept = (AcceptRule(origin="shop", source="shop/*", destination="insight/*"),)
        controller.policy = msgspec.structs.replace(controller.policy, accept=accept, max_share=95)
    world.start()
    world.meet(("shop", "transit"), ("transit", "insight"))
    world.run(1.0)
    calls, began_s = world.calls, time.process_time()
    world.apply("shop", "".join(MANIFEST.format(number, 1000 + number) for number in range(intents)))
    end_s = world.now_s + VIRTUAL_S
    shop = world.controllers["shop"]
    while world.now_s < end_s and _active(shop.state) < intents:
        world.run(0.01)
    assert _active(shop.state) == intents
    agreed_s = time.process_time() - began_s
    world.run(5.0)
    world.check_settled()
    return Measured(agreed_s=agreed_s, calls=world.calls - calls, agreements=len(shop.state.agreements))


def _active(state: State) -> int:
    return sum(stitch.stage == Stage.ACTIVE for stitch in state.stitches.values())


if __name__ == "__main__":
    print(msgspec.json.encode(measure(int(sys.argv[1]))).decode())
