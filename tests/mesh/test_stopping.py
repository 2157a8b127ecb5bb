"""SIGTERM to a process whose calls outlast its grace: they end UNAVAILABLE, and soon.

Real processes over `pocket`. Run: pytest tests/mesh/test_stopping.py
"""

import signal

import grpc
import pytest

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import LocalMesh

GRACE_S = 0.3
# Many seconds of work, so that it outlasts any grace.
LONG = {
    "model_id": "pocket",
    "prompt": "a cat",
    "tier": imaging.TIER_PRO,
    "step_count": 60,
    "image_count": 8,
    "width_px": 128,
    "height_px": 128,
}
# Of the process after its grace: cancelling, telling, freeing the engines. Generous: CI is busy.
END_S = 20.0


@pytest.fixture
def processes(pocket, cache_dir):
    """A mesh of five processes with little patience."""
    environment = {
        "SANGSANG_GRACE_S": str(GRACE_S),
        "SANGSANG_LAME_DUCK_S": "0",
        "SANGSANG_REPLICA_ABSENCE_S": "0.5",
        "SANGSANG_LOG_LEVEL": "error",
    }
    with LocalMesh([pocket], cache_dir=cache_dir, environment=environment) as mesh:
        yield mesh


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("orchestrator", "the service is stopping"),
        # The call would have been made again if the replica, the only one, had come back.
        ("diffusion", "no replica of diffusion takes calls"),
    ],
)
def test_a_call_that_outlasts_the_grace_is_unavailable(processes, name, text):
    [process] = [one.process for one in processes.processes if one.name == name]
    with grpc.insecure_channel(processes.address) as channel:
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        request = imaging.StreamGenerateImagesRequest(spec=imaging.ImageSpec(**LONG))
        with pytest.raises(grpc.RpcError) as failed:
            events = stub.StreamGenerateImages(request, timeout=120)
            while next(events).WhichOneof("event") != "progress":
                pass
            process.send_signal(signal.SIGTERM)
            # A second signal would end it at once, so the rest is only read.
            assert "summary" not in {event.WhichOneof("event") for event in events}
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert text in failed.value.details()
    assert process.wait(END_S) == 0
