"""p4runtime.server through real gRPC: raw stubs for the corners of the specification, finsy for a real client."""

import asyncio
from pathlib import Path

import finsy
import grpc
import pytest
from finsy.proto import p4r
from hypothesis import given, settings
from hypothesis import strategies as st
from p4runtime_node import DEVICE, LAYOUT, Client, Config, client, errors_of, node, primary
from pipeline_tables import entries
from waiting import LIMIT_S

from dataplane.entry import FieldMatch, TableEntry
from dataplane.p4runtime import codec
from dataplane.p4runtime.p4info import P4INFO_FILE
from dataplane.p4runtime.status import Code

INSERT, MODIFY, DELETE = p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE


def update(kind: int, entry: TableEntry) -> p4r.Update:
    return p4r.Update(type=kind, entity=p4r.Entity(table_entry=codec.compose(LAYOUT, entry)))


def lease(forwarding_class: int, boottime_s: int = 9) -> TableEntry:
    return TableEntry(
        "lease", (FieldMatch("forwarding_class", forwarding_class),), "expire_at", (("boottime_s", boottime_s),)
    )


def route(number: int, next_hop: int = 1) -> TableEntry:
    match = (FieldMatch("vrf", 3), FieldMatch("destination", 0x20010DB8 << 96 | number << 64, prefix_length=64))
    return TableEntry("route", match, "set_next_hop", (("next_hop", next_hop),))


def policy(group: int, priority: int, forwarding_class: int = 1) -> TableEntry:
    match = (FieldMatch("policy_class", 3), FieldMatch("source_group", group, mask=0xFFFF))
    return TableEntry("flow_policy", match, "permit", (("forwarding_class", forwarding_class),), priority)


def as_set(messages: list[p4r.TableEntry]) -> set[bytes]:
    return {entry.SerializeToString(deterministic=True) for entry in messages}


def expected(*wanted: TableEntry) -> set[bytes]:
    return {codec.compose(LAYOUT, entry).SerializeToString(deterministic=True) for entry in wanted}


async def refused(call: grpc.aio.UnaryUnaryCall) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


# Writes


async def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    wanted = [lease(5), route(1), route(2), policy(4, 10), policy(4, 11, 2)]
    async with primary(tmp_path) as (_, controller):
        await controller.write(*(update(INSERT, entry) for entry in wanted))
        assert as_set(await controller.read_tables()) == expected(*wanted)
        await controller.write(update(DELETE, route(1)), update(MODIFY, route(2, 7)))
        assert as_set(await controller.read_tables()) == expected(
            lease(5), route(2, 7), policy(4, 10), policy(4, 11, 2)
        )


async def test_each_update_of_a_batch_has_its_own_status(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        await controller.write(update(INSERT, lease(1)))
        broken = p4r.Update(type=INSERT)
        broken.entity.table_entry.table_id = 99
        request = controller.write_request(
            update(INSERT, lease(1)),
            update(INSERT, lease(2)),
            update(MODIFY, lease(3)),
            update(DELETE, lease(4)),
            broken,
            update(DELETE, lease(1)),
            p4r.Update(type=INSERT),
            p4r.Update(type=p4r.Update.UNSPECIFIED, entity=update(INSERT, lease(9)).entity),
        )
        error = await refused(controller.stub.Write(request))
        assert error.code() is grpc.StatusCode.UNKNOWN
        assert errors_of(error) == [
            Code.ALREADY_EXISTS,
            Code.OK,
            Code.NOT_FOUND,
            Code.NOT_FOUND,
            Code.NOT_FOUND,
            Code.OK,
            Code.INVALID_ARGUMENT,
            Code.INVALID_ARGUMENT,
        ]
        assert as_set(await controller.read_tables()) == expected(lease(2))


async def test_a_thousand_errors_arrive(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        request = controller.write_request(*(update(DELETE, lease(number)) for number in range(1000)))
        assert errors_of(await refused(controller.stub.Write(request))) == [Code.NOT_FOUND] * 1000


async def test_a_modify_without_an_action_changes_nothing(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        await controller.write(update(INSERT, lease(1)))
        keep = update(MODIFY, lease(1))
        keep.entity.table_entry.ClearField("action")
        await controller.write(keep)
        assert as_set(await controller.read_tables()) == expected(lease(1))
        keep.entity.table_entry.match[0].exact.value = b"\x02"
        assert errors_of(await refused(controller.stub.Write(controller.write_request(keep)))) == [Code.NOT_FOUND]


@pytest.mark.parametrize("atomicity", [p4r.WriteRequest.ROLLBACK_ON_ERROR, p4r.WriteRequest.DATAPLANE_ATOMIC])
async def test_other_atomicities_are_unimplemented(tmp_path: Path, atomicity: int) -> None:
    async with primary(tmp_path) as (_, controller):
        request = controller.write_request(update(INSERT, lease(1)))
        request.atomicity = atomicity
        assert (await refused(controller.stub.Write(request))).code() is grpc.StatusCode.UNIMPLEMENTED
        assert not await controller.read_tables()


async def test_a_write_is_checked_for_device_role_primary_and_config_in_this_order(tmp_path: Path) -> None:
    async with node(tmp_path) as served, client(served) as controller:
        await controller.become_primary(5)
        request = controller.write_request(update(INSERT, lease(1)))
        assert (await refused(controller.stub.Write(request))).code() is grpc.StatusCode.FAILED_PRECONDITION
        request.election_id.low = 4
        assert (await refused(controller.stub.Write(request))).code() is grpc.StatusCode.PERMISSION_DENIED
        request.ClearField("election_id")
        assert (await refused(controller.stub.Write(request))).code() is grpc.StatusCode.PERMISSION_DENIED
        request.role = "nobody"
        assert (await refused(controller.stub.Write(request))).code() is grpc.StatusCode.NOT_FOUND
        request.device_id, request.role = DEVICE + 1, ""
        assert (await refused(controller.stub.Write(request))).code() is grpc.StatusCode.NOT_FOUND


async def test_garbage_instead_of_a_write_is_refused(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, _), grpc.aio.insecure_channel(served.address) as channel:
        write = channel.unary_unary("/p4.v1.P4Runtime/Write")
        assert (await refused(write(b"\xff\xff\xff"))).code() is grpc.StatusCode.INVALID_ARGUMENT


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((INSERT, MODIFY, DELETE)), entries()), max_size=30))
def test_random_batches_do_what_a_dictionary_does(made: list[tuple[int, TableEntry]]) -> None:
    """Statuses and contents, against the plainest model of P4Runtime's tables."""
    import tempfile

    async def run(directory: Path) -> None:
        async with primary(directory) as (_, controller):
            model: dict[tuple[object, ...], TableEntry] = {}
            codes = []
            for kind, entry in made:
                key = (entry.table, entry.match, entry.priority)
                if kind == INSERT:
                    codes.append(Code.ALREADY_EXISTS if key in model else Code.OK)
                    model.setdefault(key, entry)
                elif key not in model:
                    codes.append(Code.NOT_FOUND)
                else:
                    codes.append(Code.OK)
                    if kind == MODIFY:
                        model[key] = entry
                    else:
                        del model[key]
            try:
                await controller.write(*(update(kind, entry) for kind, entry in made))
                codes_said = [0] * len(made)
            except grpc.aio.AioRpcError as error:
                codes_said = errors_of(error)
            exhausted = [index for index, code in enumerate(codes_said) if code == Code.RESOURCE_EXHAUSTED]
            if not exhausted:
                assert codes_said == codes
                assert as_set(await controller.read_tables()) == expected(*model.values())
            else:  # More than four protocols, or sixteen masks.
                assert all(made[index][0] == INSERT for index in exhausted)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


# Reads


def table_id(name: str) -> int:
    return LAYOUT.by_name[name].table.id


async def test_reads_select_by_table_key_priority_and_action(tmp_path: Path) -> None:
    wanted = [lease(5), route(1), route(2), policy(4, 10), policy(4, 11, 2), policy(5, 10)]
    async with primary(tmp_path) as (_, controller):
        await controller.write(*(update(INSERT, entry) for entry in wanted))

        async def select(name: str, **fields: object) -> set[bytes]:
            query = p4r.TableEntry(table_id=table_id(name), **fields)
            return as_set([e.table_entry for e in await controller.read(p4r.Entity(table_entry=query))])

        assert await select("route") == expected(route(1), route(2))
        assert await select("route", match=codec.compose(LAYOUT, route(2)).match) == expected(route(2))
        assert await select("route", match=codec.compose(LAYOUT, route(3)).match) == set()
        key = codec.compose(LAYOUT, policy(4, 1)).match
        assert await select("flow_policy", match=key) == expected(policy(4, 10), policy(4, 11, 2))
        assert await select("flow_policy", match=key, priority=11) == expected(policy(4, 11, 2))
        assert await select("flow_policy", priority=10) == expected(policy(4, 10), policy(5, 10))
        permit = LAYOUT.by_name["flow_policy"].table.action_by_name
        action = p4r.TableAction(action=p4r.Action(action_id=permit["drop"].id))
        assert await select("flow_policy", action=action) == set()
        action.action.action_id = permit["permit"].id
        assert len(await select("flow_policy", action=action)) == 3


async def test_the_default_entry_is_the_p4infos(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        query = p4r.TableEntry(table_id=table_id("flow_policy"), is_default_action=True)
        (entity,) = await controller.read(p4r.Entity(table_entry=query))
        assert entity.table_entry.is_default_action
        assert entity.table_entry.action.action.params[0].value == b"\x06"  # NOT_PERMITTED


async def test_a_bad_read_gives_the_others_and_then_its_errors(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        await controller.write(update(INSERT, lease(1)))
        good = p4r.Entity(table_entry=p4r.TableEntry(table_id=table_id("lease")))
        filtered = p4r.Entity(table_entry=p4r.TableEntry(priority=3))
        request = p4r.ReadRequest(device_id=DEVICE, entities=[p4r.Entity(), good, filtered])
        entities = []
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for response in controller.stub.Read(request):
                entities += response.entities
        assert as_set([entity.table_entry for entity in entities]) == expected(lease(1))
        assert errors_of(error.value) == [Code.INVALID_ARGUMENT, Code.OK, Code.INVALID_ARGUMENT]


async def test_wildcards_of_what_the_pipeline_has_not_yield_nothing(tmp_path: Path) -> None:
    clones = p4r.PacketReplicationEngineEntry(clone_session_entry=p4r.CloneSessionEntry())
    nothing = (
        p4r.Entity(meter_entry=p4r.MeterEntry()),
        p4r.Entity(action_profile_group=p4r.ActionProfileGroup()),
        p4r.Entity(packet_replication_engine_entry=clones),
    )
    async with primary(tmp_path) as (_, controller):
        assert await controller.read(*nothing) == []
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await controller.read(p4r.Entity(meter_entry=p4r.MeterEntry(meter_id=1)))
        assert errors_of(error.value) == [Code.UNIMPLEMENTED]


async def test_counters_by_index_and_all(tmp_path: Path) -> None:
    counters = LAYOUT.p4info.counter_by_name
    forwarded, drop = counters["forwarding_class_counter"], counters["drop_counter"]
    async with primary(tmp_path) as (_, controller):
        query = p4r.Entity(counter_entry=p4r.CounterEntry(counter_id=forwarded.id, index=p4r.Index(index=300)))
        (entity,) = await controller.read(query)
        assert (entity.counter_entry.data.packet_count, entity.counter_entry.data.byte_count) == (300, 30000)
        every = await controller.read(p4r.Entity(counter_entry=p4r.CounterEntry(counter_id=drop.id)))
        assert [entity.counter_entry.index.index for entity in every] == list(range(256))
        every = await controller.read(p4r.Entity(counter_entry=p4r.CounterEntry()))
        assert len(every) == sum(counter.size for counter in LAYOUT.p4info.counters)
        for index, code in ((-1, Code.INVALID_ARGUMENT), (forwarded.size, Code.OUT_OF_RANGE)):
            query.counter_entry.index.index = index
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await controller.read(query)
            assert errors_of(error.value) == [code]


async def test_responses_stay_below_four_mebibytes(tmp_path: Path) -> None:
    """gRPC refuses larger ones by default, and the client here has the default."""
    params = (("source", 2**128 - 1), ("color", 1), ("first_hop", 1), ("last_container", 3), ("merge_bits", 64))
    params += tuple((f"container_{number}", 2**128 - 1) for number in range(4))
    made = []
    for index in range(16384):
        slot = index % 8
        match = (FieldMatch("sr_policy", index // 8), FieldMatch("live", 1 << slot, mask=1 << slot))
        made.append(update(INSERT, TableEntry("sr_policy", match, "h_encaps", params, 8 - slot)))
    async with primary(tmp_path) as (_, controller):
        await controller.write(*made)
        assert len(await controller.read_tables()) == 16384


# The forwarding-pipeline config


async def test_another_p4info_is_refused_with_the_difference(tmp_path: Path) -> None:
    async with node(tmp_path) as served, client(served) as controller:
        await controller.become_primary()
        request = controller.config_request(Config.VERIFY_AND_COMMIT)
        request.config.p4info.tables[2].match_fields[0].bitwidth = 5
        error = await refused(controller.stub.SetForwardingPipelineConfig(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "'local_sid' differs" in (error.details() or "")
        request.ClearField("config")
        error = await refused(controller.stub.SetForwardingPipelineConfig(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_verify_changes_nothing_commit_clears_and_reconcile_keeps(tmp_path: Path) -> None:
    async with node(tmp_path) as served, client(served) as controller:
        await controller.become_primary()
        get = p4r.GetForwardingPipelineConfigRequest(device_id=DEVICE)
        await controller.configure(Config.VERIFY)
        assert not (await controller.stub.GetForwardingPipelineConfig(get)).HasField("config")
        await controller.configure(Config.VERIFY_AND_COMMIT)
        await controller.write(update(INSERT, lease(1)), update(INSERT, policy(4, 10)))
        await controller.configure(Config.VERIFY)
        await controller.configure(Config.RECONCILE_AND_COMMIT)
        assert len(await controller.read_tables()) == 2
        await controller.configure(Config.VERIFY_AND_COMMIT)
        assert not await controller.read_tables()
        await controller.write(update(INSERT, lease(1)), update(INSERT, policy(4, 10)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"action": Config.VERIFY_AND_SAVE}, grpc.StatusCode.UNIMPLEMENTED),
        ({"action": Config.COMMIT}, grpc.StatusCode.UNIMPLEMENTED),
        ({"action": Config.UNSPECIFIED}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"device_id": 1}, grpc.StatusCode.NOT_FOUND),
        ({"role": "x"}, grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_config_requests_that_cannot_be(tmp_path: Path, changes: dict[str, object], code: object) -> None:
    async with node(tmp_path) as served, client(served) as controller:
        await controller.become_primary()
        request = controller.config_request(Config.VERIFY_AND_COMMIT)
        for name, value in changes.items():
            setattr(request, name, value)
        assert (await refused(controller.stub.SetForwardingPipelineConfig(request))).code() is code


async def test_the_config_is_read_as_it_was_set(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        kinds = p4r.GetForwardingPipelineConfigRequest
        for kind, has_p4info in ((kinds.ALL, True), (kinds.P4INFO_AND_COOKIE, True), (kinds.COOKIE_ONLY, False)):
            request = kinds(device_id=DEVICE, response_type=kind)
            config = (await controller.stub.GetForwardingPipelineConfig(request)).config
            assert config.cookie.cookie == 42
            assert (config.p4info == LAYOUT.p4info.message) is has_p4info
        request.device_id = 1
        error = await refused(controller.stub.GetForwardingPipelineConfig(request))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_before_a_config_there_is_nothing_to_read(tmp_path: Path) -> None:
    async with node(tmp_path) as served, client(served) as controller:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await controller.read_tables()
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_restart_over_the_same_maps_keeps_entries_config_and_election_ids(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, controller):
        wanted = [lease(5), route(1), policy(4, 10), policy(4, 11, 2)]
        await controller.write(*(update(INSERT, entry) for entry in wanted))
        await controller.become_primary(9)
    async with node(tmp_path, served.maps, fresh=False) as again, client(again) as controller:
        await controller.arbitrate(8)
        assert await controller.told() == (Code.NOT_FOUND, 9)
        await controller.arbitrate(9)
        assert await controller.told() == (Code.OK, 9)
        assert as_set(await controller.read_tables()) == expected(*wanted)
        await controller.write(update(DELETE, policy(4, 11)), update(MODIFY, route(1, 5)))
        assert as_set(await controller.read_tables()) == expected(lease(5), route(1, 5), policy(4, 10))


async def test_new_maps_void_the_config_and_the_election_ids(tmp_path: Path) -> None:
    async with primary(tmp_path):
        pass
    async with node(tmp_path, fresh=True) as again, client(again) as controller:
        await controller.arbitrate(1)
        assert await controller.told() == (Code.OK, 1)
        request = p4r.GetForwardingPipelineConfigRequest(device_id=DEVICE)
        assert not (await controller.stub.GetForwardingPipelineConfig(request)).HasField("config")


async def test_capabilities(tmp_path: Path) -> None:
    async with node(tmp_path) as served, client(served) as controller:
        for device_id in (0, DEVICE):
            answer = await controller.stub.Capabilities(p4r.CapabilitiesRequest(device_id=device_id))
            assert answer.p4runtime_api_version == "1.4.0"
        error = await refused(controller.stub.Capabilities(p4r.CapabilitiesRequest(device_id=1)))
        assert error.code() is grpc.StatusCode.NOT_FOUND


# Arbitration and packets


async def test_the_higher_election_id_takes_over_and_all_are_told(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, first), client(served) as second:
        await second.arbitrate(2)
        assert await first.told() == (Code.ALREADY_EXISTS, 2)
        assert await second.told() == (Code.OK, 2)
        error = await refused(first.stub.Write(first.write_request(update(INSERT, lease(1)))))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        await second.write(update(INSERT, lease(1)))
        second.stream.cancel()
        assert await first.told() == (Code.NOT_FOUND, 2)
        await first.arbitrate(2)
        assert await first.told() == (Code.OK, 2)


async def ends_with(controller: Client) -> grpc.StatusCode:
    return await asyncio.wait_for(controller.stream.code(), LIMIT_S)


async def test_an_election_id_in_use_ends_the_stream(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, _), client(served) as second:
        await second.arbitrate(1)
        assert await ends_with(second) is grpc.StatusCode.INVALID_ARGUMENT


async def test_another_device_ends_the_stream(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, first), client(served) as second:
        await second.arbitrate(1, device_id=3)
        assert await ends_with(second) is grpc.StatusCode.NOT_FOUND
        await first.arbitrate(1, device_id=3)
        assert await ends_with(first) is grpc.StatusCode.FAILED_PRECONDITION


async def test_roles_have_primaries_of_their_own(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, first), client(served) as second:
        await second.become_primary(1, role="assurance")
        await second.write(update(INSERT, lease(1)))
        await first.write(update(INSERT, lease(2)))
        second.role = ""
        second.election_id = 3
        error = await refused(second.stub.Write(second.write_request(update(INSERT, lease(3)))))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_packets_go_out_of_the_port_that_the_primary_names(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, first), client(served) as second:
        packet = p4r.PacketOut(payload=b"frame", metadata=[p4r.PacketMetadata(metadata_id=1, value=b"\x05")])
        await first.stream.write(p4r.StreamMessageRequest(packet=packet))
        packet.metadata[0].value = b"\x63"
        await first.stream.write(p4r.StreamMessageRequest(packet=packet))
        error = (await first.receive()).error
        assert (error.canonical_code, error.packet_out.packet_out.payload) == (Code.INVALID_ARGUMENT, b"frame")
        assert served.ports.sent == [(5, b"frame")]
        for metadata in ([], [p4r.PacketMetadata(metadata_id=2, value=b"\x05")], [packet.metadata[0]] * 2):
            wrong = p4r.PacketOut(payload=b"frame", metadata=metadata)
            await first.stream.write(p4r.StreamMessageRequest(packet=wrong))
            assert (await first.receive()).error.canonical_code == Code.INVALID_ARGUMENT
        await second.stream.write(p4r.StreamMessageRequest(packet=packet))
        assert (await second.receive()).error.canonical_code == Code.PERMISSION_DENIED
        assert len(served.ports.sent) == 1


PUNTED = {"ingress_port": 3, "reason": 16, "vrf": 300, "mtu": 0, "answer_class": 7}


async def test_punted_frames_reach_the_primary_only(tmp_path: Path) -> None:
    async with primary(tmp_path) as (served, first), client(served) as second:
        await second.arbitrate(None)
        assert await second.told() == (Code.ALREADY_EXISTS, 1)
        served.service.packet_in(b"frame", PUNTED)
        packet = (await first.receive()).packet
        assert packet.payload == b"frame"
        assert [(m.metadata_id, m.value) for m in packet.metadata] == [
            (1, b"\x03"),
            (2, b"\x10"),
            (3, b"\x01\x2c"),
            (4, b"\x00"),
            (5, b"\x07"),
        ]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second.stream.read(), 0.2)


async def test_punted_frames_without_a_primary_are_counted(tmp_path: Path) -> None:
    async with node(tmp_path) as served:
        served.service.packet_in(b"frame", PUNTED)
        assert served.service.packets_in_dropped == 1


async def test_other_stream_messages_are_answered_with_an_error(tmp_path: Path) -> None:
    async with primary(tmp_path) as (_, controller):
        await controller.stream.write(p4r.StreamMessageRequest(digest_ack=p4r.DigestListAck(digest_id=1)))
        error = (await controller.receive()).error
        assert error.canonical_code == Code.INVALID_ARGUMENT
        assert error.WhichOneof("details") == "digest_list_ack"
        await controller.stream.write(p4r.StreamMessageRequest())
        assert (await controller.receive()).error.canonical_code == Code.UNIMPLEMENTED


# A client that is not ours


async def test_finsy_sets_the_pipeline_writes_and_reads(tmp_path: Path) -> None:
    async with node(tmp_path) as served:
        options = finsy.SwitchOptions(p4info=P4INFO_FILE, p4blob=b"", device_id=DEVICE)
        async with finsy.Switch("node", served.address, options) as switch:
            wanted = [
                finsy.P4TableEntry(
                    "route",
                    match=finsy.P4TableMatch(vrf=3, destination=f"2001:db8:{number:x}::/48"),
                    action=finsy.P4TableAction("set_next_hop", next_hop=number),
                )
                for number in range(1, 20)
            ]
            wanted.append(
                finsy.P4TableEntry(
                    "flow_policy",
                    match=finsy.P4TableMatch(policy_class=3, l4_class="0/&0xe"),
                    action=finsy.P4TableAction("permit", forwarding_class=4),
                    priority=100,
                )
            )
            await switch.insert(wanted)
            read_back = [entry async for entry in switch.read(finsy.P4TableEntry())]
            assert as_set([entry.encode_entry(switch.p4info) for entry in read_back]) == as_set(
                [entry.encode_entry(switch.p4info) for entry in wanted]
            )
            await switch.delete_all()
            assert [entry async for entry in switch.read(finsy.P4TableEntry())] == []
