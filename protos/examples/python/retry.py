"""Retries that help: the connection's by the service config, an overload's when the server says."""

import random
import sys
import time
import uuid

import grpc
from client import arguments, explain, open_stub, retry_delay_s, save, spec_of

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub


def generate(
    stub: ImageGenerationServiceStub, request: imaging.GenerateImagesRequest, timeout_s: float
) -> imaging.GenerateImagesResponse:
    """Returns the response, of the first call or of one that the server asked for.

    Raises:
        grpc.RpcError: retrying does not help, or would take longer than `timeout_s` in all.
    """
    ends_s = time.monotonic() + timeout_s
    while True:
        try:
            return stub.GenerateImages(request, timeout=ends_s - time.monotonic())
        except grpc.RpcError as error:
            # Without a hint it was no overload, or one that coming again cannot mend. UNAVAILABLE
            # has been retried by then, as the service config says.
            hint_s = retry_delay_s(error)
            # Not all of those who were refused together come again together.
            delay_s = None if hint_s is None else hint_s * random.uniform(1.0, 1.5)
            if delay_s is None or time.monotonic() + delay_s >= ends_s:
                raise
            print(f"{error.code().name}: {error.details()}; again in {delay_s:.2f} s")
            time.sleep(delay_s)


wish = arguments(__doc__)
# With an ID a retry never does the work twice.
request = imaging.GenerateImagesRequest(spec=spec_of(wish), request_id=str(uuid.uuid4()))
with open_stub(wish.address) as stub:
    try:
        response = generate(stub, request, wish.timeout)
    except grpc.RpcError as error:
        sys.exit(explain(error))
save(response.images[0], wish.output)
