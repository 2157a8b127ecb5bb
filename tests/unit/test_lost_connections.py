"""Which failed calls say that a stage has died: those of its connection, unless it was silent."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from sangsang.services.runtime.errors import StageLost, StageUnavailable
from sangsang.services.runtime.status import from_rpc_error


def failed(details: str) -> AioRpcError:
    return AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details)


@pytest.mark.parametrize(
    "details", ["Socket closed", "Stream removed (recvmsg:Connection reset by peer (104))"]
)
def test_a_connection_that_its_peer_ends_is_a_death(details):
    assert type(from_rpc_error(failed(details), stage="diffusion")) is StageLost


@pytest.mark.parametrize(
    "details",
    [
        # As gRPC said it when a container was taken off its network.
        "Stream removed (recvmsg:Connection timed out (110))",
        "failed to connect to all addresses; last error: UNKNOWN: Connection refused",
    ],
)
def test_silence_is_none(details):
    assert type(from_rpc_error(failed(details), stage="diffusion")) is StageUnavailable
