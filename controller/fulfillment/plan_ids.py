"""Which numbers of its nodes a plan needs, and what each is called there."""

import itertools

from controller.fulfillment.numbering import Direction, Kind, id_key
from controller.model.plan import Plan, Way
from controller.model.sharing import Shared
from controller.model.sr_policy import SrPolicy, SrPolicyId, color_name

FORWARD, REVERSE = Direction.FORWARD, Direction.REVERSE
INSIDE, BORDER, DELIVER, LOCAL, SERVICE = "inside", "border", "deliver", "local", "service"
"""What traffic does next: to the other end of the SR Policy, into a tunnel to a neighbour, to an attached host, from
one attached host of a node to another, into a service that it passes."""


class Stretch:
    """One SR Policy of a plan in one direction; `index`: of the SR Policy among the plan's."""

    __slots__ = (
        "before", "crosses", "direction", "first", "from_service", "head", "id", "index", "last", "onward", "part",
        "plan", "tail", "to_service", "which",
    )  # fmt: skip

    def __init__(self, plan: Plan, index: int, direction: Direction) -> None:
        self.plan, self.index, self.direction = plan, index, direction
        self.id: SrPolicyId = plan.sr_policies[index]
        ends = self.id.headend, self.id.endpoint
        self.head, self.tail = ends if direction == FORWARD else ends[::-1]
        self.part = plan.parts[index] if plan.parts else 0
        """Of the way, from its beginning on, whatever the direction."""
        ways = plan.ingress if self.part == 0 else None, plan.egress if self.part == len(plan.via) else None
        self.before: Way | None
        """Border where its traffic comes from; None: from hosts of ours, or a service."""
        self.onward: Way | None
        """Border where it goes; None: to hosts of ours, or a service."""
        self.before, self.onward = ways if direction == FORWARD else ways[::-1]
        beside = plan.via[self.part - 1 : self.part], plan.via[self.part : self.part + 1]
        services = beside if direction == FORWARD else beside[::-1]
        self.from_service, self.to_service = (next(iter(each), None) for each in services)
        """The service that its traffic has just passed, and the one that it passes next; None: there is none."""
        self.crosses = self.id.crosses
        self.last = DELIVER
        """What it does at the tail."""
        if self.onward is not None:
            self.last = BORDER
        elif self.to_service is not None:
            self.last = SERVICE
        self.first = INSIDE if self.crosses else self.last
        """What traffic does that enters the plan here, or comes back from a service."""
        if self.first == DELIVER and self.from_hosts:
            self.first = LOCAL
        self.which = f"{index} {direction:d}"

    @property
    def from_hosts(self) -> bool:
        return self.before is None and self.from_service is None

    @property
    def to_hosts(self) -> bool:
        return self.onward is None and self.to_service is None

    def is_sent(self, way: str) -> bool:
        """This is what becomes of what hosts of ours send, as against what has come here."""
        return self.from_hosts and way == self.first

    def forwarding_class(self, way: str) -> str:
        node = self.head if way == INSIDE else self.tail
        return id_key(node, Kind.FORWARDING_CLASS, f"{self.plan.name} {way} {self.which}")

    @property
    def tail_name(self) -> str:
        return f"{self.plan.name} tail {self.which}"


_latest: tuple[Stretch, ...] = ()
"""Of the plan that was asked about last: what is made of a plan asks a dozen times."""


def stretches(plan: Plan) -> tuple[Stretch, ...]:
    global _latest
    known = _latest
    if not known or known[0].plan is not plan:
        both = range(len(plan.sr_policies)), Direction
        _latest = known = tuple(Stretch(plan, index, direction) for index, direction in itertools.product(*both))
    return known


def ends(plan: Plan, direction: Direction) -> tuple[str, str]:
    """Networks from which and to which traffic in `direction` goes."""
    connection = plan.connection
    pair = connection.source_network, connection.destination_network
    return pair if direction == FORWARD else (pair[1], pair[0])


_VRFS: Shared[str] = Shared()


def vrf(node: str, plan: Plan, direction: Direction, *, delivers: bool) -> str:
    """Where traffic in `direction` is decapsulated: the network's own where it is delivered."""
    source, destination = ends(plan, direction)
    return _VRFS(id_key(node, Kind.VRF, destination if delivers else f"{source} {destination}"))


def sr_policy_ids(policy: SrPolicy) -> tuple[str, str]:
    """Of its numbers: of the direction that begins at its headend, and at its endpoint."""
    ends = (policy.headend, policy.endpoint), (policy.endpoint, policy.headend)
    first, second = (id_key(head, Kind.SR_POLICY, f"{tail} {color_name(policy.color)}") for head, tail in ends)
    return first, second


def border_sr_policy(way: Way) -> str:
    return id_key(way.node, Kind.SR_POLICY, f"border {way.border}")


def from_border(plan: Plan, direction: Direction) -> tuple[str, str, str]:
    """VRF, policy class and function of what a neighbour sends us in `direction`."""
    way = plan.ingress if direction == FORWARD else plan.egress
    assert way is not None, "else nothing comes from there"
    here = [stretch for stretch in stretches(plan) if stretch.direction == direction and stretch.before is not None]
    delivers = any(stretch.first == DELIVER for stretch in here)
    name = f"{plan.bundle or plan.name} border {direction.value}"
    return (
        vrf(way.node, plan, direction, delivers=delivers),
        id_key(way.node, Kind.POLICY_CLASS, name),
        id_key(way.node, Kind.FUNCTION, name),
    )


def at_tail(stretch: Stretch) -> tuple[str, str, str]:
    """The same of what comes to the tail of an SR Policy."""
    delivers = stretch.to_hosts
    return (
        vrf(stretch.tail, stretch.plan, stretch.direction, delivers=delivers),
        id_key(stretch.tail, Kind.POLICY_CLASS, stretch.tail_name),
        id_key(stretch.tail, Kind.FUNCTION, stretch.tail_name),
    )


def plan_ids(plan: Plan) -> tuple[str, ...]:
    """Keys of all that it needs beside what its SR Policies have, sorted."""
    needed: set[str] = set()
    for stretch in stretches(plan):
        needed.add(stretch.forwarding_class(stretch.first))
        if stretch.crosses:
            needed |= {stretch.forwarding_class(stretch.last), *at_tail(stretch)}
        if stretch.onward is not None:
            needed.add(border_sr_policy(stretch.onward))
        elif stretch.to_hosts:
            needed.add(vrf(stretch.tail, plan, stretch.direction, delivers=True))
    for direction, way in ((FORWARD, plan.ingress), (REVERSE, plan.egress)):
        if way is not None:
            needed |= set(from_border(plan, direction))
    return tuple(sorted(needed))
