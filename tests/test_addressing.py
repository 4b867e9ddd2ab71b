"""How addresses, prefixes, endpoints, MACs, SIDs and keys are written: the canonical text, and nothing else."""

import base64
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.language import scalars
from dataplane import addressing
from dataplane.errors import NodeRefused
from dataplane.host.firewall import Firewall, Way
from dataplane.wireguard.device import Peer
from dataplane.wireguard.userspace import GoWireGuard, _peer_lines

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (addressing.address, "192.0.2.5", ipaddress.IPv4Address("192.0.2.5")),
        (addressing.address, "2001:db8::1", ipaddress.IPv6Address("2001:db8::1")),
        (addressing.prefix, "0.0.0.0/0", ipaddress.IPv4Network("0.0.0.0/0")),
        (addressing.host_prefix, "10.0.0.0/8", ipaddress.IPv4Network("10.0.0.0/8")),
        (addressing.host_prefix, "2001:db8::/32", ipaddress.IPv6Network("2001:db8::/32")),
        (addressing.interface, "192.0.2.1/30", ipaddress.IPv4Interface("192.0.2.1/30")),
        (addressing.endpoint, "192.0.2.5:51820", (ipaddress.IPv4Address("192.0.2.5"), 51820)),
        (addressing.endpoint, "[2001:db8::1]:1", (ipaddress.IPv6Address("2001:db8::1"), 1)),
        (addressing.host_and_port, "stitchd.example.net:7001", ("stitchd.example.net", 7001)),
        (addressing.host_and_port, "[::1]:65535", ("::1", 65535)),
        (addressing.mac, "02:00:00:00:00:0a", 0x02_00_00_00_00_0A),
        (addressing.sid, "5f00:1:2::1", ipaddress.IPv6Address("5f00:1:2::1")),
        (addressing.sid_block, "5f00:1::/32", ipaddress.IPv6Network("5f00:1::/32")),
        (addressing.key, KEY, bytes(range(32))),
    ],
)
def test_the_canonical_text_is_read(read, text, value):  # type: ignore[no-untyped-def]
    assert read(text) == value


_ADDRESSES = [
    "",
    " 192.0.2.5",
    "192.0.2.5 ",
    "192.0.2.5\n",
    "192.0.2.5\x00",
    "192.0.2.05",
    "192.0.2",
    "0xc0.0.2.5",
    "3221225989",
    "١٩٢.0.2.5",
    "192.0.2.5/32",
    "[192.0.2.5]",
    "2001:DB8::1",
    "2001:0db8::1",
    "2001:db8:0:0:0:0:0:1",
    "2001:db8::0:1",
    "::ffff:192.0.2.5",
    "::ffff:c000:205",
    "fe80::1%a",
    "fe80::1%a\npublic_key=00",
    "2001:db8::1%",
    "x" * 100_000,
]
_HOSTS = [*_ADDRESSES, "[[192.0.2.5]]", "[192.0.2.5", "192.0.2.5]", "[fe80::1%a\npublic_key=00]", "[2001:DB8::1]", "[]"]
_PORTS = ["", "0", "+51820", " 51820", "51820 ", "5_1820", "051820", "51820\n", "51820\x00", "65536", "-1", "٥", "1e3"]


@pytest.mark.parametrize("text", _ADDRESSES)
def test_nothing_else_is_an_address(text: str) -> None:
    for read in (addressing.address, addressing.host_address, addressing.sid):
        with pytest.raises(ValueError):
            read(text)
    for read in (addressing.prefix, addressing.host_prefix, addressing.interface, addressing.sid_block):
        with pytest.raises(ValueError):
            read(f"{text}/24")


@pytest.mark.parametrize(
    "text", [*(f"{host}:1" for host in _HOSTS), *(f"192.0.2.5:{port}" for port in _PORTS), "2001:db8::1:51820"]
)
def test_nothing_else_is_an_endpoint(text: str) -> None:
    for read in (addressing.endpoint, addressing.host_and_port):
        with pytest.raises(ValueError):
            read(text)
    with pytest.raises(ValueError):
        scalars.ENDPOINT.make(text)
    with pytest.raises(ValueError):
        scalars.AGENT.make(text)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "10.0.0.0/33", "10.0.0.0/", "/8"])
def test_nothing_else_is_a_prefix(text: str) -> None:
    for read in (addressing.prefix, addressing.host_prefix):
        with pytest.raises(ValueError):
            read(text)


@pytest.mark.parametrize(
    "text",
    ["", "zz:zz", "02:00:00:00:00:0A", "02-00-00-00-00-0a", "2:0:0:0:0:a", "02:00:00:00:00:0a\n", "01:00:5e:00:00:01"],
)
def test_nothing_else_is_a_mac_of_an_interface(text: str) -> None:
    with pytest.raises(ValueError):
        addressing.mac(text)


@pytest.mark.parametrize("text", ["", KEY[:-1], KEY + "\n", KEY[:-2] + "9=", "A" * 43 + "é", KEY.replace("=", "")])
def test_nothing_else_is_a_key(text: str) -> None:
    with pytest.raises(ValueError):
        addressing.key(text)


_SPECIAL = """
    224.0.0.0/3 0.0.0.0/8 128.0.0.0/1 0.0.0.0/0 126.0.0.0/7 169.254.7.0/24 255.255.255.255/32
    8000::/1 ::/0 4000::/2 5f00:1::/32 fe80::/64 ::/96 ::1/128 ff02::1/128
"""


@pytest.mark.parametrize("text", _SPECIAL.split())
def test_what_overlaps_a_special_range_is_no_prefix_of_hosts(text: str) -> None:
    assert addressing.prefix(text)
    with pytest.raises(ValueError, match="not one of hosts: it overlaps"):
        addressing.host_prefix(text)
    with pytest.raises(ValueError, match="not one of hosts"):
        scalars.HOST_PREFIX.make(text)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_prefix_is_one_of_hosts_when_none_of_its_addresses_is_special(start, length):  # type: ignore[no-untyped-def]
    """The standard library knows the ranges too."""
    network = ipaddress.ip_network(f"{start}/{length}", strict=False)
    special = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4"]
    expected = not any(network.overlaps(ipaddress.ip_network(block)) for block in special)
    try:
        addressing.host_prefix(str(network))
        taken = True
    except ValueError:
        taken = False
    assert taken == expected
    assert not taken or not (network[0].is_multicast or network[-1].is_reserved or network[0].is_link_local)


@given(st.one_of(st.ip_addresses(), st.text(max_size=30)), st.one_of(st.integers(-1, 70_000), st.text(max_size=6)))
def test_what_is_read_is_written_the_same(host: object, port: object) -> None:
    for text in (f"{host}:{port}", f"[{host}]:{port}"):
        try:
            parsed, number = addressing.endpoint(text)
        except ValueError:
            continue
        assert addressing.write_endpoint(parsed, number) == text
        assert text.isascii() and text.isprintable() and not any(character.isspace() for character in text)


# ---- the second line of defence: what would be more than one line is not written


@pytest.mark.parametrize(
    "changes",
    [{"endpoint": f"[fe80::1%a\npublic_key={'0' * 64}]:1"}, {"allowed_ips": ("5f00:2::/32\nremove=true",)}],
    ids=["endpoint", "allowed_ips"],
)
def test_no_value_becomes_a_second_line_for_wireguard_go(tmp_path, changes) -> None:  # type: ignore[no-untyped-def]
    usual = {"public_key": KEY, "endpoint": "192.0.2.1:1", "allowed_ips": (), "persistent_keepalive_s": 25}
    lines = _peer_lines(Peer(**(usual | changes)))
    with pytest.raises(NodeRefused, match="more than one line"):
        GoWireGuard(tmp_path, tmp_path)._set("wg-x", ["set=1", *lines])


@pytest.mark.parametrize("name", ['x" } }', "x\n", "x\tdrop"])
def test_no_name_becomes_more_of_a_ruleset(tmp_path, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NodeRefused, match="no name of an interface"):
        Firewall(tmp_path).sync(
            [
                Way(
                    devices=("wg-a", "k-a", "p-a"),
                    underlay=name,
                    listen_port=51820,
                    peer=addressing.address("192.0.2.5"),
                )
            ]
        )
