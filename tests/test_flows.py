"""Both directions of a flow become one row, whichever records the node has of them."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from northbound_fake import flow

from controller.model.telemetry import NodeFlows
from controller.northbound.flows import FlowRow, rows
from dataplane.host_api import FlowBatch, FlowRecord
from dataplane.reasons import L4Class

CLIENT, SERVER = "10.1.0.11", "10.2.0.10"
OWNERS = {16: "intents/web", 17: "intents/web", 3: "networks/shop/x", 30: "agreements/shop:web:1"}


def observed(*records: FlowRecord, node: str = "se1") -> NodeFlows:
    return NodeFlows(node=node, batch=FlowBatch(time_s=200.0, flows=records, truncated=False), owners=OWNERS)


def joined(*records: FlowRecord) -> list[FlowRow]:
    """The same in any order of the records."""
    [order_free] = {rows([observed(*order)]) for order in permutations(records)}
    return list(order_free)


def udp(source: str, destination: str, ports: tuple[int, int], packets: int, **fields: Any) -> FlowRecord:
    return flow(source, destination, ports, packets, **({"protocol": 17, "l4_class": L4Class.UDP} | fields))


def echo(source: str, destination: str, l4_class: L4Class, packets: int, **fields: Any) -> FlowRecord:
    return flow(source, destination, (0, 0), packets, protocol=1, l4_class=l4_class, **fields)


def test_a_connection_is_one_row_from_who_opened_it() -> None:
    [row] = joined(
        flow(
            SERVER,
            CLIENT,
            (443, 4000),
            8,
            forwarding_class=17,
            ingress_port=0,
            policy_class=2,
            first_seen_s=100.5,
            last_seen_s=104,
        ),
        flow(CLIENT, SERVER, (4000, 443), 1, l4_class=L4Class.TCP_OPEN, first_seen_s=101),
        flow(CLIENT, SERVER, (4000, 443), 9, first_seen_s=102),
    )
    assert row == FlowRow(
        time_s=200.0, observation_point="se1", source_address=CLIENT, destination_address=SERVER, protocol=6,
        source_port=4000, destination_port=443, packets=10, bytes=1000, reverse_packets=8, reverse_bytes=800,
        duration_s=3.5, tcp_state=-1, node="se1", owner="intents/web", intent="web",
    )  # fmt: skip


def test_records_of_several_cpus_add_up() -> None:
    [row] = joined(*(udp(CLIENT, SERVER, (5000, 53), packets) for packets in (1, 2, 3)))
    assert (row.packets, row.bytes) == (6, 600)


def test_a_direction_without_a_record_is_not_observed() -> None:
    [row] = joined(udp(CLIENT, SERVER, (5000, 53), 4))
    assert (row.packets, row.reverse_packets, row.reverse_bytes) == (4, -1, -1)


def test_without_an_opening_packet_who_was_seen_first_is_the_source() -> None:
    for first, second in ((100.0, 101.0), (101.0, 100.0)):
        [row] = joined(
            udp(CLIENT, SERVER, (5000, 53), 1, first_seen_s=first),
            udp(SERVER, CLIENT, (53, 5000), 1, first_seen_s=second),
        )
        assert row.source_address == (CLIENT if first < second else SERVER)


def test_two_hosts_that_ping_each_other_are_two_flows() -> None:
    flow_rows = joined(
        echo(CLIENT, SERVER, L4Class.ECHO_REQUEST, 5),
        echo(SERVER, CLIENT, L4Class.ECHO_REPLY, 4, forwarding_class=17),
        echo(SERVER, CLIENT, L4Class.ECHO_REQUEST, 3),
        echo(CLIENT, SERVER, L4Class.ECHO_REPLY, 2, forwarding_class=17),
    )
    assert [(row.source_address, row.packets, row.reverse_packets) for row in flow_rows] == [
        (CLIENT, 5, 4),
        (SERVER, 3, 2),
    ]


def test_a_reply_alone_is_the_reverse_of_the_question() -> None:
    [row] = joined(echo(SERVER, CLIENT, L4Class.ECHO_REPLY, 4, forwarding_class=17))
    assert (row.source_address, row.packets, row.reverse_packets) == (CLIENT, -1, 4)


def test_icmp_errors_are_not_taken_for_echoes() -> None:
    flow_rows = joined(
        echo(CLIENT, SERVER, L4Class.ECHO_REQUEST, 5), echo(SERVER, CLIENT, L4Class.ICMP_ERROR, 1, forwarding_class=17)
    )
    assert sorted((row.source_address, row.packets) for row in flow_rows) == [(CLIENT, 5), (SERVER, 1)]


def test_equal_addresses_of_different_owners_stay_apart() -> None:
    flow_rows = joined(
        udp(CLIENT, SERVER, (1, 2), 1),
        udp(CLIENT, SERVER, (1, 2), 7, forwarding_class=3),
        udp(CLIENT, SERVER, (1, 2), 9, forwarding_class=99),
    )
    assert {row.owner: (row.packets, row.intent) for row in flow_rows} == {
        "intents/web": (1, "web"),
        "networks/shop/x": (7, ""),
        "": (9, ""),
    }


def test_a_flow_is_a_row_at_each_node_and_can_be_chosen_by_intent() -> None:
    nodes = [observed(udp(CLIENT, SERVER, (1, 2), 1), node=node) for node in ("sg1", "se1")]
    nodes.append(observed(udp(CLIENT, SERVER, (1, 2), 1, forwarding_class=30), node="t1"))
    assert [(row.node, row.owner) for row in rows(nodes)] == [
        ("se1", "intents/web"), ("sg1", "intents/web"), ("t1", "agreements/shop:web:1"),
    ]  # fmt: skip
    assert {row.node for row in rows(nodes, "web")} == {"se1", "sg1"}
    assert rows(nodes, "other") == ()
    assert rows([]) == ()


_ADDRESSES = st.sampled_from([CLIENT, SERVER, "2001:db8::1"])
_PORTS = st.integers(0, 3)


@given(
    st.lists(
        st.builds(
            lambda source, destination, sport, dport, packets, l4_class, number: flow(
                source, destination, (sport, dport), packets, l4_class=l4_class, forwarding_class=number,
                protocol={L4Class.TCP: 6, L4Class.TCP_OPEN: 6, L4Class.UDP: 17}.get(l4_class, 1),
            ),
            _ADDRESSES, _ADDRESSES, _PORTS, _PORTS, st.integers(1, 9), st.sampled_from(list(L4Class)),
            st.sampled_from([16, 3]),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_no_packet_is_lost_or_counted_twice(records: list[FlowRecord]) -> None:
    flow_rows = rows([observed(*records)])
    counted = sum(max(row.packets, 0) + max(row.reverse_packets, 0) for row in flow_rows)
    assert counted == sum(record.packets for record in records)
    assert all(row.packets > 0 or row.reverse_packets > 0 for row in flow_rows)


@pytest.mark.parametrize("owner", ["intents/a", "agreements/intents/b", ""])
def test_only_intents_of_this_domain_have_a_name(owner: str) -> None:
    batch = FlowBatch(time_s=1.0, flows=(udp(CLIENT, SERVER, (1, 2), 1),), truncated=False)
    [row] = rows([NodeFlows(node="n", batch=batch, owners={16: owner})])
    assert row.intent == ("a" if owner == "intents/a" else "")
