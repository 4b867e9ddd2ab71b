"""OpenFlow 1.3 on the wire, compared with os-ken, which others wrote; and what is no OpenFlow."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.osken import OSKEN, by_osken, osken, osken_numbers, serialized
from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.model.openflow import TABLE
from controller.southbound.codec import behaviour, key
from controller.southbound.openflow import bulk, flows, messages
from controller.southbound.openflow.messages import Malformed

FLABEL_MASK = 0x7FFC0


def bits(width: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << width) - 1)


@st.composite
def entries(draw: st.DrawFn) -> OwnedEntry:
    match: list[Match] = []
    if draw(st.booleans()):
        match.append(Match(field="in_port", value=draw(st.integers(1, 0xFFFFFF00))))
    if draw(st.booleans()):
        match.append(Match(field="ipv6_src", value=draw(bits(128))))
    if draw(st.booleans()):
        length = draw(st.integers(1, 128))
        value = draw(bits(128)) >> 128 - length << 128 - length
        match.append(Match(field="ipv6_dst", value=value, prefix_length=length))
    if draw(st.booleans()):
        match.append(Match(field="ipv6_flabel", value=draw(bits(20)) & FLABEL_MASK, mask=FLABEL_MASK))
    if not any(each.field.startswith("ipv6") for each in match) and draw(st.booleans()):
        match.append(Match(field="eth_type", value=draw(bits(16))))
    action = draw(st.sampled_from(("forward", "punt", "drop")))
    params: tuple[tuple[str, int], ...] = ()
    if action == "forward":
        params = (
            ("port", draw(st.integers(1, 0xFFFFFF00))),
            ("source_mac", draw(bits(48))),
            ("destination_mac", draw(bits(48))),
        )
    return owned_entry(
        table=TABLE,
        match=tuple(match),
        priority=draw(bits(16)),
        action=action,
        params=params,
        owner=f"sr_policies/e1/{draw(bits(16))}",
    )


@given(entries(), bits(32))
@settings(max_examples=300)
def test_a_flow_mod_has_the_bytes_of_os_kens(entry: OwnedEntry, xid: int) -> None:
    assert messages.flow_mod(xid, messages.ADD, flows.compose(flows.marked(entry))) == by_osken(entry, xid)


@given(entries())
@settings(max_examples=300)
def test_what_was_written_is_read_back_as_the_same(entry: OwnedEntry) -> None:
    marked = flows.marked(entry)
    row = flows.parse(flows.compose(marked))
    assert (row.key[0], set(row.key[1]), row.key[2]) == (key(marked)[0], set(key(marked)[1]), key(marked)[2])
    assert row.behaviour == behaviour(marked)


def test_the_order_of_fields_is_that_in_which_they_are_read_back() -> None:
    match = tuple(Match(field=name, value=1) for name in ("in_port", "ipv6_src", "ipv6_dst", "ipv6_flabel"))
    entry = flows.marked(owned_entry(table=TABLE, match=match, priority=1, action="drop", owner="nodes/s1"))
    assert flows.parse(flows.compose(entry)).key == key(entry)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (messages.set_config(1), osken.OFPSetConfig(OSKEN, 0, 0xFFFF)),
        (messages.role_request(1, 2**40), osken.OFPRoleRequest(OSKEN, osken_numbers.OFPCR_ROLE_MASTER, 2**40)),
        (messages.all_flows(1), osken.OFPFlowStatsRequest(OSKEN)),
        (messages.multipart_request(1, messages.DESCRIPTION), osken.OFPDescStatsRequest(OSKEN)),
        (messages.multipart_request(1, messages.PORTS), osken.OFPPortDescStatsRequest(OSKEN)),
        (messages.multipart_request(1, messages.TABLE_FEATURES), osken.OFPTableFeaturesStatsRequest(OSKEN)),
        (messages.message(messages.BARRIER_REQUEST, 1), osken.OFPBarrierRequest(OSKEN)),
        (messages.message(messages.FEATURES_REQUEST, 1), osken.OFPFeaturesRequest(OSKEN)),
        (messages.set_async(1), osken.OFPSetAsync(OSKEN, [0b11, 0], [0b111, 0], [0, 0])),
        (
            messages.packet_out(1, 7, b"frame"),
            osken.OFPPacketOut(
                OSKEN,
                osken_numbers.OFP_NO_BUFFER,
                osken_numbers.OFPP_CONTROLLER,
                [osken.OFPActionOutput(7, 0)],
                b"frame",
            ),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_messages_have_the_bytes_of_os_kens(ours: bytes, theirs: Any) -> None:
    assert ours == serialized(theirs, 1)


@given(
    st.dictionaries(
        st.sampled_from(("in_port", "metadata", "vlan_vid", "ip_proto", "udp_dst", "tunnel_id", "eth_dst", "arp_op")),
        bits(8),
        max_size=6,
    ),
    st.booleans(),
)
def test_a_match_of_os_kens_is_understood(fields: dict[str, int], masked: bool) -> None:
    given_fields: dict[str, Any] = {
        name: value.to_bytes(6).hex(":") if name == "eth_dst" else value for name, value in fields.items()
    }
    if masked and "metadata" in given_fields:
        given_fields["metadata"] = (given_fields["metadata"], 0xFFF)
    theirs = osken.OFPMatch(**given_fields)
    buffer = bytearray()
    length = theirs.serialize(buffer, 0)
    match, taken = messages.decode_match(bytes(buffer))
    assert taken == length and len(match) == len(fields)
    assert messages.decode_match(messages.encode_match(match)) == (match, length)
    assert sorted(int.from_bytes(oxm.value) for oxm in match) == sorted(fields.values())


def flow_stats(*flows_there: messages.Flow) -> bytes:
    body = b""
    for flow in flows_there:
        rest = messages.encode_match(flow.match) + flow.instructions
        head = struct.pack(
            "!HBxIIHHHHxxxxQQQ", 48 + len(rest), flow.table_id, 1, 2, flow.priority, 0, 0, 0, flow.cookie, 3, 4
        )
        body += head + rest
    return body


@given(st.lists(entries(), min_size=1, max_size=3), st.data())
@settings(max_examples=500)
def test_what_is_no_openflow_is_malformed_and_nothing_else(there: list[OwnedEntry], data: st.DataObject) -> None:
    """Whatever becomes of its octets: it is read, or it is Malformed; never anything else, and never without end."""
    body = bytearray(flow_stats(*(flows.compose(flows.marked(entry)) for entry in there)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(bits(8))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    for decode in (
        messages.features,
        messages.failure,
        messages.multipart,
        messages.description,
        messages.ports,
        messages.port_status,
        messages.table_sizes,
        messages.decode_match,
        messages.packet_in,
        lambda octets: [flows.parse(flow) for flow in messages.flows(octets)],
        lambda octets: messages.supports(octets, 4),
    ):
        try:
            decode(cut)
        except Malformed as malformed:
            assert str(malformed)


def test_an_entry_of_length_0_does_not_go_on_for_ever() -> None:
    with pytest.raises(Malformed, match="shorter than itself"):
        list(messages.flows(bytes(64)))


@given(st.lists(entries(), min_size=1, max_size=12), st.integers(0, 1000))
@settings(max_examples=200)
def test_many_flow_mods_at_once_have_the_bytes_of_os_kens(several: list[OwnedEntry], first: int) -> None:
    """Whatever their order: each has its xid."""
    octets = bulk.encode([flows.marked(entry) for entry in several], first)
    made: dict[int, bytes] = {}
    at = 0
    while at < len(octets):
        _, _, length, xid = messages.HEADER.unpack_from(octets, at)
        made[xid] = octets[at : at + length]
        at += length
    assert made == {first + place: by_osken(entry, first + place) for place, entry in enumerate(several)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": "route"},
        {"priority": 1 << 16},
        {"action": "deliver"},
        {"params": (("port", 1 << 32), ("source_mac", 0), ("destination_mac", 0))},
        {"params": (("port", 1), ("source_mac", 1 << 48), ("destination_mac", 0))},
        {"match": (Match(field="in_port", value=1 << 32),)},
        {"match": (Match(field="ipv6_src", value=1 << 128),)},
        {"match": (Match(field="destination", value=1),)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_flow_entry_is_not_encoded(wrong: dict[str, Any], place: int) -> None:
    """Also where others of its shape are."""
    right = owned_entry(
        table=TABLE,
        match=(Match(field="in_port", value=1),),
        priority=1,
        action="forward",
        params=(("port", 1), ("source_mac", 0), ("destination_mac", 0)),
        owner="nodes/s1",
    )
    several = [right, right]
    several[place] = right.replaced(**wrong)
    with pytest.raises(ValueError):
        bulk.encode([flows.marked(entry) for entry in several], 1)
