"""What the metrics of a running mesh say. Run: pytest tests/mesh/test_metrics.py"""

import asyncio
import socket
from contextlib import asynccontextmanager

import grpc
import pytest
from meshes import STAGES, mesh_in_process, reason_of, slow_down, speed_up, until
from scraping import OPEN_METRICS, Values, fetch, free_ports, trace_ids
from typer.testing import CliRunner

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.cli import app
from sangsang.orchestrator.local_mesh import LocalMesh
from sangsang.services.runtime.metrics import declarations

SERVICES = ("orchestrator", *STAGES)
ASKED = {"model_id": "pocket", "prompt": "a cat", "scheduler": "ddim", "guidance_scale": 3.0}
FREE, PRO = imaging.TIER_FREE, imaging.TIER_PRO


class Measured:
    """A mesh whose every service serves metrics."""

    def __init__(self, mesh, first_port):
        self.mesh = mesh
        self.ports = {name: first_port + i for i, name in enumerate(SERVICES)}

    async def values(self, service):
        return Values(await asyncio.to_thread(fetch, self.ports[service]))


@asynccontextmanager
async def measured(models, cache_dir, **orchestrator):
    first = free_ports(len(SERVICES))
    overrides = {name: {"metrics_port": first + i} for i, name in enumerate(SERVICES)}
    overrides["orchestrator"].update(orchestrator)
    async with mesh_in_process(models, cache_dir, overrides=overrides) as mesh:
        yield Measured(mesh, first)


async def code_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


async def run_into_trouble(one):
    """One request is late, one is cancelled, and meanwhile one is refused."""
    mesh = one.mesh
    # Steps long enough that a call can leave in the middle of its run.
    slow_down(one.mesh, 0.03)
    late = await code_of(mesh.generate(**ASKED, step_count=20, timeout=0.3, tier=FREE))
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    call = mesh.stream(**ASKED, step_count=20, tier=FREE, tenant="shop-1")
    async for event in call:
        if event.WhichOneof("event") == "progress":
            break
    refused = await code_of(mesh.generate(**ASKED, tier=PRO, tenant="shop-1"))
    assert reason_of(refused) == "TENANT_IN_FLIGHT"
    call.cancel()
    counts = mesh.counts("pocket")
    await until(lambda: counts.left_job_count + counts.failed_job_count == 2)
    speed_up(one.mesh)


async def test_each_service_says_what_happened(pocket, cache_dir):
    async with measured([pocket], cache_dir, tenant_in_flight_count=1) as one:
        await run_into_trouble(one)
        await one.mesh.generate(**ASKED, step_count=3, tier=FREE)
        await one.mesh.generate(**ASKED, step_count=4, tier=PRO, image_count=2, timeout=60)
        values = {service: await one.values(service) for service in SERVICES}
        counts = one.mesh.counts("pocket")
    orchestrator, diffusion = values["orchestrator"], values["diffusion"]

    assert orchestrator.by(declarations.PICTURES, "tier", "outcome") == {
        ("free", "finished"): 1,
        ("pro", "finished"): 2,
        ("free", "late"): 1,
        ("free", "left"): 1,
    }
    admitted = orchestrator.by(declarations.ADMISSIONS, "tier")
    assert admitted == {("free",): 3, ("pro",): 1}
    refusals = orchestrator.by(declarations.REFUSALS, "tier", "reason")
    assert refusals == {("pro", "TENANT_IN_FLIGHT"): 1}
    misses = orchestrator.by(declarations.DEADLINE_MISSES, "tier", "phase")
    assert misses == {("free", "running"): 1}
    assert orchestrator.by(declarations.PICTURES_IN_TIME, "tier") == {("free",): 1, ("pro",): 2}
    finished = orchestrator.by(declarations.REQUEST_SECONDS, "tier", part="_count")
    assert finished == {("free",): 1, ("pro",): 1}
    charged = orchestrator.by(declarations.PICTURE_COMPUTE_SECONDS, "tier", part="_count")
    assert charged == {("free",): 1, ("pro",): 2}
    assert orchestrator.of(declarations.PICTURE_COMPUTE_SECONDS, "_sum", tier="pro") > 0
    stages = orchestrator.by(declarations.STAGE_SECONDS, "stage", part="_count")
    assert stages["diffusion",] == stages["postprocessing",] == 3
    assert orchestrator.of(declarations.LANE_BUSY_SECONDS, stage="diffusion") > 0.3
    assert set(orchestrator.by(declarations.REPLICAS, "stage").values()) == {1}
    # Nothing is left of those that failed.
    assert orchestrator.by(declarations.LANE_CALLS, "stage") == {}
    assert orchestrator.by(declarations.QUEUE_DEPTH, "stage") == {}
    assert orchestrator.of(declarations.REQUESTS_RUNNING) == 0
    generate = "sangsang.imaging.v1.ImageGenerationService/GenerateImages"
    codes = {
        code: count
        for (method, code), count in orchestrator.by(declarations.CALLS, "method", "code").items()
        if method == generate
    }
    assert codes == {"OK": 2, "DEADLINE_EXCEEDED": 1, "RESOURCE_EXHAUSTED": 1}

    assert diffusion.of(declarations.STEP_SECONDS, "_count") == counts.step_count
    assert diffusion.of(declarations.STEP_ROWS, "_sum") == counts.row_count
    assert diffusion.of(declarations.WASTED_STEPS) == counts.wasted_step_count <= 2
    ends = diffusion.by(declarations.JOBS, "outcome")
    assert ends["finished",] == 3
    assert sum(ends.values()) == 5
    assert diffusion.of(declarations.ROWS_IN_FLIGHT) == 0
    for service in STAGES:
        found = values[service]
        assert found.of(declarations.START_TIME, service=service) > 1e9
        assert found.of(declarations.CALLS, code="OK") >= 3
        assert found.of(declarations.ENGINE_BUSY_SECONDS) > 0
        assert found.of(declarations.ENGINE_QUEUE_DEPTH) == 0
        assert found.of(declarations.ENGINE_WAIT_SECONDS, "_count") >= 3


async def test_a_slow_bucket_names_a_trace(pocket, cache_dir):
    async with measured([pocket], cache_dir) as one:
        await one.mesh.generate(**ASKED, step_count=2)
        [root] = one.mesh.spans.named("ImageGenerationService/GenerateImages", server=True)
        trace_id = f"{root.context.trace_id:032x}"
        texts = {
            service: await asyncio.to_thread(fetch, one.ports[service], OPEN_METRICS)
            for service in SERVICES
        }
    for declared in (
        declarations.CALL_SECONDS,
        declarations.REQUEST_SECONDS,
        declarations.PICTURE_COMPUTE_SECONDS,
        declarations.ADMISSION_WAIT_SECONDS,
        declarations.LANE_WAIT_SECONDS,
        declarations.STAGE_SECONDS,
    ):
        assert trace_ids(texts["orchestrator"], declared) == {trace_id}, declared.name
    assert trace_ids(texts["diffusion"], declarations.STEP_SECONDS) == {trace_id}
    for service in STAGES:
        assert trace_ids(texts[service], declarations.CALL_SECONDS) == {trace_id}, service
    assert trace_ids(texts["text_encoding"], declarations.ENGINE_WAIT_SECONDS) == {trace_id}


async def test_two_meshes_in_one_process_do_not_mix(pocket, cache_dir):
    async with (
        measured([pocket], cache_dir) as one,
        measured([pocket], cache_dir) as other,
    ):
        await one.mesh.generate(**ASKED, step_count=2)
        await other.mesh.generate(**ASKED, step_count=2, image_count=2)
        for mesh, count in ((one, 1), (other, 2)):
            orchestrator, diffusion = (
                await mesh.values("orchestrator"),
                await mesh.values("diffusion"),
            )
            assert orchestrator.of(declarations.PICTURES, outcome="finished") == count
            assert diffusion.of(declarations.JOBS, outcome="finished") == count


async def test_labels_are_none_of_the_callers(pocket, cache_dir):
    """What callers send must not make series without end."""
    async with measured([pocket], cache_dir) as one:
        await one.mesh.generate(**ASKED, step_count=1, tenant="shop-7")
        for fields in ({"model_id": "no-such-model"}, {**ASKED, "scheduler": "no-such"}):
            await code_of(one.mesh.generate(**fields))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{one.mesh.hosts['orchestrator'].port}")
        async with channel:
            for method in ("/sangsang.imaging.v1.ImageGenerationService/NoSuch", "/no.such/Method"):
                assert (
                    await code_of(channel.unary_unary(method)(b""))
                ).code() is grpc.StatusCode.UNIMPLEMENTED
        texts = [await asyncio.to_thread(fetch, port) for port in one.ports.values()]
    for hostile in ("shop-7", "no-such", "NoSuch", "no.such", "a cat"):
        assert not any(hostile in text for text in texts), hostile


def test_processes_serve_metrics_to_top_and_one_whose_port_is_taken_does_without(
    pocket, cache_dir, tmp_path
):
    port = free_ports(len(SERVICES))
    taken = port + SERVICES.index("postprocessing")
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", taken))
        neighbour.listen()
        with LocalMesh([pocket], cache_dir=cache_dir, metrics_port=port, log_dir=tmp_path) as mesh:
            assert mesh.metrics_address("diffusion") == f"127.0.0.1:{port + 3}"
            with grpc.insecure_channel(mesh.address) as channel:
                stub = imaging_grpc.ImageGenerationServiceStub(channel)
                spec = imaging.ImageSpec(
                    model_id="pocket", prompt="a cat", step_count=3, tier=FREE, seed=1
                )
                request = imaging.GenerateImagesRequest(spec=spec)
                assert stub.GenerateImages(request, timeout=60).images
            named = [
                argument
                for name in SERVICES[:4]
                for argument in ("--metrics", mesh.metrics_address(name))
            ]
            result = CliRunner().invoke(app, ["top", "--once", *named], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert "0 running, 0 waiting" in result.output
    assert "since its start" in result.output
    assert "100%" in result.output, "the only picture came in time"
    assert "does not answer" not in result.output
    log = (tmp_path / "postprocessing.log").read_text()
    assert "metrics_unserved" in log
    assert str(taken) in log
