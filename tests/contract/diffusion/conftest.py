"""The diffusion stage, hosted on loopback over a random model on its real engine."""

from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from hosting import Spans, hosted
from random_models import make_random_model

from sangsang.services.diffusion.servicer import DiffusionStage
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.tensors import to_proto
from sangsang.stages.v1alpha1 import diffusion_service_pb2 as messages
from sangsang.stages.v1alpha1 import diffusion_service_pb2_grpc as services

# Few enough that the tables are compiled in this process, which starts none.
MAX_STEP_COUNT = 24


class Served(NamedTuple):
    stage: Any
    stub: services.DiffusionServiceStub
    spans: Spans

    def loop(self, model_id="tiny"):
        return self.stage._models[model_id].loop


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def model(tmp_path_factory, cache_dir):
    """A model, built."""
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny", seed=1)
    build_model(ModelFolder.open(path), cache_dir=cache_dir, max_step_count=MAX_STEP_COUNT)
    return path


@pytest.fixture
def serve(model, cache_dir):
    """Hosts the stage and yields it with a stub."""

    @asynccontextmanager
    async def serve(*, observer=None, **options):
        settings = DiffusionSettings(
            **{"port": 0, "lame_duck_s": 0, "grace_s": 5, "cache_dir": cache_dir}
            | {"models": (model,)}
            | options
        )
        spans = Spans()
        async with AsyncExitStack() as stack:
            stage = DiffusionStage(settings, observer)
            host = await stack.enter_async_context(hosted(stage, settings, spans))
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{host.port}")
            await stack.enter_async_context(channel)
            yield Served(stage, services.DiffusionServiceStub(channel), spans)

    return serve


def tensors(seed=0, *, height=8, width=8, tokens=16):
    """Embeddings, negative embeddings, noise and a picture's latents, as arrays."""
    random = np.random.default_rng(seed)
    shapes = {
        "embeddings": (tokens, 24),
        "negative_embeddings": (tokens, 24),
        "noise": (4, height, width),
        "initial_latents": (4, height, width),
    }
    return {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture
def request_of():
    """Makes a good request; keywords change fields, None leaves one out."""

    def request_of(seed=0, *, height=8, width=8, picture=False, **changes):
        arrays = tensors(abs(seed), height=height, width=width)
        if not picture:
            del arrays["initial_latents"]
        fields = {
            "model_id": "tiny",
            "scheduler": "ddim",
            "step_count": 4,
            "strength": 0.6,
            "guidance_scale": 5.0,
            "seed": seed,
            **{name: to_proto(array) for name, array in arrays.items()},
            **changes,
        }
        return messages.DenoiseRequest(**{k: v for k, v in fields.items() if v is not None})

    return request_of
