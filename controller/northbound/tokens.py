"""Who may use the API: tokens with roles, kept as hashes in a file of their own.

A secret is 256 random bits, so a plain SHA-256 of it cannot be guessed back, and neither can a look-up by that hash
tell by its time how near a guess was.
"""

import asyncio
import contextlib
import errno
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import msgspec

from controller import durable_file
from controller.errors import ConfigInvalid, NoSpace, Unavailable
from controller.model.access import Principal, Role
from controller.model.intent import Value
from controller.model.resource import Answer, Resource
from dataplane.decoding import from_json

BOOTSTRAP = "bootstrap"
"""The administrator's token that stands in `token_file`."""
RESERVED = frozenset({BOOTSTRAP, "stitchd", "seed", "start"})
"""What `status.applied.by` says of changes that no other token made."""
PREFIX = "netstitch_"
"""Of every secret, so that scanners for leaked ones find it."""
KEEP_S = 60.0
"""How long a time of last use may be in memory only."""
TOKENS_MAX = 1000


class Token(Value, frozen=True, kw_only=True):
    name: str
    role: Role
    tenants: tuple[str, ...] | None = None
    created_s: int
    expires_s: int | None = None
    hash: str
    """SHA-256 of the secret, hexadecimal."""
    last_used_s: int | None = None

    @property
    def principal(self) -> Principal:
        return Principal(name=self.name, role=self.role, tenants=self.tenants)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    tokens: tuple[Token, ...]


class Tokens:
    """Those that count now. Changes count from when they are made, and are durable when they are answered."""

    def __init__(
        self,
        bootstrap: str,
        tokens: tuple[Token, ...] = (),
        path: Path | None = None,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`path` None: kept in memory only. Raises ValueError for an empty bootstrap token."""
        if not bootstrap.strip():
            raise ValueError("the token of the API is empty: everybody would have it; write a random one to its file")
        self._path = path
        self._now_s = now_s
        first = Token(name=BOOTSTRAP, role=Role.ADMIN, created_s=0, hash=_hash(bootstrap.strip()))
        self._tokens = {token.hash: token for token in (*tokens, first)}
        self._open: dict[str, set[asyncio.Timeout]] = {}
        self._changing = asyncio.Lock()
        self._used = False

    @classmethod
    def load(cls, bootstrap: str, path: Path) -> "Tokens":
        """Raises ConfigInvalid where the file cannot be used, or others may read it."""
        try:
            if path.stat().st_mode & 0o077:
                raise ConfigInvalid(f"{path}: others may read these tokens; run `chmod go= {path}`")
            return cls(bootstrap, from_json(path.read_bytes(), _File).tokens, path)
        except FileNotFoundError:
            return cls(bootstrap, path=path)
        except OSError as exc:
            raise ConfigInvalid(f"{path}: the tokens cannot be read: {exc.strerror}") from exc
        except msgspec.MsgspecError as exc:
            raise ConfigInvalid(
                f"{path}: no file of tokens ({exc}); restore it, or remove it and make new ones"
            ) from exc

    # ---- who asks

    def holder(self, secret: bytes) -> Token | None:
        """Whose secret it is, expired or not."""
        digest = hashlib.sha256(secret).hexdigest()
        token = self._tokens.get(digest)
        if token is not None and not self.expired(token):
            self._tokens[digest] = msgspec.structs.replace(token, last_used_s=int(self._now_s()))
            self._used = True
        return token

    def expired(self, token: Token) -> bool:
        return token.expires_s is not None and token.expires_s <= self._now_s()

    @contextlib.asynccontextmanager
    async def using(self, token: Token) -> AsyncIterator[None]:
        """Raises TimeoutError inside when the token ends."""
        left_s = None if token.expires_s is None else token.expires_s - self._now_s()
        async with asyncio.timeout(left_s) as bound:
            users = self._open.setdefault(token.hash, set())
            users.add(bound)
            try:
                yield
            finally:
                users.discard(bound)
                if not users:
                    self._open.pop(token.hash, None)

    # ---- what an administrator does

    async def create(
        self, name: str, role: Role, tenants: tuple[str, ...] | None, lifetime_s: int | None
    ) -> tuple[Answer, str]:
        """The secret too, which is told only now. Raises Unavailable where it cannot be stored."""
        async with self._changing:
            if self._named(name) is not None or name in RESERVED:
                return Answer(conflict=f"there is a token {name} already: revoke it first, or use another name"), ""
            if len(self._tokens) > TOKENS_MAX:
                return Answer(conflict=f"there are {TOKENS_MAX} tokens already: revoke some first"), ""
            secret = PREFIX + secrets.token_urlsafe(32)
            now_s = int(self._now_s())
            token = Token(
                name=name, role=role, tenants=tenants, created_s=now_s, hash=_hash(secret),
                expires_s=None if lifetime_s is None else now_s + lifetime_s,
            )  # fmt: skip
            await self._store(*self._kept(), token)
            self._tokens[token.hash] = token
            return Answer(results=(f"tokens/{name} created",)), secret

    async def revoke(self, name: str) -> Answer:
        """What is open with it ends. Raises Unavailable where that cannot be stored; it counts until a restart then."""
        async with self._changing:
            token = self._named(name)
            if token is None:
                return Answer(missing=(0,))
            if name == BOOTSTRAP:
                return Answer(conflict=f"token {name} is in the file `token_file`: remove that, and restart stitchd")
            del self._tokens[token.hash]
            for bound in self._open.pop(token.hash, ()):
                if not bound.expired():
                    bound.reschedule(asyncio.get_running_loop().time())
            await self._store(*self._kept())
            return Answer(results=(f"tokens/{name} revoked",))

    def resources(self) -> list[Resource]:
        """For `stitch get tokens`: never a secret or its hash."""
        return [self._resource(token) for token in sorted(self._tokens.values(), key=lambda token: token.name)]

    def resource(self, name: str) -> Resource | None:
        token = self._named(name)
        return self._resource(token) if token is not None else None

    async def keep(self) -> None:
        """Until cancelled: stores when tokens were last used, from time to time."""
        try:
            while True:
                await asyncio.sleep(KEEP_S)
                await self._keep_use()
        finally:
            await self._keep_use()

    async def _keep_use(self) -> None:
        async with self._changing:
            if self._used:
                self._used = False
                with contextlib.suppress(Unavailable):  # what counts is stored when it is made
                    await self._store(*self._kept())

    def _named(self, name: str) -> Token | None:
        return next((token for token in self._tokens.values() if token.name == name), None)

    def _kept(self) -> tuple[Token, ...]:
        return tuple(token for token in self._tokens.values() if token.name != BOOTSTRAP)

    async def _store(self, *tokens: Token) -> None:
        if self._path is None:
            return
        content = msgspec.json.format(msgspec.json.encode(_File(tokens=tokens))) + b"\n"
        try:
            await asyncio.to_thread(durable_file.write, self._path, content)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"there is no room for {self._path} on its file system: make room there") from exc
            raise Unavailable(f"{self._path}: the tokens cannot be stored: {exc.strerror}") from exc

    def _resource(self, token: Token) -> Resource:
        spec: dict[str, object] = {"role": str(token.role)}
        if token.tenants is not None:
            spec["tenants"] = list(token.tenants)
        status: dict[str, object] = {"phase": "Expired" if self.expired(token) else "Valid"}
        times = {"created_s": token.created_s or None, "expires_s": token.expires_s, "last_used_s": token.last_used_s}
        status |= {name: moment for name, moment in times.items() if moment is not None}
        return Resource(kind="Token", metadata={"name": token.name}, spec=spec, status=status)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
