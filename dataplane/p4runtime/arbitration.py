"""Who may write: primary and backup controllers by role (P4Runtime §5), without I/O.

    first update ──▶ BACKUP ──election id >= the highest ever seen──▶ PRIMARY
                        ▲                                              │
                        └──────────a lower one, or none────────────────┘   the stream ends: gone

There may be no primary: after it left, only an election id at least as high as its own takes over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.p4runtime.status import Code, Refused

DEFAULT_ROLE = ""
STREAMS_PER_ROLE = 16


@dataclass(frozen=True, slots=True)
class ArbitrationUpdate:
    """What a controller asks for."""

    device_id: int
    role: str
    has_role_config: bool
    election_id: int | None
    """128 bits; None: never to become primary."""


@dataclass(frozen=True, slots=True)
class Notification:
    """What one controller is to be told (§5.4)."""

    client: int
    role: str
    election_id: int | None
    """The highest ever seen; None: there was no primary yet."""
    code: Code
    """OK: you are primary. ALREADY_EXISTS: another one is. NOT_FOUND: nobody is."""


Notifications = tuple[Notification, ...]


@dataclass
class _Role:
    highest: int | None = None
    primary: int | None = None
    """Client."""
    clients: dict[int, int | None] = field(default_factory=dict)
    """Election ids by client, in the order of arrival."""


class Arbitration:
    """Clients are numbers that the caller gives to streams."""

    def __init__(self, device_id: int, highest: Mapping[str, int]) -> None:
        """`highest`: election ids by role from before a restart that kept the forwarding state (§16.2)."""
        self._device_id = device_id
        self._roles = {role: _Role(highest=election_id) for role, election_id in highest.items()}
        self._role_of: dict[int, str] = {}

    @property
    def highest(self) -> dict[str, int]:
        """What must outlast a restart."""
        return {name: role.highest for name, role in self._roles.items() if role.highest is not None}

    def update(self, client: int, wanted: ArbitrationUpdate) -> Notifications:
        """Raises Refused; the client's stream must then end with that code."""
        self._check(client, wanted)
        role = self._roles.setdefault(wanted.role, _Role())
        self._role_of[client] = wanted.role
        role.clients[client] = wanted.election_id
        was_primary = role.primary == client
        if wanted.election_id is not None and (role.highest is None or wanted.election_id >= role.highest):
            role.highest, role.primary = wanted.election_id, client
            return self._tell_all(wanted.role)
        if was_primary:
            role.primary = None
            return self._tell_all(wanted.role)
        return (self._tell(wanted.role, client),)

    def leave(self, client: int) -> Notifications:
        """The client's stream ended."""
        name = self._role_of.pop(client, None)
        if name is None:
            return ()
        role = self._roles[name]
        del role.clients[client]
        if role.primary != client:
            return ()
        role.primary = None
        return self._tell_all(name)

    def knows_role(self, role: str) -> bool:
        return role == DEFAULT_ROLE or role in self._roles

    def is_primary(self, role: str, election_id: int | None) -> bool:
        """Whether a request with these is the primary's."""
        controllers = self._roles.get(role)
        if controllers is None or controllers.primary is None or election_id is None:
            return False
        return controllers.clients[controllers.primary] == election_id

    def is_primary_client(self, client: int) -> bool:
        name = self._role_of.get(client)
        return name is not None and self._roles[name].primary == client

    def primaries(self) -> tuple[int, ...]:
        """The primary clients of all roles."""
        return tuple(role.primary for role in self._roles.values() if role.primary is not None)

    def _check(self, client: int, wanted: ArbitrationUpdate) -> None:
        """§5.3, in its order."""
        mine = self._role_of.get(client)
        if mine is None and wanted.device_id != self._device_id:
            raise Refused(Code.NOT_FOUND, f"no device has the id {wanted.device_id}; this one has {self._device_id}")
        if mine is not None and wanted.device_id != self._device_id:
            raise Refused(Code.FAILED_PRECONDITION, f"this stream is of device {self._device_id}")
        if mine is not None and wanted.role != mine:
            raise Refused(Code.FAILED_PRECONDITION, f"this stream is of role {mine!r}: open another one")
        if wanted.has_role_config:
            raise Refused(Code.INVALID_ARGUMENT, "role.config: no scheme is agreed upon; leave it unset (full access)")
        others = {other: election for other, election in self._clients(wanted.role).items() if other != client}
        if wanted.election_id is not None and wanted.election_id in others.values():
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"election id {wanted.election_id} is another live controller's (role {wanted.role!r})",
            )
        if mine is None and len(others) >= STREAMS_PER_ROLE:
            raise Refused(Code.RESOURCE_EXHAUSTED, f"{STREAMS_PER_ROLE} streams of role {wanted.role!r} are open")

    def _clients(self, role: str) -> Mapping[int, int | None]:
        return self._roles[role].clients if role in self._roles else {}

    def _tell_all(self, role: str) -> Notifications:
        """The primary last: when it hears, the others know (§5.3)."""
        controllers = self._roles[role]
        order = sorted(controllers.clients, key=lambda client: client == controllers.primary)
        return tuple(self._tell(role, client) for client in order)

    def _tell(self, role: str, client: int) -> Notification:
        controllers = self._roles[role]
        if controllers.primary is None:
            return Notification(client, role, controllers.highest, Code.NOT_FOUND)
        return Notification(
            client, role, controllers.highest, Code.OK if controllers.primary == client else Code.ALREADY_EXISTS
        )
