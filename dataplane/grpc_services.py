"""gRPC's own services beside the agent's: health, for who looks whether it serves, and reflection, for who looks what
(`grpcurl`). Clients prove themselves for these as for all else."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

P4RUNTIME = "p4.v1.P4Runtime"
_SERVES = health_pb2.HealthCheckResponse.SERVING


async def add_to(server: grpc.aio.Server) -> health.aio.HealthServicer:
    """To a server that was not started yet. Who ends it tells those that watch first (`enter_graceful_shutdown`)."""
    servicer = health.aio.HealthServicer()
    await servicer.set(P4RUNTIME, _SERVES)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((P4RUNTIME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return servicer
