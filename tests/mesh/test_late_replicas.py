"""Replicas that the orchestrator was told of and that are not there when it starts.

Run: pytest tests/mesh/test_late_replicas.py
"""

import socket

import pytest
from hosting import Spans, hosted
from meshes import MAX_MESSAGE_BYTES, STAGES, mesh_in_process, orchestrator_in_process, until

from sangsang.services.runtime.errors import StageUnavailable

FIELDS = {"model_id": "tiny", "prompt": "a cat", "step_count": 2, "seed": 7}
AT_ONCE = {"orchestrator": {"replica_start_s": 0.0}}


@pytest.fixture
def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def test_a_device_joins_when_it_comes_and_its_pictures_are_the_same(
    tiny, cache_dir, free_port
):
    stage_class, settings_class = STAGES["diffusion"]
    settings = settings_class(
        port=free_port,
        models=(tiny,),
        cache_dir=cache_dir,
        lame_duck_s=0.0,
        max_message_bytes=MAX_MESSAGE_BYTES,
    )
    late = {"diffusion": f"127.0.0.1:{free_port}"}
    async with mesh_in_process([tiny], cache_dir, overrides=AT_ONCE, further_replicas=late) as mesh:
        health = mesh.orchestrator._health
        assert health.usable_counts["diffusion"] == 1
        assert health.loss_counts["diffusion"] == 0, "what never was there is not lost"
        before = await mesh.generate(**FIELDS)
        async with hosted(stage_class(settings), settings, Spans()):
            await until(lambda: health.usable_counts["diffusion"] == 2)
            # The first one leaves, so the next picture is the second one's.
            await mesh.hosts["diffusion"].drain()
            await until(lambda: health.usable_counts["diffusion"] == 1)
            after = await mesh.generate(**FIELDS)
            assert health.loss_counts["diffusion"] == 1
    assert after.images[0].data.content == before.images[0].data.content


async def test_devices_that_are_not_there_are_not_counted_upon(tiny, cache_dir, free_port):
    late = {"diffusion": f"127.0.0.1:{free_port}"}
    async with mesh_in_process([tiny], cache_dir, overrides=AT_ONCE, further_replicas=late) as mesh:
        scheduler = mesh.orchestrator._gateway._generator.dispatcher.scheduler
        assert len(scheduler.devices) == 2
        assert scheduler._heavy_device_count == 1


async def test_a_stage_of_which_there_is_none_is_named(tiny, cache_dir, free_port):
    addresses = dict.fromkeys(STAGES, f"127.0.0.1:{free_port}")
    # The other replicas of a stage that has none are not waited for: pytest's limit would end it.
    patience = {"stage_start_timeout_s": 0.3, "replica_start_s": 10_000.0}
    with pytest.raises(StageUnavailable, match=r"\w+ at 127.0.0.1:\d+ did not serve within 0.3 s"):
        async with orchestrator_in_process([tiny], cache_dir, addresses, Spans(), **patience):
            pass
