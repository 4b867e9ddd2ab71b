"""Both directions of talking to other domains, for whichever are pinned at the moment."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping

from controller.eastwest.client import EastWestClient
from controller.eastwest.identity import Identity
from controller.eastwest.peer import Peer, greeting, pinned
from controller.eastwest.server import Deliver, EastWestServer, Refused
from controller.errors import ConfigInvalid
from controller.model.agreement import Envelope
from controller.model.event import MessageSent, PeerMet
from controller.model.inventory import Domain


class Neighbours:
    """Runs in the TaskGroup it is given."""

    def __init__(
        self,
        identity: Identity,
        tasks: asyncio.TaskGroup,
        *,
        deliver: Deliver,
        report: Callable[[MessageSent | PeerMet], Awaitable[None]],
        refused: Refused,
    ) -> None:
        self._tasks = tasks
        self._report = report
        self._refused = refused
        self._faults: dict[str, str] = {}
        self._unpinned: dict[str, str] = {}
        """Domains that are no peers, since their key does not fit their certificate: why."""
        ours = greeting(secrets.token_hex(8))
        self._server = EastWestServer(identity, deliver, report, refused, ours)
        self._client = EastWestClient(identity, tasks, self._reported, ours)

    async def listen(self, address: str) -> int:
        """Returns the port. Raises ConfigInvalid."""
        port = await self._server.start(address)
        self._tasks.create_task(self._end(), name="east-west listener")
        return port

    async def _end(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:  # gRPC complains of a server that is still there when its event loop is not
            await self.close()

    async def close(self) -> None:
        await self._server.stop()

    def set_domains(self, domains: Mapping[str, Domain]) -> None:
        """Those with a key, a certificate and an endpoint are peers; one whose key does not fit is none."""
        peers: dict[str, Peer] = {}
        self._unpinned = {}
        for domain in domains.values():
            if domain.own or not domain.endpoint:
                continue
            try:
                peers[domain.name] = pinned(domain)
            except ConfigInvalid as exc:
                self._unpinned[domain.name] = str(exc)
                self._refused(domain.name, str(exc))
        self._faults = {name: self._faults.get(name, "") for name in peers}
        self._server.set_peers(peers)
        self._client.set_peers(peers)

    def send(self, peer: str, message_id: str, message: Envelope) -> None:
        """Answered by one MessageSent."""
        if (reason := self._unpinned.get(peer)) is not None:
            event = MessageSent(peer=peer, message_id=message_id, reason=reason)
            self._tasks.create_task(self._tell(event), name=f"refusal of {message_id}")
        else:
            self._client.send(peer, message_id, message)

    async def faults(self) -> Mapping[str, str]:
        """By domain that shall be a peer, why it is none, is not there now, or did not take the newest message."""
        there = await self._client.faults()
        return {name: fault or self._faults.get(name, "") for name, fault in there.items()} | self._unpinned

    def skews(self) -> Mapping[str, float]:
        """By peer, how far its clock was ahead of ours when it last greeted us; without those that do not say."""
        return self._client.skews()

    def refusals(self) -> Mapping[tuple[str, str], int]:
        """How often what came was more than a share allows: by domain (empty: strangers), and share."""
        door = self._server.door
        turned_away = {(domain, "connections"): count for domain, count in door.turned_away.items()}
        too_large = {(domain, "headers"): count for domain, count in door.too_large.items()}
        return {**self._server.refusals, **turned_away, **too_large}

    async def _tell(self, event: MessageSent) -> None:
        await self._report(event)

    async def _reported(self, event: MessageSent | PeerMet) -> None:
        reason = event.reason if isinstance(event, MessageSent) else event.refusal
        if event.peer in self._faults and (reason or isinstance(event, MessageSent)):
            self._faults[event.peer] = reason
        await self._report(event)
