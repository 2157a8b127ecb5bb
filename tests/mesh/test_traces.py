"""A whole mesh's traces: every request's spans, the steps it shared, and what shows them."""

import asyncio
import json
import time
from collections import defaultdict

import grpc
import pytest
from meshes import Mesh, every_stage, mesh_in_process, slow_down, speed_up, until
from typer.testing import CliRunner

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.orchestrator.cli import app
from sangsang.orchestrator.tracing.converters import from_traces_data
from sangsang.orchestrator.tracing.critical_path import critical_path
from sangsang.orchestrator.tracing.lanes import lane_uses
from sangsang.orchestrator.tracing.tree import build_tree, is_step
from sangsang.services.runtime.calls import open_channel
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as inspection
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2_grpc as inspection_grpc

METHODS = ("EncodeText", "PrepareLatents", "Denoise", "DecodeLatents")
TWICE = ["client", "client", "server", "server"]
FIELDS = {"model_id": "tiny", "prompt": "a cat"}


@pytest.fixture
def traced(mesh):
    """The mesh, its stages exporting to the orchestrator as `sangsang up` has them do."""
    port = mesh.hosts["orchestrator"].port
    for name, host in mesh.hosts.items():
        if name != "orchestrator":
            host._telemetry.export_to(f"http://127.0.0.1:{port}")
    return mesh


@pytest.fixture
def slow_steps(mesh):
    """Steps long enough that requests share them, and that microseconds do not count."""
    slow_down(mesh, 0.05)
    yield
    speed_up(mesh)


@pytest.fixture
async def viewer(traced):
    port = traced.hosts["orchestrator"].port
    async with open_channel(f"127.0.0.1:{port}", max_message_bytes=1 << 24) as channel:
        yield inspection_grpc.TraceInspectionServiceStub(channel)


async def settled(mesh: Mesh) -> None:
    """Returns once every span has ended and been exported."""
    await until(lambda: len(mesh.spans.started) == len(mesh.spans.ended))
    for host in mesh.hosts.values():
        await asyncio.to_thread(host._telemetry.flush)


async def test_eight_requests_in_one_batch(traced, slow_steps, viewer):
    tiers = [imaging.TIER_FREE, imaging.TIER_PRO] * 4
    calls = [
        traced.generate(**FIELDS, tier=tier, step_count=8 + number % 3, seed=number)
        for number, tier in enumerate(tiers)
    ]
    answers = {answer.request_id: answer for answer in await asyncio.gather(*calls)}
    await settled(traced)
    assert len(traced.spans.started) == len(traced.spans.ended)

    listed = (await viewer.ListTraces(inspection.ListTracesRequest())).traces
    assert {one.request_id for one in listed} == set(answers)
    shared = 0
    for one in listed:
        answer = answers[one.request_id]
        response = await viewer.GetTrace(inspection.GetTraceRequest(id=one.request_id))
        spans = from_traces_data(response.traces_data)
        own = [span for span in spans if span.trace_id == one.trace_id]
        # Every stage has a call at one end and an answer at the other; there is guidance, so two
        # texts. Nothing failed, and everything hangs below the request.
        for method in METHODS:
            found = sorted(span.kind for span in own if span.short_name == method)
            assert found == (TWICE if method == "EncodeText" else ["client", "server"])
        assert not any(span.failed for span in spans)
        root = build_tree(spans, one.root_span_id)
        assert {node.span.span_id for _, node in root.walk()} == {span.span_id for span in spans}

        steps = [span for span in spans if is_step(span)]
        assert len(steps) == answer.stats.settings.step_count
        [denoise] = [s for s in own if s.short_name == "Denoise" and s.kind == "server"]
        links = {(link.trace_id, link.span_id) for link in denoise.links}
        assert links == {(step.trace_id, step.span_id) for step in steps}, "the way back"
        for step in steps:
            members = [link for link in step.links if link.span_id == denoise.span_id]
            assert len(members) == 1, "the way there"
            assert len(step.links) == step.attributes["sangsang.batch.job_count"]
            assert step.attributes["sangsang.batch.padding_row_count"] == 0
        indices = sorted(
            link.attributes["sangsang.batch.step_index"]
            for step in steps
            for link in step.links
            if link.span_id == denoise.span_id
        )
        assert indices == list(range(len(steps)))
        shared += any(len(step.links) > 1 for step in steps)
        assert {other.request_id for other in response.neighbours} <= set(answers)

        path_s = sum(part.duration_ns for part in critical_path(root)) / 1e9
        latency_s = answer.stats.total_duration.ToTimedelta().total_seconds()
        assert path_s == pytest.approx(latency_s, rel=0.02)
        shares_s = sum(s.duration.ToTimedelta().total_seconds() for s in one.time_shares)
        assert shares_s == pytest.approx(path_s, rel=1e-3)
        assert one.time_shares[0].name in ("diffusion", "step wait", "admission wait")
    assert shared == 8, "they were in one batch"


async def test_what_the_spans_say(traced, viewer):
    fields = {**FIELDS, "step_count": 3, "image_count": 2, "tier": imaging.TIER_PRO}
    answer = await traced.generate(**fields, tenant="shop-1")
    await settled(traced)
    response = await viewer.GetTrace(inspection.GetTraceRequest(id="last"))
    by_name = defaultdict(list)
    for span in from_traces_data(response.traces_data):
        by_name[span.short_name, span.kind].append(span)
    [root] = by_name["GenerateImages", "server"]
    assert root.attributes["gen_ai.request.model"] == "tiny"
    assert root.attributes["gen_ai.output.type"] == "image"
    assert root.attributes["gen_ai.request.choice.count"] == 2
    assert root.attributes["sangsang.request.id"] == answer.request_id
    assert root.attributes["sangsang.response_bytes"] == answer.ByteSize()
    assert "gen_ai.input.messages" not in root.attributes
    for span in by_name["Denoise", "client"]:
        assert span.attributes["sangsang.device"] == "device0"
        assert span.attributes["sangsang.lane"] in (0, 1)
        assert span.attributes["server.address"] == "127.0.0.1"
        assert span.attributes["server.port"] == traced.hosts["diffusion"].port
    for method in METHODS:
        for span in by_name[method, "server"]:
            assert span.attributes["sangsang.stage"] == span.service
            assert span.attributes["sangsang.engine.precision"] == "f32"
            assert span.attributes["sangsang.compute_seconds"] >= 0
            assert span.attributes["sangsang.queue_seconds"] >= 0
            assert span.attributes["sangsang.request_bytes"] > 0
            assert span.attributes["sangsang.response_bytes"] > 0
    hits = [s.attributes["sangsang.cache_hit"] for s in by_name["EncodeText", "server"]]
    # Two pictures with guidance ask four times for two texts.
    assert sorted(hits) == [False, False, True, True]
    uses = lane_uses(span for spans in by_name.values() for span in spans)
    assert {use.stage for use in uses if not use.runs} == {
        "text_encoding",
        "preprocessing",
        "diffusion",
        "postprocessing",
    }
    assert {use.stage for use in uses if use.runs} >= {"diffusion", "postprocessing"}


async def test_the_callers_trace_goes_on(traced, viewer):
    request = imaging.GenerateImagesRequest(spec=imaging.ImageSpec(**FIELDS, step_count=1))
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    metadata = (("traceparent", f"00-{trace_id}-{parent_id}-01"),)
    first = await traced.stub.GenerateImages(request, metadata=metadata)
    second = await traced.stub.GenerateImages(request, metadata=metadata)
    await settled(traced)
    listed = (await viewer.ListTraces(inspection.ListTracesRequest())).traces
    assert [one.trace_id for one in listed] == [trace_id] * 2
    assert [one.request_id for one in listed] == [second.request_id, first.request_id]
    spans = [span for span in traced.spans.ended if span.name != "batch_step"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {trace_id}
    roots = traced.spans.named("GenerateImages", server=True)
    assert {f"{span.parent.span_id:016x}" for span in roots} == {parent_id}


async def test_prompts_are_recorded_only_where_a_setting_asks_for_it(tiny, cache_dir):
    overrides = {"orchestrator": {"trace_prompts": True}}
    async with mesh_in_process([tiny], cache_dir, overrides=overrides) as mesh:
        await mesh.generate(model_id="tiny", prompt="고양이", step_count=1)
        [root] = mesh.spans.named("GenerateImages", server=True)
        [message] = json.loads(root.attributes["gen_ai.input.messages"])
        assert message == {"role": "user", "parts": [{"type": "text", "content": "고양이"}]}


async def fail(call) -> str:
    """The status that a call, unary or streaming, fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return failed.value.code().name


def start(mesh, shape, **fields):
    call = mesh.generate if shape == "unary" else mesh.stream
    return call(**{**FIELDS, "step_count": 5, **fields})


def root_codes(mesh) -> list[str]:
    names = ("ImageGenerationService/GenerateImages", "ImageGenerationService/StreamGenerateImages")
    roots = [span for name in names for span in mesh.spans.named(name, server=True)]
    return [span.attributes["rpc.response.status_code"] for span in roots]


def denoise_codes(mesh) -> set[str]:
    spans = mesh.spans.named("DiffusionService/Denoise")
    return {f"{s.kind.name} {s.attributes['rpc.response.status_code']}" for s in spans}


@pytest.mark.parametrize("shape", ["unary", "stream"])
async def test_a_bad_request_is_told_in_its_span(traced, viewer, shape):
    assert await fail(start(traced, shape, step_count=-1)) == "INVALID_ARGUMENT"
    await settled(traced)
    assert root_codes(traced) == ["INVALID_ARGUMENT"]
    [one] = (await viewer.ListTraces(inspection.ListTracesRequest(failed=True))).traces
    assert (one.status, one.request_id) == ("INVALID_ARGUMENT", "")


@pytest.mark.parametrize("shape", ["unary", "stream"])
@pytest.mark.parametrize("code", ["INTERNAL", "DATA_LOSS"])
async def test_a_broken_engine_is_told_at_every_level(traced, viewer, shape, code):
    [model] = traced.stages["diffusion"]._models.values()
    infer = model.engine.infer

    def broken(inputs):
        if code == "INTERNAL":
            raise RuntimeError("a cat")
        return {name: array * float("nan") for name, array in infer(inputs).items()}

    model.engine.infer = broken
    try:
        assert await fail(start(traced, shape)) == code
    finally:
        model.engine.infer = infer
    await settled(traced)
    assert root_codes(traced) == [code]
    assert denoise_codes(traced) == {f"CLIENT {code}", f"SERVER {code}"}
    assert "a cat" not in str([(dict(s.attributes), s.events) for s in traced.spans.ended])
    found = await viewer.ListTraces(inspection.ListTracesRequest(failed=True))
    assert [one.status for one in found.traces] == [code]


@pytest.mark.parametrize("shape", ["unary", "stream"])
async def test_a_deadline_is_told_at_every_level(traced, slow_steps, shape):
    # Known costs would have it refused before it starts.
    assert await fail(start(traced, shape, step_count=20, timeout=0.5)) == "DEADLINE_EXCEEDED"
    await settled(traced)
    assert root_codes(traced) == ["DEADLINE_EXCEEDED"]
    assert denoise_codes(traced) == {"CLIENT DEADLINE_EXCEEDED", "SERVER DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("shape", ["unary", "stream"])
async def test_a_caller_who_leaves_is_told_at_every_level(traced, slow_steps, shape):
    waiting = asyncio.create_task(_ignore(start(traced, shape, step_count=20)))
    await until(lambda: traced.spans.named("batch_step"))
    waiting.cancel()
    await asyncio.wait([waiting])
    await settled(traced)
    assert root_codes(traced) == ["CANCELLED"]
    assert denoise_codes(traced) == {"CLIENT CANCELLED", "SERVER CANCELLED"}


async def _ignore(call) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


@pytest.mark.parametrize("shape", ["unary", "stream"])
async def test_a_refusal_is_told_in_its_span(tiny, cache_dir, shape):
    overrides = {"orchestrator": {"tenant_in_flight_count": 1}}
    async with mesh_in_process([tiny], cache_dir, overrides=overrides) as mesh:
        first = asyncio.create_task(_ignore(start(mesh, "unary", step_count=20)))
        await until(lambda: mesh.spans.named("EncodeText"))
        assert await fail(start(mesh, shape)) == "RESOURCE_EXHAUSTED"
        await first
        await settled(mesh)
        assert sorted(root_codes(mesh)) == ["OK", "RESOURCE_EXHAUSTED"]


@pytest.mark.parametrize("shape", ["unary", "stream"])
async def test_a_stage_that_is_gone_is_told_at_every_level(tiny, cache_dir, shape):
    overrides = {"orchestrator": {"replica_absence_s": 0.2}}
    async with mesh_in_process([tiny], cache_dir, overrides=overrides) as mesh:
        # Not drained, which would close what keeps this test's spans.
        await mesh.hosts["diffusion"]._server.stop(0)
        assert await fail(start(mesh, shape)) == "UNAVAILABLE"
        await settled(mesh)
        assert root_codes(mesh) == ["UNAVAILABLE"]


async def test_a_mesh_whose_collector_is_dead_serves_all_the_same(tiny, cache_dir):
    # The orchestrator follows the stage's health to the end, which the grace is spent on.
    overrides = every_stage(grace_s=0.1)
    async with mesh_in_process([tiny], cache_dir, overrides=overrides) as mesh:
        for host in mesh.hosts.values():
            host._telemetry.export_to("http://127.0.0.1:1")
        answers = await asyncio.gather(*(mesh.generate(**FIELDS, step_count=2) for _ in range(8)))
        assert all(answer.images for answer in answers)
        started_at = time.perf_counter()
        await mesh.hosts["text_encoding"].drain()
        assert time.perf_counter() - started_at < 8, "an export gives up after ten"
        telemetry = mesh.hosts["text_encoding"]._telemetry
        await until(lambda: telemetry.lost_span_count > 0)


async def test_a_mesh_that_keeps_no_traces_says_where_they_are(tiny, cache_dir):
    overrides = {"orchestrator": {"otlp_endpoint": "http://127.0.0.1:1"}}
    async with mesh_in_process([tiny], cache_dir, overrides=overrides) as mesh:
        address = f"127.0.0.1:{mesh.hosts['orchestrator'].port}"
        async with open_channel(address, max_message_bytes=1 << 20) as channel:
            stub = inspection_grpc.TraceInspectionServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListTraces(inspection.ListTracesRequest())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "SANGSANG_OTLP_ENDPOINT" in refused.value.details()


async def test_traces_are_found_by_the_beginning_of_an_id(traced, viewer):
    for _ in range(2):
        answer = await traced.generate(**FIELDS, step_count=1)
    await settled(traced)
    for name in (answer.request_id, answer.request_id[:13].upper(), "last"):
        found = await viewer.GetTrace(inspection.GetTraceRequest(id=name))
        assert found.summary.request_id == answer.request_id
    found = await viewer.GetTrace(inspection.GetTraceRequest(id=found.summary.trace_id[:20]))
    assert found.summary.request_id == answer.request_id
    for name, code in (("ffff-no-such", "NOT_FOUND"), ("", "INVALID_ARGUMENT")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await viewer.GetTrace(inspection.GetTraceRequest(id=name))
        assert refused.value.code().name == code
    streamed = [one async for one in viewer.StreamTraces(inspection.StreamTracesRequest())]
    assert [one.summary.request_id for one in streamed][-1] == answer.request_id
    # Whoever looks leaves no trace.
    assert not traced.spans.named("TraceInspectionService/GetTrace")


async def test_the_command_line_shows_them(traced, tmp_path):
    answer = await traced.generate(**FIELDS, step_count=3)
    await settled(traced)
    address = f"127.0.0.1:{traced.hosts['orchestrator'].port}"

    async def run(*arguments: str, fails: bool = False) -> str:
        invoked = await asyncio.to_thread(
            CliRunner().invoke, app, ["trace", *arguments, "--address", address]
        )
        assert invoked.exit_code == int(fails), invoked.output
        return invoked.output

    listed = await run("ls")
    assert answer.request_id[:13] in listed
    assert "1 traces kept" in listed
    assert answer.request_id[:13] not in await run("ls", "--failed")
    shown = await run("show", answer.request_id[:8])
    for words in (answer.request_id, "call Denoise", "3 batch steps", "the time went: "):
        assert words in shown
    assert "batch step" in await run("show", "--steps")
    await run("show", "last", "--html", str(tmp_path / "a.html"))
    assert answer.request_id in (tmp_path / "a.html").read_text("utf-8")
    await run("show", "last", "--perfetto", str(tmp_path / "a.json"))
    events = json.loads((tmp_path / "a.json").read_text("utf-8"))["traceEvents"]
    assert {"device0", "orchestrator"} <= {
        one["args"].get("name") for one in events if "args" in one
    }
    assert "device0 0" in await run("lanes", "--last", "5m")
    assert "no kept trace" in await run("lanes", "--last", "1ms")
    assert "no trace or request" in await run("show", "ffff", fails=True)
