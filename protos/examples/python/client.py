"""A client of the mesh: what the examples beside this file share, and yours may start from."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc

PROTOS = Path(__file__).parents[2]
SERVICE_CONFIG = PROTOS / "sangsang/imaging/v1/image_generation_service_config.json"
TIERS = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}


@contextmanager
def open_stub(address: str) -> Iterator[imaging_grpc.ImageGenerationServiceStub]:
    """Yields a stub that retries UNAVAILABLE by itself and leaves servers that drain alone."""
    # As one line: gRPC takes the service config as text. Messages may carry large images.
    config = json.dumps(json.loads(SERVICE_CONFIG.read_text("utf-8")))
    options = [("grpc.service_config", config), ("grpc.max_receive_message_length", 64 << 20)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield imaging_grpc.ImageGenerationServiceStub(channel)


def arguments(description: str, *, tier: str = "free") -> Namespace:
    """Returns what every example takes on its command line."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--address", default="127.0.0.1:50050", help="of the mesh")
    parser.add_argument("--model", default="pocket", help="one of `discover.py`'s models")
    parser.add_argument("--prompt", default="a rocket on a yellow background")
    parser.add_argument("--seed", type=int, default=7, help="the same one makes the same picture")
    parser.add_argument("--tier", choices=TIERS, default=tier)
    parser.add_argument("--output", type=Path, default=Path("rocket.png"))
    parser.add_argument("--timeout", type=float, default=60, help="seconds, for all attempts")
    return parser.parse_args()


def spec_of(wish: Namespace) -> imaging.ImageSpec:
    """Returns the request's core from the command line."""
    tier = TIERS[wish.tier]
    return imaging.ImageSpec(model_id=wish.model, prompt=wish.prompt, seed=wish.seed, tier=tier)


def save(image: imaging.GeneratedImage, path: Path) -> None:
    """Writes a picture and says what it is."""
    path.write_bytes(image.data.content)
    size = f"{image.data.width_px}x{image.data.height_px}"
    print(f"{path}: {size} {image.data.mime_type}, seed {image.seed}")


def explain(error: grpc.RpcError) -> str:
    """Returns what a failed call says: its code and reason, and the fields that were wrong."""
    lines = [f"{error.code().name} {_detail(error, error_details_pb2.ErrorInfo).reason}"]
    lines += [error.details()]
    bad = _detail(error, error_details_pb2.BadRequest)
    lines += [f"  {one.field}: {one.description}" for one in bad.field_violations]
    return "\n".join(lines)


def retry_delay_s(error: grpc.RpcError) -> float | None:
    """Returns when the server asks to be called again; None if it does not."""
    retry = _detail(error, error_details_pb2.RetryInfo)
    if not retry.HasField("retry_delay"):
        return None
    return retry.retry_delay.ToTimedelta().total_seconds()


def _detail(error: grpc.RpcError, kind: type[Message]) -> Message:
    """Returns a call's error detail of a kind, which is empty if there is none."""
    found, status = kind(), rpc_status.from_call(error)
    for packed in status.details if status else ():
        if packed.Unpack(found):
            break
    return found
