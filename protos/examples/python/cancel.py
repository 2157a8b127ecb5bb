"""Leaves a request in the middle: its work stops within one denoising step."""

import sys

import grpc
from client import arguments, explain, open_stub, spec_of

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

wish = arguments(__doc__, tier="pro")
request = imaging.StreamGenerateImagesRequest(spec=spec_of(wish))
with open_stub(wish.address) as stub:
    call = stub.StreamGenerateImages(request, timeout=wish.timeout)
    try:
        for event in call:
            moved = event.progress
            if moved.stage == imaging.STAGE_DIFFUSION and moved.completed_step_count >= 3:
                # The same happens to a unary call: `future = stub.GenerateImages.future(request)`,
                # then `future.cancel()`; and to every call whose process ends.
                call.cancel()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.CANCELLED:
            sys.exit(explain(error))
        print(f"cancelled after step {moved.completed_step_count} of {moved.step_count}")
    else:
        sys.exit("it was done before it could be cancelled")
