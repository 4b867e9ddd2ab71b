"""What the loop asks of those around it: store, other domains, nodes, plugins, log. Built in `__main__`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from controller.model.agreement import Envelope
from controller.model.event import Record, SyncNode
from controller.model.inventory import Domain
from controller.model.policy import Policy
from controller.model.resource import Resource
from controller.model.rule import Added
from controller.reconcile.state import State

LogLine = Callable[[str, str, Mapping[str, str]], None]
"""(level, event, fields)"""


class Journal(Protocol):
    """The store, as far as the loop needs it."""

    async def commit(self, records: Sequence[Record]) -> int:
        """Durable on return."""


class Neighbours(Protocol):
    """The other domains."""

    def set_domains(self, domains: Mapping[str, Domain]) -> None: ...

    def send(self, peer: str, message_id: str, message: Envelope) -> None:
        """Answered by one MessageSent."""


class Targets(Protocol):
    """The nodes."""

    def connect(self, node: str, agent: str) -> None: ...

    def disconnect(self, node: str) -> None: ...

    def sync(self, wanted: SyncNode) -> None:
        """Answered by NodeSynced, NodeRejected or NodeUnreachable."""


class Throughput(Protocol):
    """What passed in the last seconds."""

    def measured(self, state: State) -> Callable[[str], float | None]:
        """By owner, Mbit/s in the direction that carries more; None: it is not known."""


class Plugins(Protocol):
    """Those of others that say what more an intent requires, or what they think of an offer."""

    @property
    def compiling(self) -> bool:
        """Whether there are any."""

    async def compile(self, intents: Sequence[Mapping[str, Any]]) -> Sequence[tuple[Added, ...]]:
        """Of each intent (as a manifest); a failure is in it."""

    @property
    def judging(self) -> bool:
        """Whether any judges offers."""

    async def judge(self, terms: Mapping[str, Any]) -> tuple[str, str]:
        """Why an offer is refused (empty: it is not), and what failed."""

    def resources(self) -> list[Resource]: ...


class PolicySource(Protocol):
    name: str
    """Of the file."""

    def read(self) -> Policy:
        """As it is now. Raises ConfigInvalid or ManifestInvalid."""
