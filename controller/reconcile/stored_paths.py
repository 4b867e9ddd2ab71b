"""Plans of release 0.1, which stored the paths of their SR Policies."""

import msgspec

from controller.fulfillment.numbering import Kind
from controller.fulfillment.place import color_of
from controller.model.plan import Plan
from controller.model.sr_policy import CandidatePath, SrPolicy, SrPolicyId
from controller.model.stitch import Stitch
from dataplane.decoding import from_json


class _Policy(msgspec.Struct):
    headend: str
    endpoint: str
    candidate_paths: tuple[CandidatePath, ...] = ()


class _Plan(msgspec.Struct):
    sr_policies: tuple[_Policy, ...]
    around: tuple[str, ...] = ()


class _Stitch(msgspec.Struct):
    plan: _Plan
    wanted: _Plan | None = None


def is_former(content: bytes) -> bool:
    """Of a stored stitch; but for those without a path it need not be."""
    return b'"candidate_paths":' in content


def as_now(stitch: Stitch, content: bytes) -> tuple[Stitch, list[SrPolicy]]:
    """A stitch as it is now, and the SR Policies that were in it, without numbers."""
    stored, policies = from_json(content, _Stitch), []
    plan = _colored(stitch.plan)
    wanted = _colored(stitch.wanted) if stitch.wanted is not None else None
    for now, then in ((plan, stored.plan), (wanted, stored.wanted)):
        if now is not None and then is not None:
            pairs = zip(now.sr_policies, then.sr_policies, strict=True)
            policies += [_policy(id, policy, then.around) for id, policy in pairs if id.crosses]
    ids = {key: number for key, number in stitch.ids.items() if not _is_of_paths(key)}
    return msgspec.structs.replace(stitch, plan=plan, wanted=wanted, ids=ids), policies


def _colored(plan: Plan) -> Plan:
    limit_us, beyond_us = plan.connection.latency_us_max, plan.egress.latency_us if plan.egress is not None else 0
    color = color_of(plan.connection, None if limit_us is None else limit_us - beyond_us)
    return msgspec.structs.replace(
        plan, sr_policies=tuple(msgspec.structs.replace(id, color=color) for id in plan.sr_policies)
    )


def _policy(id: SrPolicyId, stored: _Policy, around: tuple[str, ...]) -> SrPolicy:
    step = 1 if id.headend < id.endpoint else -1
    first, second = (id.headend, id.endpoint)[::step]
    paths = tuple(
        msgspec.structs.replace(path, nodes=path.nodes[::step], links=path.links[::step])
        for path in stored.candidate_paths
    )
    return SrPolicy(headend=first, endpoint=second, color=id.color, candidate_paths=paths, around=around)


def _is_of_paths(key: str) -> bool:
    _, kind, what = key.split(" ", 2)
    return kind == Kind.SR_POLICY and not what.startswith("border ")
