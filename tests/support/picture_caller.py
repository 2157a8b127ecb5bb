"""Asks a mesh for pictures at once and prints what came of each: ADDRESS COUNT TIMEOUT_S TRACE_ID.

A process of its own, since it runs inside another network namespace than the tests.
"""

import asyncio
import hashlib
import json
import sys
import time

import grpc

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc

SPAN_ID = "00f067aa0ba902b7"


async def ask(stub, seed: int, timeout_s: float, trace_id: str) -> dict[str, object]:
    spec = imaging.ImageSpec(
        model_id="pocket", prompt="a cat", tier=imaging.TIER_FREE, seed=seed, image_count=1
    )
    started_at = time.perf_counter()
    fields = {"seed": seed, "code": "OK", "details": "", "digest": ""}
    try:
        response = await stub.GenerateImages(
            imaging.GenerateImagesRequest(spec=spec),
            timeout=timeout_s,
            metadata=[("traceparent", f"00-{trace_id}-{SPAN_ID}-01")],
        )
    except grpc.aio.AioRpcError as error:
        fields.update(code=error.code().name, details=error.details())
    else:
        fields["digest"] = hashlib.sha256(response.images[0].data.content).hexdigest()
    return {**fields, "seconds": time.perf_counter() - started_at}


async def main(address: str, count: str, timeout_s: str, trace_id: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        calls = (ask(stub, seed, float(timeout_s), trace_id) for seed in range(1, int(count) + 1))
        print(json.dumps(await asyncio.gather(*calls)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
