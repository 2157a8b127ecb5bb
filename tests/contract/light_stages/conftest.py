"""The three light stages, each hosted on loopback over one random model on real engines."""

from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import grpc
import pytest
from hosting import Spans, hosted
from random_models import make_random_model

from sangsang.services.postprocessing.servicer import PostprocessingStage
from sangsang.services.postprocessing.settings import PostprocessingSettings
from sangsang.services.preprocessing.servicer import PreprocessingStage
from sangsang.services.preprocessing.settings import PreprocessingSettings
from sangsang.services.text_encoding.servicer import TextEncodingStage
from sangsang.services.text_encoding.settings import TextEncodingSettings

STAGES = {
    "text_encoding": (TextEncodingStage, TextEncodingSettings),
    "preprocessing": (PreprocessingStage, PreprocessingSettings),
    "postprocessing": (PostprocessingStage, PostprocessingSettings),
}


class Served(NamedTuple):
    stage: Any
    channel: grpc.aio.Channel
    address: str


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
def make_stage():
    """Makes a stage without hosting it."""
    return lambda name: STAGES[name][0](STAGES[name][1]())


@pytest.fixture
def serve(random_model, spans):
    """Hosts a stage by name and yields the stage and a channel to it."""

    @asynccontextmanager
    async def serve(name, **settings):
        stage_class, settings_class = STAGES[name]
        chosen = settings_class(
            **{
                "models": (random_model,),
                "backend": "torch",
                "port": 0,
                "lame_duck_s": 0,
                "grace_s": 5,
                **settings,
            }
        )
        async with AsyncExitStack() as stack:
            stage = stage_class(chosen)
            host = await stack.enter_async_context(hosted(stage, chosen, spans))
            address = f"127.0.0.1:{host.port}"
            channel = grpc.aio.insecure_channel(
                address,
                options=[("grpc.max_receive_message_length", chosen.max_message_bytes)],
            )
            yield Served(stage, await stack.enter_async_context(channel), address)

    return serve
