"""The way to an IPFIX collector, over UDP or TCP: nothing waits for it. What it does not take in time is dropped and
counted."""

import asyncio
import contextlib
import socket
import time
from collections import Counter

import numpy as np

from controller.config import IpfixConfig, IpfixTransport, address
from controller.export.ipfix import Exporter
from controller.model.flow_columns import FlowColumns
from controller.model.telemetry import Metric, Sample
from dataplane.log import Logger

TEMPLATES_S = 60.0
"""Over UDP, templates are told again: who has begun to listen knows them then (RFC 7011 §8.4)."""
BUFFERED_MAX = 4 << 20
"""Octets that wait for a TCP collector."""
QUEUED_ROWS_MAX = 262_144
RETRY_S_MIN, RETRY_S_MAX = 1.0, 30.0


class Collector:
    def __init__(self, config: IpfixConfig, log: Logger) -> None:
        self._host, self._port = address(config.collector, "`ipfix.collector`")
        self._transport = config.transport
        self._log = log
        self._queue: asyncio.Queue[FlowColumns] = asyncio.Queue()
        self._queued = 0
        self.counts: Counter[str] = Counter()
        """`messages`, `records` (rows of both directions), `dropped` (rows)."""

    def take(self, flows: FlowColumns) -> None:
        if self._queued + len(flows) > QUEUED_ROWS_MAX:
            self.counts["dropped"] += len(flows)
            return
        self._queued += len(flows)
        self._queue.put_nowait(flows)

    async def run(self) -> None:
        """Until cancelled. A collector that is not there is tried again ever more seldom."""
        delay_s, told = RETRY_S_MIN, ""
        while True:
            try:
                await (self._over_udp() if self._transport is IpfixTransport.UDP else self._over_tcp())
            except OSError as error:
                if told != str(error):
                    self._log.warning("ipfix_not_exported", collector=f"{self._host}:{self._port}", reason=str(error))
                delay_s, told = (delay_s if told == str(error) else RETRY_S_MIN), str(error)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_S_MAX)

    async def _over_udp(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        exporter, known = Exporter(), dict[int, float]()
        with socket.socket(family, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            sending.connect((self._host, self._port))
            while True:
                flows, messages = await self._next(exporter, known, TEMPLATES_S)
                try:
                    for message in messages:
                        # Where nobody listens, an ICMP error ends this send or a later one.
                        with contextlib.suppress(ConnectionRefusedError):
                            sending.send(message)
                    self.counts["messages"] += len(messages)
                except BlockingIOError:
                    self.counts["dropped"] += len(flows)

    async def _over_tcp(self) -> None:
        exporter, known = Exporter(), dict[int, float]()
        _, writer = await asyncio.open_connection(self._host, self._port)
        try:
            while True:
                flows, messages = await self._next(exporter, known, float("inf"))
                if writer.transport.get_write_buffer_size() > BUFFERED_MAX:
                    self.counts["dropped"] += len(flows)
                    continue
                writer.writelines(messages)
                self.counts["messages"] += len(messages)
                if writer.is_closing():
                    raise ConnectionResetError("the collector has closed the connection")
        finally:
            writer.close()

    async def _next(
        self, exporter: Exporter, known: dict[int, float], templates_s: float
    ) -> tuple[FlowColumns, list[bytes]]:
        flows = await self._queue.get()
        self._queued -= len(flows)
        self.counts["records"] += len(flows)
        return flows, await asyncio.to_thread(self._messages, exporter, known, templates_s, flows)

    @staticmethod
    def _messages(exporter: Exporter, known: dict[int, float], templates_s: float, flows: FlowColumns) -> list[bytes]:
        messages, now_s = [], time.time()
        for node in np.unique(flows.node).tolist():
            if not abs(now_s - known.get(node, float("-inf"))) < templates_s:
                messages.append(exporter.templates(node, flows.nodes[node], now_s))
                known[node] = now_s
            messages += exporter.data(node, flows.take(flows.node == node), now_s)
        return messages

    def metrics(self) -> tuple[Metric, ...]:
        samples = tuple(
            Sample(labels=(("what", what),), value=float(self.counts[what]))
            for what in ("dropped", "messages", "records")
        )
        return (
            Metric(
                name="netstitch_ipfix_total",
                help="Messages to the IPFIX collector; rows of flows for it, and such that it did not take",
                kind="counter",
                samples=samples,
            ),
        )
