"""Envoy, on the configuration that is shipped, before one orchestrator and before two.

Run: pytest tests/mesh/test_envoy.py
"""

import asyncio
import os
import signal
import socket
import subprocess
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from envoys import Envoy, OrchestratorProcess, drain_command, envoy_before
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meshes import MAX_MESSAGE_BYTES, Mesh, mesh_in_process, reason_of, slow_down, until

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.services.runtime.calls import open_channel
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as tracing
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2_grpc as tracing_grpc

FIELDS = {"model_id": "tiny", "prompt": "a cat", "step_count": 2}
# Long enough that a call can be caught in the middle of its run.
STEP_S = 0.05
PROTOS = Path(__file__).parents[2] / "protos" / "sangsang" / "imaging" / "v1"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Cells:
    """Envoy and what is behind it."""

    envoy: Envoy
    meshes: list[Mesh]
    client: Mesh
    channel: grpc.aio.Channel

    def port(self, number: int) -> int:
        return self.meshes[number].hosts["orchestrator"].port

    def taken(self, number: int) -> int:
        """Calls that an orchestrator has been given."""
        return len(self.meshes[number].spans.named("/GenerateImages", server=True))

    async def say(self, number: int, status) -> None:
        await self.meshes[number].hosts["orchestrator"]._say(status)


@asynccontextmanager
async def cells(tiny, cache_dir, folder, count, **limits):
    """Orchestrators, each with stages of its own, behind Envoy."""
    async with AsyncExitStack() as stack:
        meshes = [
            await stack.enter_async_context(
                mesh_in_process([tiny], cache_dir, overrides={"orchestrator": limits})
            )
            for _ in range(count)
        ]
        ports = [mesh.hosts["orchestrator"].port for mesh in meshes]
        envoy = await stack.enter_async_context(envoy_before(ports, folder))
        channel = open_channel(envoy.address, max_message_bytes=MAX_MESSAGE_BYTES)
        await stack.enter_async_context(channel)
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        yield Cells(envoy, meshes, Mesh(stub, meshes[0].spans), channel)


async def several(running: Cells) -> int:
    """How many of several calls at once were given to the first orchestrator."""
    before = running.taken(0) + running.taken(1), running.taken(0)
    await asyncio.gather(*(running.client.generate(**FIELDS, seed=n) for n in range(8)))
    assert running.taken(0) + running.taken(1) == before[0] + 8
    return running.taken(0) - before[1]


def refused(failed) -> tuple[grpc.StatusCode, str]:
    return failed.value.code(), reason_of(failed.value)


async def test_a_picture_is_the_same_through_it(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        direct = await running.meshes[0].generate(**FIELDS, seed=7)
        request_id = str(uuid.uuid4())
        through = await running.client.generate(**FIELDS, seed=7, request_id=request_id)
        assert through.images[0].data.content == direct.images[0].data.content
        assert through.request_id == request_id
        health = health_pb2_grpc.HealthStub(running.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING


async def test_a_client_that_watches_health_watches_it_through_it(tiny, cache_dir, tmp_path):
    config = (PROTOS / "image_generation_service_config.json").read_text("utf-8")
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        options = [("grpc.service_config", config)]
        async with grpc.aio.insecure_channel(running.envoy.address, options=options) as channel:
            client = Mesh(imaging_grpc.ImageGenerationServiceStub(channel), running.client.spans)
            await client.generate(**FIELDS)
            await running.say(0, NOT_SERVING)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                async with asyncio.timeout(60):
                    while True:
                        await client.generate(**FIELDS)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            await running.say(0, SERVING)
            # Without wait_for_ready, it would be refused until the watch has told.
            request = imaging.GenerateImagesRequest(spec=imaging.ImageSpec(**FIELDS))
            await client.stub.GenerateImages(request, timeout=60, wait_for_ready=True)


async def test_steps_come_as_they_are_done(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        [mesh] = running.meshes
        slow_down(mesh, STEP_S)
        events, done_at = [], []
        async for event in running.client.stream(**{**FIELDS, "step_count": 10}, seed=7):
            events.append(event.WhichOneof("event"))
            done_at.append(mesh.counts().step_count)
    first = events.index("progress")
    assert done_at[first] < 10, "the first step was told while others were to come"
    assert events[0] == "accepted"
    assert events[-2:] == ["image", "summary"]


async def test_a_cancel_passes_through_it(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        [mesh] = running.meshes
        slow_down(mesh, STEP_S)
        call = running.client.stream(**{**FIELDS, "step_count": 24}, seed=7)
        async for event in call:
            if event.WhichOneof("event") == "progress":
                break
        call.cancel()
        await until(lambda: mesh.counts().left_job_count == 1)
        assert mesh.counts().step_count < 24
        assert mesh.counts().wasted_step_count <= 1


async def test_a_deadline_is_the_call_s_own(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        [mesh] = running.meshes
        slow_down(mesh, STEP_S)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await running.client.generate(**{**FIELDS, "step_count": 24}, seed=7, timeout=0.4)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: mesh.counts().left_job_count + mesh.counts().failed_job_count == 1)
        assert await running.envoy.retries() == 0


async def test_only_what_is_public_is_let_through(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        outside = tracing_grpc.TraceInspectionServiceStub(running.channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await outside.ListTraces(tracing.ListTracesRequest())
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_one_that_does_not_serve_is_taken_out_and_comes_back(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 2) as running:
        await running.say(0, NOT_SERVING)
        await running.envoy.calls_only(running.port(1))
        # Its threads are told a moment after its administration is.
        async with asyncio.timeout(60):
            while await several(running):
                pass
        before = running.taken(0)
        await running.say(0, SERVING)
        await running.envoy.calls_only(running.port(0), running.port(1))
        async with asyncio.timeout(60):
            while running.taken(0) == before:
                await running.client.generate(**FIELDS)


async def test_nobody_is_called_when_nobody_serves(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 2) as running:
        for number in (0, 1):
            await running.say(number, NOT_SERVING)
        await running.envoy.calls_only()
        # Its threads are told a moment after its administration is.
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async with asyncio.timeout(60):
                while True:
                    await running.client.generate(**FIELDS)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        before = running.taken(0) + running.taken(1)
        with pytest.raises(grpc.aio.AioRpcError):
            await running.client.generate(**FIELDS)
        assert running.taken(0) + running.taken(1) == before


async def test_a_refusal_is_not_called_again_and_says_so(tiny, cache_dir, tmp_path):
    limits = {"tenant_rate_per_s": 0.001, "tenant_burst_count": 1}
    async with cells(tiny, cache_dir, tmp_path, 2, **limits) as running:
        # Each orchestrator lets one in; none of the later ones.
        for number in (0, 1):
            await running.meshes[number].generate(**FIELDS, tenant="busy")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await running.client.generate(**FIELDS, tenant="busy")
        assert refused(failed) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_RATE")
        assert ("grpc-retry-pushback-ms", "-1") in tuple(failed.value.trailing_metadata())
        assert running.taken(0) + running.taken(1) == 3
        assert await running.envoy.retries() == 0


async def test_one_that_has_lost_a_stage_is_passed_over(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 2, replica_absence_s=0.0) as running:
        await running.meshes[0].hosts["diffusion"].drain()
        health = running.meshes[0].orchestrator._health
        await until(lambda: health.usable_counts["diffusion"] == 0)
        assert running.port(0) in await running.envoy.healthy_ports(), "it serves still"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await running.meshes[0].generate(**FIELDS)
        assert refused(failed) == (grpc.StatusCode.UNAVAILABLE, "STAGE_UNAVAILABLE")
        async with asyncio.timeout(60):
            while await running.envoy.retries() < 3:
                await running.client.generate(**FIELDS)


async def test_a_product_is_the_tenant_whose_name_it_calls(tiny, cache_dir, tmp_path):
    limits = {"tenant_rate_per_s": 0.001, "tenant_burst_count": 1}
    async with cells(tiny, cache_dir, tmp_path, 1, **limits) as running:

        async def call(product: str, said: str) -> None:
            options = [("grpc.default_authority", f"{product}:50050")]
            async with grpc.aio.insecure_channel(running.envoy.address, options=options) as channel:
                stub = imaging_grpc.ImageGenerationServiceStub(channel)
                await Mesh(stub, running.client.spans).generate(**FIELDS, tenant=said)

        await call("product-a", "one")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call("product-a.sangsang", "another")
        assert refused(failed) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_RATE")
        await call("product-b", "one")
        await call("images", "one")
        await call("images", "another")


async def test_what_the_pod_does_before_it_ends_breaks_no_call(tiny, cache_dir, tmp_path):
    async with cells(tiny, cache_dir, tmp_path, 1) as running:
        slow_down(running.meshes[0], STEP_S)
        call = aiter(running.client.stream(**{**FIELDS, "step_count": 24}, seed=7))
        events = [(await anext(call)).WhichOneof("event")]
        command = drain_command(running.envoy.admin_port)
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=True
        )
        assert "200 OK" in done.stdout
        events += [event.WhichOneof("event") async for event in call]
        assert events[-1] == "summary"


@dataclass
class Load:
    """Callers who send one request after the other, and what they have seen."""

    client: Mesh
    done_count: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    stopping: bool = False

    async def call_on(self, caller: int) -> None:
        while not self.stopping:
            try:
                await self.client.generate(**FIELDS, seed=caller)
            except grpc.aio.AioRpcError as error:
                self.failures.append((error.code().name, error.details() or ""))
            else:
                self.done_count += 1

    async def more(self, count: int) -> None:
        wanted = self.done_count + count
        await until(lambda: self.done_count >= wanted, timeout_s=100)


@asynccontextmanager
async def loaded(client: Mesh, caller_count: int = 6):
    load = Load(client)
    callers = [asyncio.create_task(load.call_on(number)) for number in range(caller_count)]
    try:
        yield load
        load.stopping = True
        async with asyncio.timeout(100):
            await asyncio.gather(*callers)
    finally:
        for caller in callers:
            caller.cancel()


@asynccontextmanager
async def two_orchestrators(tiny, cache_dir, folder):
    """Two orchestrators as processes, each over stages of its own, and Envoy before them."""
    async with AsyncExitStack() as stack:
        processes = []
        for _ in range(2):
            mesh = await stack.enter_async_context(mesh_in_process([tiny], cache_dir))
            slow_down(mesh, STEP_S)
            addresses = {
                f"SANGSANG_{name.upper()}_ADDRESS": f"127.0.0.1:{host.port}"
                for name, host in mesh.hosts.items()
                if name != "orchestrator"
            }
            with socket.socket() as one:
                one.bind(("127.0.0.1", 0))
                port = one.getsockname()[1]
            process = OrchestratorProcess(
                port,
                {
                    **os.environ,
                    **addresses,
                    "SANGSANG_MODELS": str(tiny),
                    "SANGSANG_CACHE_DIR": str(cache_dir),
                    "SANGSANG_LOG_LEVEL": "error",
                },
            )
            stack.callback(process.close)
            process.start()
            processes.append(process)
        envoy = await stack.enter_async_context(
            envoy_before([process.port for process in processes], folder)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(envoy.address))
        client = Mesh(imaging_grpc.ImageGenerationServiceStub(channel), mesh.spans)
        yield processes, envoy, client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
async def test_an_orchestrator_that_goes_takes_no_call_along(tiny, cache_dir, tmp_path, number):
    async with two_orchestrators(tiny, cache_dir, tmp_path) as (processes, envoy, client):
        ports = [process.port for process in processes]
        async with loaded(client) as load:
            for process in processes:
                await load.more(6)
                code = await process.end(number)
                assert code == (0 if number is signal.SIGTERM else -number)
                [other] = set(ports) - {process.port}
                await envoy.calls_only(other)
                await load.more(6)
                process.start()
                await envoy.calls_only(*ports)
        assert load.failures == []
        if number is signal.SIGKILL:
            assert await envoy.retries() > 0


async def test_a_stream_breaks_with_its_orchestrator_and_is_not_begun_anew(
    tiny, cache_dir, tmp_path
):
    async with two_orchestrators(tiny, cache_dir, tmp_path) as (processes, envoy, client):
        call = client.stream(**{**FIELDS, "step_count": 24}, seed=7)
        async for event in call:
            if event.WhichOneof("event") == "progress":
                break
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            for process in processes:
                await process.end(signal.SIGKILL)
            async for _ in call:
                pass
        # What Envoy resets says INTERNAL, where the orchestrator's own connection says UNAVAILABLE.
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert "RST_STREAM" in failed.value.details()
        assert await envoy.retries() == 0
