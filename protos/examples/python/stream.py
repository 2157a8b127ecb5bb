"""Progress, previews and the picture as they come; a stream that breaks is taken up again."""

import sys
import uuid
from collections.abc import Iterator

import grpc
from client import arguments, explain, open_stub, save, spec_of

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub

ATTEMPTS = 3

wish = arguments(__doc__, tier="pro")
# With an ID the call may be repeated: it joins the request that runs, or gets its result again.
request = imaging.StreamGenerateImagesRequest(
    spec=spec_of(wish), request_id=str(uuid.uuid4()), preview_interval_step_count=5
)


def events(stub: ImageGenerationServiceStub) -> Iterator[imaging.StreamGenerateImagesResponse]:
    """Yields the events of the stream, and of the next one where a connection was lost."""
    for attempt in range(ATTEMPTS):
        try:
            yield from stub.StreamGenerateImages(request, timeout=wish.timeout)
        except grpc.RpcError as error:
            # gRPC retries a stream only until its first event, so this is ours to do.
            if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt + 1 == ATTEMPTS:
                raise
            print("the stream broke; joining the request again")
        else:
            return


def show(event: imaging.StreamGenerateImagesResponse) -> None:
    """Prints one event; previews and the picture become files."""
    match event.WhichOneof("event"):
        case "accepted":
            print(f"accepted {event.accepted.request_id}, {event.accepted.queue_position} ahead")
        case "progress":
            moved = event.progress
            name = imaging.Stage.Name(moved.stage).removeprefix("STAGE_").lower()
            print(f"{name} {moved.completed_step_count} of {moved.step_count}")
            if moved.preview.content:
                path = wish.output.with_suffix(f".{moved.completed_step_count}.jpg")
                path.write_bytes(moved.preview.content)
                print(f"  preview {path}")
        case "image":
            save(event.image, wish.output)
        case "summary":
            print(f"done in {event.summary.total_duration.ToMilliseconds()} ms")


with open_stub(wish.address) as stub:
    try:
        for event in events(stub):
            show(event)
    except grpc.RpcError as error:
        sys.exit(explain(error))
