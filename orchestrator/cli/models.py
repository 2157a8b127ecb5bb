"""`sangsang models`: what a running mesh serves."""

import grpc
import typer
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc

from .console import DEFAULT_ADDRESS, Address, describe, fail, out


def models(address: Address = DEFAULT_ADDRESS) -> None:
    """Lists the models of a running mesh, their tiers, schedulers and limits."""
    with grpc.insecure_channel(address) as channel:
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        try:
            response = stub.ListModels(imaging.ListModelsRequest(), timeout=5)
        except grpc.RpcError as error:
            raise typer.Exit(fail(describe(error, address))) from None
    for model in response.models:
        _print_model(model)


def _print_model(model: imaging.Model) -> None:
    limits = model.limits
    out.print(f"[bold]{model.model_id}[/bold]  {model.description}", highlight=False)
    table = Table("tier", "steps", "most", "guidance", "scheduler", "weights", "UNet evaluations")
    for tier in model.tiers:
        name = imaging.Tier.Name(tier.tier).removeprefix("TIER_").lower()
        default = " (default)" if tier.tier == model.default_tier else ""
        table.add_row(
            f"{name}{default}",
            str(tier.step_count),
            str(tier.max_step_count),
            f"{tier.guidance_scale:g}",
            tier.scheduler,
            tier.weights,
            str(tier.unet_evaluation_count),
        )
    out.print(table)
    out.print(f"  schedulers  {', '.join(model.schedulers)}", highlight=False)
    out.print(f"  weights     {', '.join(model.weights)}", highlight=False)
    out.print(
        f"  size        {limits.default_width_px}x{limits.default_height_px} by default, "
        f"{limits.min_width_px}x{limits.min_height_px} to "
        f"{limits.max_width_px}x{limits.max_height_px}, "
        f"multiples of {limits.size_multiple_px}\n"
        f"  prompt      {limits.max_token_count} tokens\n"
        f"  images      up to {limits.max_image_count} a request",
        highlight=False,
    )
