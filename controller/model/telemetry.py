"""What a controller can say about the traffic and the health of its domain, and who says it."""

from collections.abc import Callable
from typing import Protocol

from controller.model.intent import Value
from dataplane.host_api import CounterSample, FlowBatch, LostPackets


class NodeFlows(Value, frozen=True, kw_only=True):
    """Flow records of one node, and whose they are."""

    node: str
    batch: FlowBatch
    owners: dict[int, str]
    """Leg to owner: `intents/NAME`, `agreements/ID` or `networks/NAME`."""


class NodeDrops(Value, frozen=True, kw_only=True):
    """What one node dropped and lost."""

    node: str
    drops: tuple[CounterSample, ...]
    """`drop_counter`: totals by DropReason; zero ones may be left out."""
    losses: tuple[LostPackets, ...] = ()


class Carried(Value, frozen=True, kw_only=True):
    """What one node has permitted for one owner, both directions, and what it dropped of that."""

    node: str
    owner: str
    """As in NodeFlows.owners."""
    packets: int
    bytes: int
    dropped_packets: int
    """Of `packets`: what was permitted, and dropped all the same."""
    dropped_bytes: int
    """Of frames."""


class Check(Value, frozen=True, kw_only=True):
    """One line of `stitch doctor`."""

    subject: str
    """`nodes/se1`, `domains/transit`, `store`."""
    name: str
    """`reachable`, `wireguard`, `in sync`."""
    ok: bool
    detail: str
    """What was seen."""
    advice: str = ""
    """What to do; empty if ok."""


class Sample(Value, frozen=True, kw_only=True):
    labels: tuple[tuple[str, str], ...] = ()
    value: float


class Metric(Value, frozen=True, kw_only=True):
    """A metric family as Prometheus has it."""

    name: str
    """`netstitch_flow_records_lost_total`."""
    help: str
    kind: str
    """counter or gauge."""
    samples: tuple[Sample, ...]


class Telemetry(Protocol):
    """What the northbound side needs beside the controller; the shell is one. A node that does not answer is left out
    (and fails a check)."""

    async def flows(self, concerns: Callable[[str], bool] | None = None) -> tuple[NodeFlows, ...]:
        """Read from the nodes now."""

    async def drops(self) -> tuple[NodeDrops, ...]:
        """Read from the nodes now."""

    async def carried(self) -> tuple[Carried, ...]:
        """Read from the nodes now."""

    async def checks(self) -> tuple[Check, ...]: ...

    async def metrics(self) -> tuple[Metric, ...]:
        """Of the controller itself; those of flows, drops and resources are made from the above."""
