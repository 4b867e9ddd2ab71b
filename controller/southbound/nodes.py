"""All nodes of a domain: a session each, in parallel."""

import asyncio
from dataclasses import dataclass

from controller.errors import TargetUnreachable
from controller.model.event import SyncNode
from controller.model.openflow import openflow_switch
from controller.model.p4_switch import P4Switch, p4_switch
from controller.southbound.node import NodeSession
from controller.southbound.openflow.session import OpenFlowSession
from controller.southbound.p4_switch import P4SwitchSession
from controller.southbound.session import Session, SessionContext
from dataplane.host_api import CounterSample, FlowBatch, LostPackets


@dataclass(frozen=True, slots=True)
class _Running:
    session: Session
    task: asyncio.Task[None]


class Nodes:
    """Runs in the TaskGroup it is given. Neither decides nor logs."""

    def __init__(self, tasks: asyncio.TaskGroup, context: SessionContext) -> None:
        self._tasks = tasks
        self._context = context
        self._running: dict[str, _Running] = {}
        self._datapaths: dict[int, str] = {}
        """Of connected OpenFlow switches: datapath id -> node."""
        self._targets: dict[P4Switch, str] = {}
        """Of connected P4 switches: the node."""

    def connect(self, node: str, agent: str) -> None:
        """Keeps a session with it from now on."""
        running = self._running.get(node)
        if running is not None:
            if running.session.agent == agent:
                return
            running.task.cancel()
        session: Session
        if (switch := openflow_switch(agent)) is not None:
            session = OpenFlowSession(node, agent, switch, self._context, self._datapaths)
        elif (target := p4_switch(agent)) is not None:
            session = P4SwitchSession(node, agent, target, self._context, self._targets)
        else:
            session = NodeSession(node, agent, self._context)
        self._running[node] = _Running(session, self._tasks.create_task(session.run(), name=f"node {node}"))

    def disconnect(self, node: str) -> None:
        running = self._running.pop(node, None)
        if running is not None:
            running.task.cancel()

    def sync(self, wanted: SyncNode) -> None:
        """Answered through the context's `report`, unless a newer one replaces it before it began."""
        running = self._running.get(wanted.node)
        if running is not None:
            running.session.submit(wanted)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._running))

    def fault(self, node: str) -> str:
        """Why there is no session with it now; empty: there is one."""
        return self._session(node).fault

    def telemetry_fault(self, node: str) -> str:
        """Why its telemetry does not arrive; empty: it does."""
        return self._session(node).telemetry_fault

    async def flows(self, node: str, forwarding_class: int = -1) -> FlowBatch:
        """Of one forwarding class, or of all (-1). Raises TargetUnreachable or TargetRejected."""
        return await self._session(node).flows(forwarding_class)

    async def drops(self, node: str) -> tuple[CounterSample, ...]:
        """Raises TargetUnreachable or TargetRejected."""
        return await self._session(node).drops()

    async def losses(self, node: str) -> tuple[LostPackets, ...]:
        """Raises TargetUnreachable or TargetRejected."""
        return await self._session(node).losses()

    async def forwarding_classes(self, node: str) -> tuple[CounterSample, ...]:
        """Raises TargetUnreachable or TargetRejected."""
        return await self._session(node).forwarding_classes()

    async def forwarding_class_drops(self, node: str) -> tuple[CounterSample, ...]:
        """Raises TargetUnreachable or TargetRejected."""
        return await self._session(node).forwarding_class_drops()

    def _session(self, node: str) -> Session:
        running = self._running.get(node)
        if running is None:
            raise TargetUnreachable(f"node {node}: is none of this domain")
        return running.session
