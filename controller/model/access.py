"""Who asks something of a controller, and what that one may do."""

import enum

from controller.model.intent import Value


class Role(enum.StrEnum):
    ADMIN = "admin"
    """Everything."""
    OPERATOR = "operator"
    """The intents of its tenants, and what serves them."""
    READER = "reader"
    """Changes nothing; sees everything, or what concerns its tenants."""


class Principal(Value, frozen=True, kw_only=True):
    """The holder of a token, or the controller itself."""

    name: str
    role: Role
    tenants: tuple[str, ...] | None = None
    """Whom it may act for and what it sees; None: all."""

    def concerns(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants


def ourselves(name: str) -> Principal:
    """The controller on its own account, under a name that says why."""
    return Principal(name=name, role=Role.ADMIN)


OURSELVES = ourselves("stitchd")
EVERYBODY = "*"
"""Among the tenants of a service: whoever it is."""


def acts_for(tenant: str, network: str, tenants: tuple[str, ...]) -> bool:
    """Whether a tenant may speak for the hosts of a network (`domain/network`) that names `tenants`; a network that
    names none is the tenant's that is called as the network is."""
    return tenant in tenants if tenants else network.rpartition("/")[2] == tenant
