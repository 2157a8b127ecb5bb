"""`TextEncodingService`: finds the model's encoder, calls it, converts."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from opentelemetry import trace

from sangsang.stages.v1alpha1 import text_encoding_service_pb2 as messages
from sangsang.stages.v1alpha1 import text_encoding_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.engines.loading import load_engine
from ..runtime.errors import ModelNotFound, ModelNotReady, StageUnavailable
from ..runtime.models.folder import ModelFolder
from ..runtime.open_inference import (
    ServedEngine,
    ServerIdentity,
    WorkerRunner,
    open_inference_handler,
)
from ..runtime.telemetry import Telemetry
from ..runtime.worker import EngineWorker
from .converters import to_response
from .embedding_cache import EmbeddingCache
from .encoder import TextEncoder
from .settings import TextEncodingSettings
from .tokenizer import ClipTokenizer

MAX_BATCH_SIZE = 8

_log = structlog.get_logger()


class TextEncodingStage(services.TextEncodingServiceServicer):
    """The text encoding service of one process, all its models included."""

    name = "text_encoding"
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["TextEncodingService"].full_name,
    )

    def __init__(self, settings: TextEncodingSettings) -> None:
        self._settings = settings
        self._worker = EngineWorker(self.name, max_pending=settings.max_pending_calls)
        self._cache = EmbeddingCache(
            entry_limit=settings.embedding_cache_entries,
            byte_limit=settings.embedding_cache_bytes,
        )
        self._encoders: dict[str, TextEncoder] = {}
        self._loaded = False

    async def EncodeText(  # noqa: N802 gRPC's name
        self,
        request: messages.EncodeTextRequest,
        context: grpc.aio.ServicerContext,  # noqa: ARG002 the interceptor's business
    ) -> messages.EncodeTextResponse:
        """Returns the embeddings of one text."""
        encoder = self._find(request.model_id)
        encoding = await encoder.encode(request.text)
        trace.get_current_span().set_attributes(
            {
                telemetry.CACHE_HIT: encoding.cache_hit,
                telemetry.QUEUE_SECONDS: encoding.queue_seconds,
                telemetry.COMPUTE_SECONDS: encoding.compute_seconds,
            }
        )
        return to_response(encoding, encoder.engine)

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:  # noqa: ARG002
        """Registers the service, and its engines over the Open Inference Protocol."""
        services.add_TextEncodingServiceServicer_to_server(self, server)
        identity = ServerIdentity(f"sangsang-{self.name}", version("sangsang"))
        handler = open_inference_handler(
            self._served_engines, ready=lambda: self._loaded, identity=identity
        )
        server.add_generic_rpc_handlers((handler,))

    async def load(self) -> None:
        """Loads every model and runs each encoder once.

        Raises:
            ModelNotReady: there is no model, one cannot be served, or two have the same ID.
        """
        if not self._settings.models:
            raise ModelNotReady("no model to serve; set SANGSANG_MODELS to its folder")
        for path in self._settings.models:
            model_id, encoder = await self._worker.run(self._open, path)
            if model_id in self._encoders:
                raise ModelNotReady(f"{path}: there is another model {model_id!r}; rename one")
            self._encoders[model_id] = encoder
            await encoder.warm_up()
            _log.info("model_loaded", model_id=model_id, engine=encoder.engine.backend)
        self._loaded = True

    async def close(self) -> None:
        """Waits for what runs and frees the engines."""
        self._loaded = False
        await asyncio.to_thread(self._worker.close)
        for encoder in self._encoders.values():
            encoder.engine.close()

    def _open(self, path: Path) -> tuple[str, TextEncoder]:
        folder = ModelFolder.open(path)
        settings = self._settings
        engine = load_engine(
            folder,
            "text_encoder",
            backend=settings.backend,
            threads=settings.engine_threads,
            cache=settings.cache_dir,
        )
        encoder = TextEncoder(
            engine,
            ClipTokenizer.from_folder(folder.path / "tokenizer", folder.token_limit),
            digest=folder.digest("text_encoder"),
            worker=self._worker,
            cache=self._cache,
        )
        return folder.model_id, encoder

    def _find(self, model_id: str) -> TextEncoder:
        """Returns a model's encoder, and notes the model in the span and the log.

        Raises:
            StageUnavailable: the models are still being loaded.
            ModelNotFound: there is no such model.
        """
        if not self._loaded:
            raise StageUnavailable("the service is still loading its models", retry_delay_s=1.0)
        encoder = self._encoders.get(model_id)
        if encoder is None:
            raise ModelNotFound(model_id, sorted(self._encoders))
        structlog.contextvars.bind_contextvars(model_id=model_id)
        trace.get_current_span().set_attributes(
            {
                telemetry.MODEL_ID: model_id,
                telemetry.STAGE: self.name,
                telemetry.ENGINE: encoder.engine.backend,
                telemetry.PRECISION: encoder.engine.precision,
            }
        )
        return encoder

    def _served_engines(self) -> dict[str, ServedEngine]:
        runner = WorkerRunner(self._worker)
        return {
            f"{model_id}.{encoder.engine.name}": ServedEngine(
                encoder.engine, runner, max_batch_size=MAX_BATCH_SIZE
            )
            for model_id, encoder in self._encoders.items()
        }
