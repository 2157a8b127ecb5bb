"""`sangsang healthcheck`: for containers, which have no other client."""

from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .console import DEFAULT_ADDRESS, fail, out


def healthcheck(
    address: Annotated[
        str, typer.Argument(help="host:port of any service of the mesh.")
    ] = DEFAULT_ADDRESS,
    service: Annotated[str, typer.Option(help="Full gRPC service name; empty: the process.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 2.0,
) -> None:
    """Exits with 0 when a service says SERVING, and with 1 when it does not."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            response = stub.Check(request, timeout=timeout)
        except grpc.RpcError as error:
            raise typer.Exit(fail(f"{address}: {error.code().name}")) from None  # pyright: ignore[reportAttributeAccessIssue]
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(fail(f"{address}: {name}"))
    out.print(f"{address}: {name}", highlight=False)
