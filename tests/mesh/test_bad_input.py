"""Bad input is named in full, and the next good request is answered.

Run: pytest tests/mesh/test_bad_input.py
"""

import struct
import zlib

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from reference import gradient_png

GOOD = {"model_id": "tiny", "prompt": "a cat", "step_count": 2}


def huge_png() -> bytes:
    """A PNG of a few bytes that claims 30000x30000."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    chunk = struct.pack(">I", len(header)) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk


def bad_fields(error: grpc.aio.AioRpcError) -> dict[str, str]:
    found = {}
    for packed in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            found = {v.field: v.description for v in bad.field_violations}
    return found


async def refused(mesh, **fields) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await mesh.generate(**{**GOOD, **fields})
    assert (await mesh.generate(**GOOD)).images, "the same process answers the next good request"
    return failed.value


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": ""}, {"spec.prompt"}),
        ({"prompt": "x" * 1_000_000}, {"spec.prompt"}),
        ({"guidance_scale": float("nan")}, {"spec.guidance_scale"}),
        ({"step_count": 0}, {"spec.step_count"}),
        ({"step_count": 10**6}, {"spec.step_count"}),
        ({"width_px": 7, "height_px": 10**5}, {"spec.width_px", "spec.height_px"}),
        ({"seed": -1}, {"spec.seed"}),
        ({"scheduler": "magic"}, {"spec.scheduler"}),
        ({"mime_type": "image/tiff"}, {"spec.mime_type"}),
        ({"initial_image": {"content": gradient_png()[:100]}}, {"spec.initial_image.content"}),
        ({"initial_image": {"content": huge_png()}}, {"spec.initial_image.content"}),
        ({"initial_image": {"content": b"text " * 800_000}}, {"spec.initial_image.content"}),
        (
            {
                "prompt": "",
                "guidance_scale": float("nan"),
                "step_count": 10**6,
                "width_px": 7,
                "seed": -1,
                "scheduler": "magic",
                "mime_type": "image/tiff",
            },
            {
                "spec.prompt",
                "spec.guidance_scale",
                "spec.step_count",
                "spec.width_px",
                "spec.seed",
                "spec.scheduler",
                "spec.mime_type",
            },
        ),
    ],
)
async def test_every_bad_field_is_named(mesh, fields, named):
    error = await refused(mesh, **fields)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = bad_fields(error)
    assert set(found) == named
    assert all(found.values())


@pytest.mark.parametrize(
    "content", [gradient_png()[:100], huge_png(), b"text " * 800_000], ids=["cut", "huge", "text"]
)
async def test_a_broken_picture_is_named_with_the_other_bad_fields(mesh, content):
    error = await refused(mesh, prompt="", seed=-1, initial_image={"content": content})
    assert set(bad_fields(error)) == {"spec.prompt", "spec.seed", "spec.initial_image.content"}
    asked = mesh.spans.named("PrepareLatents", server=True)
    assert len(asked) == 1, "the stage was asked for the good request only"


async def test_a_bad_tenant_is_named(mesh):
    error = await refused(mesh, tenant="a b")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(bad_fields(error)) == {"sangsang-tenant"}


async def test_an_unknown_model_is_not_found(mesh):
    error = await refused(mesh, model_id="nonsense")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "tiny" in error.details()
