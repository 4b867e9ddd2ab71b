"""dataplane.p4runtime.arbitration: P4Runtime §5, without streams."""

import pytest

from dataplane.p4runtime.arbitration import STREAMS_PER_ROLE, Arbitration, ArbitrationUpdate
from dataplane.p4runtime.status import Code, Refused

DEVICE = 7


def ask(arbitration: Arbitration, client: int, election_id: int | None, **changes: object) -> list[tuple[object, ...]]:
    """Who is told what: client, election id, code."""
    wanted = {"device_id": DEVICE, "role": "", "has_role_config": False, "election_id": election_id} | changes
    return [(n.client, n.election_id, n.code) for n in arbitration.update(client, ArbitrationUpdate(**wanted))]  # type: ignore[arg-type]


def test_without_an_election_id_nobody_becomes_primary() -> None:
    arbitration = Arbitration(DEVICE, {})
    assert ask(arbitration, 1, None) == [(1, None, Code.NOT_FOUND)]
    assert not arbitration.is_primary("", None)
    assert ask(arbitration, 1, 0) == [(1, 0, Code.OK)]  # 0 is an election id.
    assert arbitration.is_primary("", 0)


def test_a_backup_is_told_alone_and_a_new_primary_last() -> None:
    arbitration = Arbitration(DEVICE, {})
    ask(arbitration, 1, 5)
    assert ask(arbitration, 2, 4) == [(2, 5, Code.ALREADY_EXISTS)]
    assert ask(arbitration, 2, 6) == [(1, 6, Code.ALREADY_EXISTS), (2, 6, Code.OK)]
    assert not arbitration.is_primary("", 5)


def test_a_primary_that_downgrades_itself_leaves_none() -> None:
    arbitration = Arbitration(DEVICE, {})
    ask(arbitration, 1, 5)
    ask(arbitration, 2, 3)
    assert ask(arbitration, 1, 2) == [(1, 5, Code.NOT_FOUND), (2, 5, Code.NOT_FOUND)]
    assert ask(arbitration, 2, 4) == [(2, 5, Code.NOT_FOUND)]
    assert arbitration.primaries() == ()
    assert ask(arbitration, 2, 5) == [(1, 5, Code.ALREADY_EXISTS), (2, 5, Code.OK)]


def test_all_are_told_when_the_primary_leaves_and_none_when_a_backup_does() -> None:
    arbitration = Arbitration(DEVICE, {})
    for client, election_id in ((1, 5), (2, 3), (3, 4)):
        ask(arbitration, client, election_id)
    assert arbitration.leave(2) == ()
    assert [(n.client, n.code) for n in arbitration.leave(1)] == [(3, Code.NOT_FOUND)]
    assert not arbitration.is_primary("", 5)
    assert arbitration.leave(99) == ()


def test_the_primary_may_say_it_again() -> None:
    arbitration = Arbitration(DEVICE, {})
    ask(arbitration, 1, 5)
    assert ask(arbitration, 1, 5) == [(1, 5, Code.OK)]


def test_election_ids_from_before_a_restart_still_count() -> None:
    arbitration = Arbitration(DEVICE, {"": 2**100})
    assert ask(arbitration, 1, 2**99) == [(1, 2**100, Code.NOT_FOUND)]
    assert ask(arbitration, 1, 2**100) == [(1, 2**100, Code.OK)]
    assert arbitration.highest == {"": 2**100}


@pytest.mark.parametrize(
    ("client", "election_id", "changes", "code"),
    [
        (2, 9, {"device_id": 8}, Code.NOT_FOUND),
        (1, 9, {"device_id": 8}, Code.FAILED_PRECONDITION),
        (1, 9, {"role": "other"}, Code.FAILED_PRECONDITION),
        (2, 5, {}, Code.INVALID_ARGUMENT),
        (2, 9, {"has_role_config": True}, Code.INVALID_ARGUMENT),
        (1, 9, {"has_role_config": True}, Code.INVALID_ARGUMENT),
    ],
)
def test_what_ends_a_stream_changes_nothing(
    client: int, election_id: int, changes: dict[str, object], code: Code
) -> None:
    arbitration = Arbitration(DEVICE, {})
    ask(arbitration, 1, 5)
    with pytest.raises(Refused) as refused:
        ask(arbitration, client, election_id, **changes)
    assert refused.value.fault.code is code
    assert arbitration.is_primary("", 5)
    assert arbitration.primaries() == (1,)


def test_streams_are_limited_by_role() -> None:
    arbitration = Arbitration(DEVICE, {})
    for client in range(STREAMS_PER_ROLE):
        ask(arbitration, client, client)
    with pytest.raises(Refused) as refused:
        ask(arbitration, 99, 99)
    assert refused.value.fault.code is Code.RESOURCE_EXHAUSTED
    assert ask(arbitration, 99, 99, role="another") == [(99, 99, Code.OK)]
    arbitration.leave(0)
    assert ask(arbitration, 100, 100)[-1] == (100, 100, Code.OK)
