"""Whom an intent is for that does not say it."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from controller.cli.errors import AnswerIsNo, NotAllowed

if TYPE_CHECKING:
    from controller.cli.client import Client


class Tenants:
    """The token's only tenant; where it acts for several or for all, the one whose hosts the intent speaks for."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._of_network = functools.cache(self._look_up)

    def of(self, intent: Mapping[str, Any]) -> str:
        """Of an intent's manifest. Raises ValueError where there are several, or none, with their names."""
        mine = self._mine
        if mine is not None and len(mine) == 1:
            return mine[0]
        networks = _speaks_for(intent.get("spec"))
        owners = [self._of_network(network) for network in networks]
        choices = set.intersection(*map(set, owners)) if owners else set(mine or ())
        if mine is not None:
            choices = choices & {*mine} or {*mine}
        if len(choices) == 1 and owners:
            return choices.pop()
        names = ", ".join(sorted(choices or {name for tenants in owners for name in tenants}))
        whose = f": {names}" if names else ""
        raise ValueError(f"for which tenant? The token acts for {'all' if mine is None else 'several'}{whose}")

    @functools.cached_property
    def _mine(self) -> tuple[str, ...] | None:
        tenants = self._client.whoami()["tenants"]
        return None if tenants is None else tuple(tenants)

    def _look_up(self, network: str) -> tuple[str, ...]:
        """A network that names none is the tenant's that is called as the network is (docs/security.md)."""
        try:
            tenants = self._client.get("networks", network)["spec"].get("tenants")
        except (AnswerIsNo, NotAllowed):
            tenants = None
        return tuple(tenants or (network.rpartition("/")[2],))


def _speaks_for(spec: Any) -> list[str]:
    """The networks of hosts that `isolate` and `from` select; what is malformed is said elsewhere."""
    if not isinstance(spec, Mapping):
        return []
    clauses = spec.get("allow")
    sources = (
        [clause.get("from") for clause in clauses if isinstance(clause, Mapping)] if isinstance(clauses, list) else []
    )
    names = [party.get("network") for party in (spec.get("isolate"), *sources) if isinstance(party, Mapping)]
    return sorted({name for name in names if isinstance(name, str)})
