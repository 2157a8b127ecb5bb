"""`TextEncodingService`: finds the model's encoder, calls it, converts."""

from collections.abc import Sequence
from pathlib import Path

import grpc
from opentelemetry import trace

from sangsang.stages.v1alpha1 import text_encoding_service_pb2 as messages
from sangsang.stages.v1alpha1 import text_encoding_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.engines.engine import Engine
from ..runtime.model_stage import ModelStage
from ..runtime.models.folder import ModelFolder
from ..runtime.telemetry import Telemetry
from ..runtime.worker import EngineWorker
from .converters import to_response
from .embedding_cache import EmbeddingCache
from .encoder import TextEncoder
from .settings import TextEncodingSettings
from .tokenizer import ClipTokenizer

MAX_BATCH_SIZE = 8


class TextEncodingStage(ModelStage[TextEncoder], services.TextEncodingServiceServicer):
    """The text encoding service of one process, all its models included."""

    name = "text_encoding"
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["TextEncodingService"].full_name,
    )

    def __init__(self, settings: TextEncodingSettings) -> None:
        self._settings = settings
        worker = EngineWorker(self.name, max_pending=settings.max_pending_calls)
        super().__init__(settings, worker, max_batch_size=MAX_BATCH_SIZE)
        self._cache = EmbeddingCache(
            entry_limit=settings.embedding_cache_entries,
            byte_limit=settings.embedding_cache_bytes,
        )

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

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the service, and its engines over the Open Inference Protocol."""
        services.add_TextEncodingServiceServicer_to_server(self, server)
        self._add_engines(server, telemetry)

    def _open(self, path: Path) -> tuple[str, TextEncoder]:
        folder = ModelFolder.open(path)
        engine = self._load_engine(folder, "text_encoder")
        encoder = TextEncoder(
            engine,
            ClipTokenizer.from_folder(folder.path / "tokenizer", folder.token_limit),
            digest=folder.digest("text_encoder"),
            worker=self._worker,
            cache=self._cache,
        )
        return folder.model_id, encoder

    async def _warm_up(self, model: TextEncoder) -> None:
        await model.warm_up()

    def _engine(self, model: TextEncoder) -> Engine:
        return model.engine
