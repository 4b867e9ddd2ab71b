"""One agent: how fast table entries are written through gRPC and P4Runtime, with everything read back and compared."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import msgspec
from finsy.proto import p4i, p4r
from google.protobuf import text_format

from bench.report import Row, row
from bench.slices import Slices
from dataplane.entry import FieldMatch, TableEntry
from dataplane.host_api import AgentConfig
from dataplane.p4runtime.codec import compose
from dataplane.p4runtime.p4info import load
from dataplane.tables.layout import Layout, of

BATCH = 1000
ROUNDS = 16
ENTRIES = 16_000
"""In each table: 16 batches."""
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "/p4.v1.P4Runtime/"
P4INFO = Path("p4src/stitch.p4info.txtpb")


def rows() -> list[Row]:
    taken = seconds_an_insert()
    rate, spread = 1 / taken.lower("insert"), taken.spread("insert")
    return [row("main.p4runtime_insert_rate", rate, "inserts/s", better="higher", target=80_000, spread=spread)]


def seconds_an_insert() -> Slices:
    """Rounds of 48,000 inserts into three tables."""
    layout = of(load())
    entries = [*policies(), *routes(), *groups()]
    messages = [compose(layout, entry) for entry in entries]
    with agent() as channel, primary(channel):
        write = channel.unary_unary(SERVICE + "Write")
        taken = Slices()
        for _ in range(ROUNDS):
            inserts, deletes = requests(messages, p4r.Update.INSERT), requests(messages, p4r.Update.DELETE)
            started_s = time.perf_counter()
            for request in inserts:
                write(request, timeout=30)
            taken.add("insert", (time.perf_counter() - started_s) / len(messages))
            check_read_back(channel, layout, messages)
            for request in deletes:
                write(request, timeout=30)
    return taken


def policies() -> Iterator[TableEntry]:
    for number in range(ENTRIES):
        exact = (("source_group", number // 128 + 1), ("destination_group", number % 128 + 1))
        match = tuple(FieldMatch(field, value, mask=0xFFFF) for field, value in exact)
        policy_class = FieldMatch("policy_class", number % 64 + 1)
        params = (("forwarding_class", number),)
        yield TableEntry("flow_policy", (policy_class, *match), "permit", params, priority=10)


def routes() -> Iterator[TableEntry]:
    for number in range(ENTRIES):
        prefix = FieldMatch("destination", (0x20010DB8 << 96) + (number << 64), prefix_length=64)
        match = (FieldMatch("vrf", number % 64 + 1), prefix)
        yield TableEntry("route", match, "set_next_hop", (("next_hop", number % 4000 + 1),))


def groups() -> Iterator[TableEntry]:
    for number in range(ENTRIES):
        prefix = FieldMatch("address", 0xFFFF_0A00_0000 + number, prefix_length=128)
        match = (FieldMatch("vrf", number % 64 + 1), prefix)
        yield TableEntry("source_group", match, "set_source_group", (("group", number % 60_000 + 1),))


def requests(messages: list[p4r.TableEntry], kind: "p4r.Update.Type.ValueType") -> list[bytes]:
    """Encoded before the clock runs: the client's encoder is not what is measured."""
    encoded = []
    for first in range(0, len(messages), BATCH):
        request = p4r.WriteRequest(device_id=1, election_id=p4r.Uint128(low=1))
        for message in messages[first : first + BATCH]:
            request.updates.add(type=kind).entity.table_entry.CopyFrom(message)
        encoded.append(request.SerializeToString())
    return encoded


def check_read_back(channel: grpc.Channel, layout: Layout, messages: list[p4r.TableEntry]) -> None:
    request = p4r.ReadRequest(device_id=1)
    request.entities.add().table_entry.SetInParent()
    read = channel.unary_stream(SERVICE + "Read", p4r.ReadRequest.SerializeToString, p4r.ReadResponse.FromString)(
        request, timeout=60
    )
    read_back = {
        entity.table_entry.SerializeToString(deterministic=True)
        for response in read
        for entity in response.entities
        if not entity.table_entry.is_default_action
    }
    if read_back != {message.SerializeToString(deterministic=True) for message in messages}:
        raise RuntimeError(f"{len(read_back)} entries read back, {len(messages)} written, and they are not the same")


@contextmanager
def agent() -> Iterator[grpc.Channel]:
    """A real agent in namespaces of its own."""
    with tempfile.TemporaryDirectory(prefix="netstitch-bench-") as name:
        directory = Path(name)
        (directory / "bpf").mkdir()
        config = AgentConfig(
            name="bench",
            listen=f"unix:{directory}/agent.sock",
            state_dir=f"{directory}/state",
            pin_dir=f"{directory}/bpf/pins",
            ports=(),
        )
        file = directory / "agent.json"
        file.write_bytes(msgspec.json.encode(config))
        program = str(Path(sys.executable).parent / "stitch-agent")
        script = f"mount -t bpf bpf {directory}/bpf && exec {program} --config {file}"
        with (directory / "log").open("wb") as log:
            running = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], stderr=log, stdout=log)
        try:
            with grpc.insecure_channel(config.listen, options=UNLIMITED) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
                yield channel
        except grpc.FutureTimeoutError as error:
            raise RuntimeError(f"the agent did not listen: {(directory / 'log').read_text()}") from error
        finally:
            running.terminate()
            running.wait(timeout=10)


@contextmanager
def primary(channel: grpc.Channel) -> Iterator[None]:
    """This client may write, with the pipeline configured."""
    stop: list[bool] = []

    def hello() -> Iterator[p4r.StreamMessageRequest]:
        message = p4r.StreamMessageRequest()
        message.arbitration.device_id = 1
        message.arbitration.election_id.low = 1
        yield message
        while not stop:
            time.sleep(0.05)

    stream = channel.stream_stream(
        SERVICE + "StreamChannel", p4r.StreamMessageRequest.SerializeToString, p4r.StreamMessageResponse.FromString
    )(hello())
    first = next(stream)
    if first.arbitration.status.code != 0:
        raise RuntimeError(f"not primary: {first}")
    config = p4r.SetForwardingPipelineConfigRequest(device_id=1, election_id=p4r.Uint128(low=1))
    config.action = p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT
    config.config.p4info.CopyFrom(text_format.Parse(P4INFO.read_text(), p4i.P4Info()))
    channel.unary_unary(SERVICE + "SetForwardingPipelineConfig")(config.SerializeToString(), timeout=30)
    try:
        yield
    finally:
        stop.append(True)
        stream.cancel()
