"""Many intents from shop over transit to insight, in the simulator: what three controllers take until all are agreed
and installed, and in how many calls between them.

A process of its own: `python -m bench.chain INTENTS`.
"""

import subprocess
import sys
import time

import msgspec

from bench.report import Row, row
from controller.model.stitch import Stage
from tests.simulator import World

INTENTS = 800
"""A domain takes 900 plans, for now."""
VIRTUAL_S = 60.0
MANIFEST = """
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: chain-{}, tenant: customer-x}}
spec:
  allow:
    - {{from: {{network: shop/customer-x, select: {{app: web}}}}, to: insight/analytics/analytics-y, ports: [icmp]}}
---
"""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    agreed_s: float
    """CPU time of all three, from the request until the last is active."""
    calls: int
    """Between controllers, in both directions."""


def rows() -> list[Row]:
    run = subprocess.run([sys.executable, "-m", "bench.chain", str(INTENTS)], check=True, stdout=subprocess.PIPE)
    found = msgspec.json.decode(run.stdout, type=Measured)
    return [
        row(
            "scale.chain_1k_agreed_s",
            found.agreed_s,
            f"s, of {INTENTS} intents",
            better="lower",
            target=10 * INTENTS / 1000,
        ),
        row("scale.chain_1k_calls", found.calls, "calls", better="lower", target=200),
    ]


def measure(intents: int) -> Measured:
    world = World()
    world.checked = False
    for controller in world.controllers.values():
        controller.policy = msgspec.structs.replace(controller.policy, max_agreements=2 * intents, max_share=95)
    world.start()
    calls, began_s = world.calls, time.process_time()
    world.apply("shop", "".join(map(MANIFEST.format, range(intents))))
    end_s = world.now_s + VIRTUAL_S
    while world.now_s < end_s and sum(stitch.stage == Stage.ACTIVE for _, stitch in world.stitches()) < 3 * intents:
        world.run(0.01)
    agreed_s = time.process_time() - began_s
    world.run(5.0)
    world.check_settled()
    return Measured(agreed_s=agreed_s, calls=world.calls - calls)


if __name__ == "__main__":
    print(msgspec.json.encode(measure(int(sys.argv[1]))).decode())
