"""One picture, when it is finished."""

import sys

import grpc
from client import arguments, explain, open_stub, save, spec_of

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

wish = arguments(__doc__)
request = imaging.GenerateImagesRequest(spec=spec_of(wish))
with open_stub(wish.address) as stub:
    try:
        # Always with a deadline: what cannot be done in its time is refused at once, and what the
        # deadline overtakes stops within one step.
        response = stub.GenerateImages(request, timeout=wish.timeout)
    except grpc.RpcError as error:
        sys.exit(explain(error))
save(response.images[0], wish.output)
for stage in response.stats.stages:
    name = imaging.Stage.Name(stage.stage).removeprefix("STAGE_").lower()
    print(f"  {name}: {stage.duration.ToMilliseconds()} ms")
