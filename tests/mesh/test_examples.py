"""The examples for callers in Python and Node.js, each as a program of its own, on a real mesh.

Run: pytest tests/mesh/test_examples.py
"""

import asyncio
import json
import re
import shutil
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from meshes import mesh_in_process, slow_down, speed_up, until

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

PROTOS = Path(__file__).parents[2] / "protos"
EXAMPLES = PROTOS / "examples"
SERVICE_CONFIG = PROTOS / "sangsang/imaging/v1/image_generation_service_config.json"
NODE = shutil.which("node")
MODULES = EXAMPLES / "node" / "node_modules"
STEPS = 10
LANGUAGES = [
    "python",
    pytest.param(
        "node",
        marks=pytest.mark.skipif(
            not (NODE and MODULES.is_dir()),
            reason="needs node and npm; then `make test` installs the rest",
        ),
    ),
]


@dataclass
class Ended:
    """An example that has run."""

    code: int
    printed: str
    complained: str
    picture: Path


@dataclass
class Line:
    """A way to a mesh that breaks: `cut_after` says after how many bytes of its answers.

    Attributes:
        cut_after: for each connection in turn; those that follow hold.
        connection_count: how many have been made.
    """

    cut_after: list[int]
    port: int = 0
    connection_count: int = 0
    tasks: set[asyncio.Task] = field(default_factory=set)

    async def carry(self, reader, writer, target):
        self.connection_count += 1
        left = self.cut_after.pop(0) if self.cut_after else None
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        ways = [
            asyncio.create_task(pump(reader, far_writer, None)),
            asyncio.create_task(pump(far_reader, writer, left)),
        ]
        self.tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for one in (writer, far_writer):
            one.close()


async def pump(reader, writer, left):
    with suppress(ConnectionError):
        while data := await reader.read(4096):
            if left is not None and (left := left - len(data)) < 0:
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def line_to(target, cut_after):
    line = Line(cut_after)
    server = await asyncio.start_server(
        lambda reader, writer: line.carry(reader, writer, target), "127.0.0.1", 0
    )
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        for task in line.tasks:
            task.cancel()


async def ended(program, script, *options):
    """Returns what a program has printed, and its exit status."""
    process = await asyncio.create_subprocess_exec(
        program,
        str(script),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complained = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, printed.decode(), complained.decode()


@pytest.fixture(params=LANGUAGES)
def run(request, tmp_path):
    """Runs an example to its end."""
    suffix, program = {"python": (".py", sys.executable), "node": (".js", NODE)}[request.param]

    async def run(name, port, *options):
        script = (EXAMPLES / request.param / name).with_suffix(suffix)
        picture = tmp_path / "picture.png"
        place = ("--address", f"127.0.0.1:{port}", "--model", "tiny", "--output", str(picture))
        return Ended(*await ended(program, script, *place, *options), picture)

    return run


def port_of(mesh):
    return mesh.hosts["orchestrator"].port


async def expected(mesh, tier):
    fields = {"model_id": "tiny", "prompt": "a rocket on a yellow background", "seed": 7}
    response = await mesh.generate(**fields, tier=tier)
    return response.images[0].data.content


async def test_generate_makes_the_picture_of_its_seed(mesh, run):
    ended = await run("generate", port_of(mesh))
    assert (ended.code, ended.complained) == (0, "")
    assert ended.picture.read_bytes() == await expected(mesh, imaging.TIER_FREE)
    for stage in ("text_encoding", "preprocessing", "diffusion", "postprocessing"):
        assert re.search(rf"  {stage}: \d+ ms", ended.printed)


async def test_generate_names_the_fields_that_are_wrong(mesh, run):
    ended = await run("generate", port_of(mesh), "--prompt", "", "--seed=-3")
    assert ended.code == 1
    assert ended.complained.startswith("INVALID_ARGUMENT INVALID_SPEC\n")
    assert "\n  spec.prompt: is required, 1 to 2000 characters\n" in ended.complained
    assert "\n  spec.seed: must be from 0 to 9223372036854775807, got -3\n" in ended.complained


async def test_stream_shows_every_step_and_previews(mesh, run):
    ended = await run("stream", port_of(mesh))
    assert (ended.code, ended.complained) == (0, "")
    lines = ended.printed.splitlines()
    assert re.fullmatch(r"accepted [0-9a-f-]{36}, 0 ahead", lines[0])
    steps = [line for line in lines if line.startswith("diffusion ")]
    # A reader that is slow misses some of them.
    assert steps[-1] == f"diffusion {STEPS} of {STEPS}"
    assert re.fullmatch(r"done in \d+ ms", lines[-1])
    assert ended.picture.read_bytes() == await expected(mesh, imaging.TIER_PRO)
    preview = ended.picture.with_suffix(f".{STEPS}.jpg")
    assert preview.read_bytes().startswith(b"\xff\xd8\xff")
    assert f"  preview {preview}" in lines


async def test_stream_goes_on_where_a_connection_breaks(slowed, run):
    mesh = slowed
    async with line_to(port_of(mesh), [2000]) as line:
        ended = await run("stream", line.port)
    assert (ended.code, ended.complained) == (0, "")
    assert "the stream broke; joining the request again" in ended.printed
    assert line.connection_count == 2
    assert ended.picture.read_bytes() == await expected(mesh, imaging.TIER_PRO)


async def test_cancel_stops_the_work_within_a_step(slowed, run):
    mesh = slowed
    before = mesh.counts().step_count
    ended = await run("cancel", port_of(mesh))
    assert (ended.code, ended.complained) == (0, "")
    [step] = re.fullmatch(rf"cancelled after step (\d+) of {STEPS}\n", ended.printed).groups()
    await until(lambda: mesh.counts().left_job_count == 1)
    assert mesh.counts().wasted_step_count <= 1
    # It was told of a step while the next one ran.
    assert int(step) <= mesh.counts().step_count - before < STEPS


async def test_retry_takes_a_connection_that_breaks_for_no_failure(mesh, run):
    async with line_to(port_of(mesh), [100] * 3) as line:
        ended = await run("retry", line.port)
    assert (ended.code, ended.complained) == (0, "")
    assert line.connection_count == 4
    assert ended.picture.read_bytes() == await expected(mesh, imaging.TIER_FREE)


async def test_retry_comes_again_when_an_overload_says(tiny, cache_dir, run):
    limits = {"orchestrator": {"tenant_in_flight_count": 1}}
    async with mesh_in_process([tiny], cache_dir, overrides=limits) as mesh:
        slow_down(mesh, 0.5)
        running = mesh.stream(model_id="tiny", prompt="a cat", step_count=24)
        await anext(aiter(running))
        example = asyncio.create_task(run("retry", port_of(mesh)))
        await until(lambda: refused(mesh), timeout_s=60)
        running.cancel()
        speed_up(mesh)
        ended = await example
        picture = await expected(mesh, imaging.TIER_FREE)
    assert (ended.code, ended.complained) == (0, "")
    assert re.match(r"RESOURCE_EXHAUSTED: .*; again in \d\.\d\d s\n", ended.printed)
    assert ended.picture.read_bytes() == picture


def refused(mesh):
    """Whether a unary call has ended; while the stream runs, only by a refusal."""
    return bool(mesh.spans.named("ImageGenerationService/GenerateImages", server=True))


async def test_retry_gives_up_when_its_time_is_over(tiny, cache_dir, run):
    limits = {"orchestrator": {"tenant_rate_per_s": 0.01, "tenant_burst_count": 1}}
    async with mesh_in_process([tiny], cache_dir, overrides=limits) as mesh:
        await expected(mesh, imaging.TIER_FREE)
        ended = await run("retry", port_of(mesh), "--timeout", "5")
    assert (ended.code, ended.printed) == (1, "")
    assert ended.complained.startswith("RESOURCE_EXHAUSTED TENANT_RATE\n")


async def test_discover_needs_nothing_but_the_address(mesh):
    place = ("--address", f"127.0.0.1:{port_of(mesh)}")
    code, printed, complained = await ended(
        sys.executable, EXAMPLES / "python" / "discover.py", *place
    )
    assert (code, complained) == (0, "")
    assert "\nsangsang.imaging.v1.ImageGenerationService\n" in f"\n{printed}"
    method = "StreamGenerateImages(StreamGenerateImagesRequest)"
    assert f"  {method} -> stream StreamGenerateImagesResponse\n" in printed
    models = json.loads(printed[printed.index("\n{") :])
    assert [model["modelId"] for model in models["models"]] == ["tiny"]


def test_the_service_config_names_what_the_service_has():
    config = json.loads(SERVICE_CONFIG.read_text("utf-8"))
    service = imaging.DESCRIPTOR.services_by_name["ImageGenerationService"]
    assert config["healthCheckConfig"]["serviceName"] == service.full_name
    [policy] = config["methodConfig"]
    assert policy["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    named = {(one["service"], one["method"]) for one in policy["name"]}
    unary = [method.name for method in service.methods if not method.server_streaming]
    assert named == {(service.full_name, name) for name in unary}
