"""Whether what is to change agrees with what is in force: conflicts between intents, and their tests."""

import math
from collections.abc import Collection, Iterable, Mapping

import msgspec

from controller.fulfillment.conflict import Conflict, Kind, against, misfit
from controller.fulfillment.conflict_index import Claim, Index
from controller.fulfillment.intent_tests import failure, touching, words
from controller.model.access import OURSELVES, Principal
from controller.model.intent import Intent, IntentTest
from controller.model.inventory import Inventory
from controller.reconcile.claims_in_force import ClaimsInForce
from controller.reconcile.transaction import Transaction

SHOWN = 20
"""Conflicts that an answer names."""
MAX_REFUSALS, MAX_WARNINGS = 1000, 100
"""So many are looked for: intents that all touch each other have as many as there are pairs."""
Tests = list[tuple[str, int, IntentTest]]
"""(intent, index, test)."""


class Judgement(msgspec.Struct, frozen=True):
    conflict: str = ""
    """Why it is refused."""
    warnings: tuple[str, ...] = ()


def judge(
    transaction: Transaction, inventory: Inventory, intents: Mapping[str, Intent], by: Principal = OURSELVES
) -> Judgement:
    """`intents` are to be new in force, or other than they were; `inventory` is what then holds. `by` reads the answer,
    which says no more of others' intents than that they are there."""
    same = transaction.claims is not None and transaction.claims.places.inventory is inventory
    claims = transaction.claims if same and transaction.claims is not None else ClaimsInForce(inventory)
    claims.follow(transaction.intent_records.all)
    if inventory is transaction.inventory:
        transaction.claims = claims
    before = _tests(claims, intents.keys(), everything=not same)
    try:
        return _judge(transaction, claims, intents, before, by, everything=inventory is not transaction.inventory)
    finally:
        claims.doubt(intents)


def _judge(
    transaction: Transaction,
    claims: ClaimsInForce,
    intents: Mapping[str, Intent],
    tests: Tests,
    by: Principal,
    *,
    everything: bool,
) -> Judgement:
    refused: list[str] = []
    warnings: list[str] = []
    serial = transaction.counters.get("owner") or 0
    candidates: dict[str, Claim] = {}
    for number, (name, intent) in enumerate(intents.items(), 1):
        known = transaction.intent_records.get(name)
        end_s = intent.lease_until_s if intent.lease_until_s is not None else math.inf
        if intent.lease_s is not None:
            end_s = transaction.now_s + intent.lease_s
        candidates[name] = claims.places.claim(
            intent,
            serial=known.serial if known is not None else serial + number,
            start_s=transaction.now_s,
            end_s=end_s,
        )
    index = claims.index
    if everything:
        candidates = {**index.claims, **candidates}
    for name in candidates:
        index.drop(name)
    for name, claim in sorted(candidates.items(), key=lambda item: item[1].serial):
        if reason := misfit(claim, claims.places):
            refused.append(f"intent {name}: {reason}")
        for conflict in against(claim, index, claims.places, sharing=len(warnings) < MAX_WARNINGS):
            if conflict.kind == Kind.CONTRADICTION:
                refused.append(_told(transaction, conflict, index, by))
            elif name in intents or conflict.intents[0] in intents:
                warnings.append(_told(transaction, conflict, index, by))
        if len(refused) >= MAX_REFUSALS:
            return Judgement(shown(refused))
        index.add(claim)
    if len(warnings) > MAX_WARNINGS:
        del warnings[MAX_WARNINGS:]
        warnings.append(f"more intents share packets; only {MAX_WARNINGS} warnings are given at once")
    for name, intent in intents.items():
        for verb, other in (
            *(("overrides", other) for other in intent.overrides),
            *(("suspends", other) for other in intent.suspends),
        ):
            claim_of_other = index.claims.get(other)
            if claim_of_other is None:
                why = "is not there" if transaction.intent_records.get(other) is None else "has expired"
                warnings.append(f"intent {name} {verb} {other}, which {why}")
            elif claim_of_other.intent.tenant != intent.tenant:
                owner = claim_of_other.intent.tenant
                whose = f"belongs to tenant {owner}" if by.concerns(owner) else "is another tenant's"
                refused.append(f"intent {name} {verb} {other}, which {whose}: only that tenant may")
    if not refused:
        refused = _failures(
            claims,
            {
                **{(owner_intent, at): test for owner_intent, at, test in tests if owner_intent not in intents},
                **{
                    (owner_intent, at): test
                    for owner_intent, at, test in _tests(claims, intents.keys(), everything=everything)
                },
            },
            by,
        )
    return Judgement(shown(refused), tuple(warnings))


def _idle(transaction: Transaction, conflict: Conflict) -> str:
    """That who would own what two intents allow carries nothing from there at the moment, and so owns nothing."""
    owner = transaction.intent_records.get(conflict.intents[0])
    if conflict.kind != Kind.SHADOWING or owner is None:
        return ""
    connections = zip(owner.requirements.connections, owner.connection_statuses, strict=True)
    if any(
        connection_status.plan and connection.source_network == conflict.packet.network
        for connection, connection_status in connections
    ):
        return ""
    return f" ({owner.intent.name} is not Active now, and owns nothing)"


def judge_withdrawal(transaction: Transaction, names: Collection[str], by: Principal = OURSELVES) -> str:
    """Which tests of others would fail without these intents; empty: none."""
    inventory = transaction.inventory
    claims = (
        transaction.claims
        if transaction.claims is not None and transaction.claims.places.inventory is inventory
        else ClaimsInForce(inventory)
    )
    claims.follow(transaction.intent_records.all)
    transaction.claims = claims
    gone = set(names)
    tests = {(intent, at): test for intent, at, test in _tests(claims, gone, everything=False) if intent not in gone}
    for name in gone:
        claims.index.drop(name)
    claims.doubt(gone)
    return shown(_failures(claims, tests, by))


def _tests(claims: ClaimsInForce, changed: Iterable[str], *, everything: bool) -> Tests:
    """Those that touch what changes, or are part of it."""
    names = set(changed)
    tests: Tests = []
    for name in claims.index.tested:
        for at, test in enumerate(claims.index.claims[name].intent.tests):
            near = everything or name in names
            if near or any(claim.intent.name in names for claim in touching(test, claims.index, claims.places)):
                tests.append((name, at, test))
    return tests


def _failures(claims: ClaimsInForce, tests: Mapping[tuple[str, int], IntentTest], by: Principal) -> list[str]:
    failures = []
    for (name, at), test in tests.items():
        failed = failure(test, touching(test, claims.index, claims.places), claims.places)
        if failed is not None:
            owner = claims.index.claims.get(name)
            if owner is not None and not by.concerns(owner.intent.tenant):
                failures.append("a test of another tenant's intent would fail: ask an administrator")
                continue
            packet, because = failed
            failures.append(f"test {at + 1} of intent {name} ({words(test)}) would fail: {packet}: {because}")
    return failures


def _told(transaction: Transaction, conflict: Conflict, index: Index, by: Principal) -> str:
    """With the packet only where both intents are of tenants that `by` acts for; the names of others' are theirs."""
    claims = {name: index.claims.get(name) for name in conflict.intents}
    own = [name for name, claim in claims.items() if claim is None or by.concerns(claim.intent.tenant)]
    if len(own) == len(claims):
        return str(conflict) + _idle(transaction, conflict)
    parties = " and ".join([*(f"intent {name}" for name in own), "another tenant's"])
    return f"{conflict.kind}: {parties}: ask an administrator, who sees which"


def shown(refused: list[str]) -> str:
    """In one text, the first of them."""
    least = "at least " if len(refused) >= MAX_REFUSALS else ""
    rest = [f"and {least}{len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
    return "; ".join([*refused[:SHOWN], *rest])
