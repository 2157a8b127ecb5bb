"""`sangsang generate`: a picture from the command line."""

import os
import re
from contextlib import ExitStack
from pathlib import Path

import grpc
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc

from ..local_mesh import LocalMesh
from . import options
from .building import build_missing
from .console import (
    DEFAULT_ADDRESS,
    DEFAULT_CACHE,
    Address,
    CacheDir,
    ModelFolders,
    describe,
    err,
    fail,
    model_paths,
    out,
)
from .up import mesh_table

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/avif": "avif"}


def generate(
    prompt: options.Prompt,
    output: options.Output = None,
    model_id: options.ModelId = "",
    negative: options.Negative = "",
    tier: options.Tier = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    scheduler: options.Scheduler = "",
    seed: options.Seed = None,
    count: options.Count = 1,
    width: options.SidePx = None,
    height: options.SidePx = None,
    image: options.InitialImage = None,
    strength: options.Strength = 0.8,
    file_format: options.FileFormat = options.FormatChoice.png,
    quality: options.Quality = None,
    timeout: options.Timeout = 120.0,
    address: Address = DEFAULT_ADDRESS,
    local: options.Local = False,
    model: ModelFolders = None,
    cache_dir: CacheDir = DEFAULT_CACHE,
) -> None:
    """Makes pictures from a prompt and says how long each stage took."""
    spec = imaging.ImageSpec(
        model_id=model_id,
        prompt=prompt,
        negative_prompt=negative,
        width_px=width,
        height_px=height,
        step_count=steps,
        guidance_scale=guidance,
        seed=seed,
        image_count=count,
        mime_type=f"image/{file_format.value}",
        quality=quality,
        tier=f"TIER_{tier.value.upper()}" if tier else None,
        scheduler=scheduler,
        initial_image=_initial_image(image, strength),
    )
    with ExitStack() as stack:
        if local:
            address = _start_mesh(stack, model_paths(model), cache_dir)
        try:
            images, stats = _request(spec, address, timeout)
        except grpc.RpcError as error:
            raise typer.Exit(fail(describe(error, address))) from None
        files = _write(images, output, prompt)
        _report(files, images, stats)


def _initial_image(path: Path | None, strength: float) -> imaging.InitialImage | None:
    if path is None:
        return None
    return imaging.InitialImage(content=path.read_bytes(), strength=strength)


def _start_mesh(stack: ExitStack, models: list[Path], cache_dir: Path) -> str:
    build_missing(models, cache_dir)
    with err.status("starting four stage services and the orchestrator ..."):
        mesh = stack.enter_context(
            LocalMesh(models, cache_dir=cache_dir, environment={"SANGSANG_LOG_LEVEL": "warning"})
        )
    out.print(mesh_table(mesh.processes))
    return mesh.address


def _request(
    spec: imaging.ImageSpec, address: str, timeout_s: float
) -> tuple[list[imaging.GeneratedImage], imaging.GenerationStats]:
    limits = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    images: list[imaging.GeneratedImage] = []
    stats = imaging.GenerationStats()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        grpc.insecure_channel(address, options=limits) as channel,
        Progress(*columns, console=err) as bar,
    ):
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        if not spec.model_id:
            spec.model_id = _only_model(stub)
        request = imaging.StreamGenerateImagesRequest(spec=spec)
        task = bar.add_task("denoising", total=None)
        done: dict[int, int] = {}
        for event in stub.StreamGenerateImages(request, timeout=timeout_s):
            kind = event.WhichOneof("event")
            if kind == "progress":
                done[event.progress.image_index] = event.progress.completed_step_count
                total = event.progress.step_count * spec.image_count
                bar.update(task, completed=sum(done.values()), total=total)
            elif kind == "image":
                images.append(event.image)
            elif kind == "summary":
                stats = event.summary
    return sorted(images, key=lambda image: image.index), stats


def _only_model(stub: imaging_grpc.ImageGenerationServiceStub) -> str:
    models = stub.ListModels(imaging.ListModelsRequest(), timeout=5).models
    if len(models) != 1:
        names = ", ".join(model.model_id for model in models) or "none"
        raise typer.Exit(fail(f"this mesh serves several models ({names}); choose with --model-id"))
    return models[0].model_id


def _write(images: list[imaging.GeneratedImage], output: Path | None, prompt: str) -> list[Path]:
    slug = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60] or "picture"
    files: list[Path] = []
    for image in images:
        path = output or Path(f"{slug}.{_EXTENSIONS[image.data.mime_type]}")
        if len(images) > 1:
            path = path.with_name(f"{path.stem}-{image.index}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data.content)
        files.append(path)
    return files


def _report(
    files: list[Path], images: list[imaging.GeneratedImage], stats: imaging.GenerationStats
) -> None:
    table = Table("stage", "time", "compute", "engine")
    for stage in stats.stages:
        table.add_row(
            imaging.Stage.Name(stage.stage).removeprefix("STAGE_").lower().replace("_", " "),
            f"{stage.duration.ToTimedelta().total_seconds() * 1000:.1f} ms",
            f"{stage.compute_seconds * 1000:.1f} ms",
            f"{stage.engine} {stage.precision}".strip(),
        )
    total_ms = stats.total_duration.ToTimedelta().total_seconds() * 1000
    table.add_row(
        "[bold]whole request[/bold]",
        f"{total_ms:.1f} ms",
        f"{stats.compute_seconds * 1000:.1f} ms",
        "",
    )
    out.print(table)
    used = stats.settings
    out.print(
        f"{used.step_count} steps of {used.scheduler}, guidance {used.guidance_scale:g}, "
        f"{stats.unet_evaluation_count} UNet evaluations",
        highlight=False,
    )
    if stats.dropped_token_count:
        err.print(
            f"[yellow]the prompt was too long: {stats.dropped_token_count} tokens were cut[/yellow]"
        )
    for path, image in zip(files, images, strict=True):
        shown = os.path.relpath(path)
        size = f"{image.data.width_px}x{image.data.height_px}"
        out.print(f"[bold green]{shown}[/bold green]  {size}, seed {image.seed}", highlight=False)
