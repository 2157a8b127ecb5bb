"""Messages of `TextEncodingService` to values and back."""

from sangsang.stages.v1alpha1 import tensor_pb2, text_encoding_service_pb2

from ..runtime.engines.engine import Engine
from ..runtime.tensors import to_proto
from .encoder import Encoding


def to_response(encoding: Encoding, engine: Engine) -> text_encoding_service_pb2.EncodeTextResponse:
    """Returns the response to one call."""
    text = encoding.text
    return text_encoding_service_pb2.EncodeTextResponse(
        embeddings=to_proto(text.embeddings),
        token_count=text.token_count,
        dropped_token_count=text.dropped_token_count,
        cache_hit=encoding.cache_hit,
        usage=tensor_pb2.StageUsage(
            queue_seconds=encoding.queue_seconds,
            compute_seconds=encoding.compute_seconds,
            evaluation_count=0 if encoding.cache_hit else 1,
            engine=engine.backend,
            precision=engine.precision,
        ),
    )
