"""What follows for a plan from the paths that its SR Policies have now."""

from collections.abc import Iterable, Mapping

from controller.model.plan import Plan
from controller.model.sr_policy import SrPolicy, SrPolicyId
from controller.model.stitch import Stitch

SrPolicies = Mapping[str, SrPolicy]
"""By SrPolicyId.name."""


def known(id: SrPolicyId, sr_policies: SrPolicies) -> SrPolicy:
    if not id.crosses:
        return SrPolicy(headend=id.headend, endpoint=id.endpoint, color=id.color, candidate_paths=())
    return sr_policies[id.name]


def nodes(plan: Plan, sr_policies: SrPolicies) -> frozenset[str]:
    """With a part in it."""
    paths = (path for id in plan.sr_policies for path in known(id, sr_policies).candidate_paths)
    return plan.ends.union(*(path.nodes for path in paths))


def links(plan: Plan, sr_policies: SrPolicies) -> frozenset[str]:
    """Own ones, of all candidate paths."""
    return frozenset(
        link for id in plan.sr_policies for path in known(id, sr_policies).candidate_paths for link in path.links
    )


def parts(plan: Plan) -> tuple[int, ...]:
    """Of each SR Policy which part of the way it is of: there are as many as services are passed, and one."""
    return plan.parts or (0,) * len(plan.sr_policies)


def legs_of(plan: Plan) -> list[tuple[set[str], set[str]]]:
    """Of each part of the way where it begins and ends."""
    legs: list[tuple[set[str], set[str]]] = [(set(), set()) for _ in range(len(plan.via) + 1)]
    for part, id in zip(parts(plan), plan.sr_policies, strict=True):
        legs[part][0].add(id.headend)
        legs[part][1].add(id.endpoint)
    return legs


def _of_all_parts(plan: Plan, of_one: Iterable[int]) -> int:
    """`of_one`: of each SR Policy. The parts of the way add up; of several ways the one that has more counts."""
    most = [0] * (len(plan.via) + 1)
    for part, value in zip(parts(plan), of_one, strict=True):
        most[part] = max(most[part], value)
    return sum(most)


def unprotected(plan: Plan, sr_policies: SrPolicies) -> tuple[SrPolicyId, ...]:
    """Those that lack the second path that is required."""
    if plan.connection.disjoint is None:
        return ()
    return tuple(id for id in plan.sr_policies if len(known(id, sr_policies).candidate_paths) == 1)


def own_latency_us(plan: Plan, sr_policies: SrPolicies) -> int:
    """From where the traffic enters to the far end of the border where it leaves."""
    inside_us = _of_all_parts(plan, (known(id, sr_policies).latency_us for id in plan.sr_policies))
    return inside_us + (plan.egress.delay_us if plan.egress is not None else 0)


def cost(plan: Plan, sr_policies: SrPolicies) -> int:
    """Of the whole way, as far as we know: of the dearest where it has several."""
    inside = _of_all_parts(plan, (known(id, sr_policies).cost for id in plan.sr_policies))
    return inside + (plan.egress.cost if plan.egress is not None else 0)


def latency_us(plan: Plan, sr_policies: SrPolicies) -> int:
    """Of the whole way, as far as we know without what is agreed."""
    beyond_us = plan.egress.latency_us - plan.egress.delay_us if plan.egress is not None else 0
    return own_latency_us(plan, sr_policies) + beyond_us


def promised_us(stitch: Stitch, sr_policies: SrPolicies) -> int:
    """From where the traffic enters here to the destination, at most; without what is not agreed yet."""
    beyond = stitch.downstream.agreement if stitch.downstream is not None else None
    return own_latency_us(stitch.plan, sr_policies) + (beyond.latency_us if beyond is not None else 0)


def likely_us(stitch: Stitch, sr_policies: SrPolicies) -> int:
    """The same as it is now."""
    beyond = stitch.downstream.agreement if stitch.downstream is not None else None
    return own_latency_us(stitch.plan, sr_policies) + (beyond.likely_us if beyond is not None else 0)


def whole_us(stitch: Stitch, sr_policies: SrPolicies) -> int:
    """Of the whole way, as it is now: with what the next domain says that its part takes, if it has."""
    agreed = stitch.downstream is not None and stitch.downstream.agreement is not None
    return likely_us(stitch, sr_policies) if agreed else latency_us(stitch.plan, sr_policies)


def is_too_slow(stitch: Stitch, sr_policies: SrPolicies) -> bool:
    """It goes on although it cannot be held to the latency that is required."""
    limit_us = stitch.plan.connection.latency_us_max
    return limit_us is not None and promised_us(stitch, sr_policies) > limit_us
