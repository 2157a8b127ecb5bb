"""One call of each stage, as the orchestrator makes it for a picture of the model's own size."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from sangsang.stages.v1alpha1 import (
    diffusion_service_pb2,
    diffusion_service_pb2_grpc,
    postprocessing_service_pb2,
    postprocessing_service_pb2_grpc,
    preprocessing_service_pb2,
    preprocessing_service_pb2_grpc,
    text_encoding_service_pb2,
    text_encoding_service_pb2_grpc,
)

from ...runtime.models.folder import ModelFolder
from ...runtime.models.profile import StageName

# Guided steps of one call of the diffusion stage: few, so that what surrounds them counts little.
STEP_COUNT = 4
_TIMEOUT_S = 60.0


def make_calls(
    folder: ModelFolder, scheduler: str, channels: Mapping[StageName, grpc.Channel]
) -> Mapping[StageName, Callable[[], object]]:
    """Returns a function for each stage that makes a call and returns when it is answered.

    Each sends what the stages before it gave.

    Args:
        folder: the model.
        scheduler: name of a sampler that it was built with.
        channels: to each stage.
    """
    text: Any = text_encoding_service_pb2_grpc.TextEncodingServiceStub(channels["text_encoding"])
    start: Any = preprocessing_service_pb2_grpc.PreprocessingServiceStub(channels["preprocessing"])
    steps: Any = diffusion_service_pb2_grpc.DiffusionServiceStub(channels["diffusion"])
    end: Any = postprocessing_service_pb2_grpc.PostprocessingServiceStub(channels["postprocessing"])
    numbers = itertools.count()

    def encode() -> Any:
        # A text of its own each time: known ones come from a cache.
        request = text_encoding_service_pb2.EncodeTextRequest(
            model_id=folder.model_id, text=f"a cat number {next(numbers)}"
        )
        return text.EncodeText(request, timeout=_TIMEOUT_S).embeddings

    def prepare() -> Any:
        request = preprocessing_service_pb2.PrepareLatentsRequest(
            model_id=folder.model_id,
            width_px=folder.default_width_px,
            height_px=folder.default_height_px,
            seed=next(numbers),
        )
        return start.PrepareLatents(request, timeout=_TIMEOUT_S).noise

    embeddings, noise = encode(), prepare()

    def denoise() -> Any:
        request = diffusion_service_pb2.DenoiseRequest(
            model_id=folder.model_id,
            scheduler=scheduler,
            step_count=STEP_COUNT,
            guidance_scale=5.0,
            embeddings=embeddings,
            negative_embeddings=embeddings,
            noise=noise,
        )
        return list(steps.Denoise(request, timeout=_TIMEOUT_S))[-1].result.latents

    latents = denoise()

    def decode() -> Any:
        request = postprocessing_service_pb2.DecodeLatentsRequest(
            model_id=folder.model_id, latents=latents, mime_type="image/png"
        )
        return end.DecodeLatents(request, timeout=_TIMEOUT_S).content

    return {
        "text_encoding": encode,
        "preprocessing": prepare,
        "diffusion": denoise,
        "postprocessing": decode,
    }
