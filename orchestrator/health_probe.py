"""Asks a service once whether it serves. Imports little: containers do it every few seconds."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = "SERVING"


def ask_health(address: str, *, service: str = "", timeout_s: float = 2.0) -> str:
    """Returns what a service says of itself, e.g. `SERVING`, or the code of the failed call.

    Args:
        address: `host:port` of any service of the mesh.
        service: full gRPC service name; empty for the process as a whole.
        timeout_s: how long to wait for an answer.
    """
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = stub.Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return error.code().name  # pyright: ignore[reportAttributeAccessIssue] a Call too
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
