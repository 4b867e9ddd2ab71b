"""Detectors, each a value that holds what it remembers.

scan.py           a source tries many destinations or ports that do not answer
volume.py         a destination or an intent gets far more, or far less, than it does: flood, volume_shift
exfiltration.py   a source gives much, and gets little, to whom it did not speak before
beaconing.py      a source calls a new destination at an even pace
probing.py        much of what an owner's hosts send is denied by policy
learned.py        a source whose flows are unlike those that were seen before
delay.py          a path's delay moves, or packets of its probes are lost
"""

from typing import Protocol

from controller.assurance.seen import Seen
from controller.model.finding import Finding


class Detector(Protocol):
    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Detector, tuple[Finding, ...]]":
        """What it is after this interval, and what it has found. Of entities and owners that are `frozen` it learns
        nothing: an incident of theirs is open."""

    def forget(self, owner: str) -> "Detector":
        """Without what it has learnt of an owner, which has changed."""
