"""A resource as people see it: what `stitch get -o json` prints, and who serves it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from controller.model.access import Principal
from controller.model.event import Problem
from controller.model.explanation import Branch
from controller.model.network_graph import NetworkGraph
from controller.model.preview import Preview
from controller.model.trace import Crossing, Probe, Trace, Unknown


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`{apiVersion, kind, metadata, spec, status}`; spec and status are what JSON makes of the model's values."""

    api_version: str = "netstitch/v1"
    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request to change something."""

    problems: tuple[Problem, ...] = ()
    conflict: str = ""
    invalid: str = ""
    """What is wrong with a file of the controller's own, each with its place: nothing was changed."""
    missing: tuple[int, ...] = ()
    """Which of what was to be deleted is not there."""
    forbidden: str = ""
    stale: tuple[int, ...] = ()
    """Which of what the request is about was changed since the revision that it names."""
    results: tuple[str, ...] = ()
    preview: Preview | None = None
    """Of a dry run."""


class Backups(Protocol):
    """Copies of everything that a controller must not forget."""

    async def take(self) -> bytes: ...

    async def put_back(self, copy: bytes) -> str:
        """Why it is refused; empty: the controller is about to start again with it."""


class Controller(Protocol):
    """What the northbound side needs of a controller; the shell is one."""

    async def apply(
        self, manifests: list[dict[str, Any]], *, dry_run: bool, by: Principal, unchanged_since: int | None = None
    ) -> Answer:
        """All or none; answered when durable. `unchanged_since`: a revision;
        what was changed later is not replaced."""

    async def delete(
        self,
        resources: Sequence[tuple[str, str]],
        *,
        ignore_missing: bool = False,
        dry_run: bool = False,
        by: Principal,
        unchanged_since: int | None = None,
    ) -> Answer:
        """All or none. Kinds (in the plural) and names. Raises KeyError for a kind that has no manifests. Problems are
        about what is in use."""

    async def load_policy(self, *, dry_run: bool, by: Principal) -> Answer:
        """The policy for the offers of others, as its file says it now; `dry_run`: only what would become of it."""

    async def renew(self, name: str, *, by: Principal) -> Answer:
        """The lease of an intent begins anew."""

    async def drain(self, part: str, *, is_drained: bool, by: Principal) -> Answer:
        """`nodes/NAME` or `links/NAME`: out of use, or into it again."""

    async def end_agreement(self, name: str, reason: str, hold_off_s: int, *, by: Principal) -> Answer:
        """At once, on both sides; the same intent is not accepted again for `hold_off_s`."""

    async def decide(self, name: str, approved: bool, *, by: Principal) -> Answer:
        """What an incident proposes is done, as if it were applied; or nothing is to be done about it."""

    def tenant(self, intent: str) -> str | None:
        """Whose an intent is; None: there is none of that name."""

    def list(self, kind: str) -> list[Resource]:
        """`kind` in the plural, as interfaces.md lists them. Raises KeyError for an unknown kind."""

    def following(self, kind: str, after: str) -> Iterator[Resource]:
        """By name, those whose names come after one (empty: all). Who takes only a few of many intents pays for no
        more. Raises KeyError, at the first of them, for an unknown kind."""

    def names(self, kind: str) -> Sequence[str]:
        """Raises KeyError for an unknown kind."""

    def get(self, kind: str, name: str) -> Resource | None:
        """None: there is none of that name. Raises KeyError for an unknown kind."""

    def explain(self, kind: str, name: str) -> Branch | None:
        """Why it is so; None: there is no such thing. Raises KeyError for a kind that is not explained."""

    def graph(self) -> NetworkGraph:
        """All that is known, with the revision since when it is so."""

    def trace(self, asked: Probe | Crossing, by: Principal) -> Trace | Unknown:
        """What becomes of a packet in this domain. Hosts and services are looked for among those that `by` may name."""

    def watch(self, kind: str, name: str | None = None, *, since: int | None = None) -> AsyncIterator[Resource]:
        """The present ones (or one; with `since` those that have changed after that revision), then each as it changes
        (a removed one has status {"deleted": true}). Raises TooOld, and KeyError for an unknown kind."""

    @property
    def revision(self) -> int:
        """Nothing that was shown has a greater one."""
