"""Waiting for what has to happen, however slow the machine is: the limit ends only a test that has failed."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

LIMIT_S = 300.0


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition` (which may be a coroutine function)."""
    ends = time.monotonic() + LIMIT_S
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < ends, f"not within {LIMIT_S} s: {what}"
        await asyncio.sleep(0.05)


def wait_for(condition: Callable[[], Any], what: str = "what is waited for") -> None:
    ends = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.02)
