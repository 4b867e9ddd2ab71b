"""Changes that somebody makes again and again, until its input ends: `python apply_load.py SERVER TOKEN`.

Prints at the end how long each took, in seconds. A process of its own, so that who loads the controller meanwhile does
not load who measures.
"""

import json
import sys
import threading
import time
import urllib.request

PAUSE_S = 0.2


def run(server: str, token: str) -> list[float]:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    took: list[float] = []
    while len(took) < 10 or not ended.wait(PAUSE_S):
        network = {
            "apiVersion": "netstitch/v1",
            "kind": "Network",
            "metadata": {"name": "transit/others"},
            "spec": {"prefixes": [f"10.77.{len(took) % 250}.0/24"]},
        }
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        request = urllib.request.Request(f"{server}/v1/apply", json.dumps([network]).encode(), headers)
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=300) as answer:
            assert json.load(answer)["results"]
        took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    print(*run(sys.argv[1], sys.argv[2]))
