"""A controller for tests: writes entries into a real agent by P4Runtime."""

import ipaddress
import queue
from collections.abc import Iterable, Iterator

from agents import AgentProcess
from finsy.proto import p4r, p4r_grpc
from pipeline_tables import LAYOUT
from waiting import LIMIT_S

from dataplane.entry import FieldMatch, TableEntry
from dataplane.p4runtime.codec import compose
from dataplane.p4runtime.p4info import MatchType

_DEVICE = 1
Value = int | str | tuple[int, int] | None


def entry(
    table: str, action: str, priority: int = 0, params: dict[str, int | str] | None = None, **match: Value
) -> TableEntry:
    """LPM: "prefix/length" (IPv4 is mapped); ternary: (value, mask). Parameters may be addresses or MACs as text."""
    given = dict(params or {})
    description = LAYOUT.by_name[table].table
    values = tuple(
        (param.name, _number(given.pop(param.name, 0))) for param in description.action_by_name[action].params
    )
    assert not given, f"{action} has no {sorted(given)}"
    fields = [
        _match(field.name, field.match_type, match.pop(field.name))
        for field in description.fields
        if field.name in match
    ]
    assert not match, f"{table} has no {sorted(match)}"
    return TableEntry(table, tuple(fields), action, values, priority)


class Controller:
    """Is primary while it is open."""

    def __init__(self, agent: AgentProcess, election_id: int = 1) -> None:
        self._channel = agent.channel()
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        self._election = p4r.Uint128(low=election_id)
        self._requests: queue.Queue[p4r.StreamMessageRequest | None] = queue.Queue()
        arbitration = p4r.MasterArbitrationUpdate(device_id=_DEVICE, election_id=self._election)
        self._requests.put(p4r.StreamMessageRequest(arbitration=arbitration))
        self._stream = self._stub.StreamChannel(iter(self._requests.get, None))
        assert self.receive().arbitration.status.code == 0
        get = p4r.GetForwardingPipelineConfigRequest(device_id=_DEVICE)
        if not self._stub.GetForwardingPipelineConfig(get, timeout=LIMIT_S).HasField("config"):
            request = p4r.SetForwardingPipelineConfigRequest(
                device_id=_DEVICE,
                election_id=self._election,
                action=p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
            )
            request.config.p4info.CopyFrom(LAYOUT.p4info.message)
            self._stub.SetForwardingPipelineConfig(request, timeout=LIMIT_S)

    def config(self) -> p4r.ForwardingPipelineConfig:
        request = p4r.GetForwardingPipelineConfigRequest(device_id=_DEVICE)
        return self._stub.GetForwardingPipelineConfig(request, timeout=LIMIT_S).config

    def insert(self, *entries: TableEntry) -> None:
        self._write(p4r.Update.INSERT, entries)

    def delete(self, *entries: TableEntry) -> None:
        self._write(p4r.Update.DELETE, entries)

    def _write(self, kind: p4r.Update.Type.ValueType, entries: Iterable[TableEntry]) -> None:
        request = p4r.WriteRequest(device_id=_DEVICE, election_id=self._election)
        for entry in entries:
            update = request.updates.add(type=kind)
            compose(LAYOUT, entry, update.entity.table_entry)
        self._stub.Write(request, timeout=LIMIT_S)

    def entries(self) -> Iterator[p4r.TableEntry]:
        request = p4r.ReadRequest(device_id=_DEVICE)
        request.entities.add().table_entry.table_id = 0
        for response in self._stub.Read(request, timeout=LIMIT_S):
            yield from (entity.table_entry for entity in response.entities)

    def counter(self, name: str) -> dict[int, tuple[int, int]]:
        """Index → packets, bytes; those that are not zero."""
        request = p4r.ReadRequest(device_id=_DEVICE)
        counter = next(counter for counter in LAYOUT.p4info.counters if counter.name == name)
        request.entities.add().counter_entry.counter_id = counter.id
        cells = [e.counter_entry for response in self._stub.Read(request, timeout=LIMIT_S) for e in response.entities]
        return {c.index.index: (c.data.packet_count, c.data.byte_count) for c in cells if c.data.packet_count}

    def receive(self) -> p4r.StreamMessageResponse:
        message: p4r.StreamMessageResponse = next(self._stream)
        return message

    def send(self, port: int, frame: bytes) -> None:
        packet = p4r.PacketOut(payload=frame)
        (field,) = LAYOUT.p4info.packet_out
        packet.metadata.add(metadata_id=field.id, value=bytes([port]))
        self._requests.put(p4r.StreamMessageRequest(packet=packet))

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()


def _match(name: str, kind: MatchType, value: Value) -> FieldMatch:
    match kind, value:
        case MatchType.LPM, str():
            network = ipaddress.ip_network(value)
            mapped = network.version == 4
            return FieldMatch(
                name,
                _number(str(network.network_address)),
                prefix_length=network.prefixlen + (96 if mapped else 0),
            )
        case MatchType.TERNARY, (int(number), int(mask)):
            return FieldMatch(name, number, mask=mask)
        case MatchType.EXACT, int():
            return FieldMatch(name, value)
    raise AssertionError(f"{name}: {value!r} is no {kind.value} match")


def _number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    if value.count(":") == 5 and "::" not in value:
        return int(value.replace(":", ""), 16)
    address = ipaddress.ip_address(value)
    return int(address) | (0xFFFF << 32 if address.version == 4 else 0)
