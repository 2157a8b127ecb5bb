"""Text to embeddings: cache, tokenizer, engine. Knows no gRPC."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..runtime.engines.engine import Engine
from ..runtime.errors import CorruptTensor
from ..runtime.worker import EngineWorker, Timed
from .embedding_cache import CacheKey, EmbeddingCache, EncodedText
from .shared_calls import SharedCalls
from .tokenizer import ClipTokenizer, check_text


@dataclass(frozen=True, slots=True)
class Encoding:
    """What one call gets and what it is charged.

    Attributes:
        text: the embeddings.
        cache_hit: whether no engine work was done for this call.
        queue_seconds: from the call to the start of its engine work; for a hit, the whole wait.
        compute_seconds: engine work charged to this call.
    """

    text: EncodedText
    cache_hit: bool
    queue_seconds: float
    compute_seconds: float


class TextEncoder:
    """The text encoder of one model.

    Args:
        engine: computes `last_hidden_state` from `input_ids`.
        tokenizer: makes the ids.
        digest: of all that decides the embeddings, the tokenizer included.
        worker: runs the engine.
        cache: keeps embeddings; may be shared between models.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: ClipTokenizer,
        *,
        digest: str,
        worker: EngineWorker,
        cache: EmbeddingCache,
    ) -> None:
        self.engine = engine
        self._tokenizer = tokenizer
        self._digest = digest
        self._worker = worker
        self._cache = cache
        self._in_flight: SharedCalls[CacheKey, Timed[EncodedText]] = SharedCalls()

    async def encode(self, text: str) -> Encoding:
        """Returns the embeddings of a text; equal texts in flight are encoded once.

        Raises:
            InvalidRequest: the text is too long or not Unicode.
            CorruptTensor: the engine returned NaN or Inf.
            Overloaded: too much waits for the engine.
        """
        check_text(text)
        key = (self._digest, text)
        found = self._cache.get(key)
        if found is not None:
            return Encoding(found, True, 0.0, 0.0)
        timed, charged = await self._in_flight.run(key, partial(self._encode_and_keep, key, text))
        if not charged:
            waited = timed.queue_seconds + timed.compute_seconds
            return Encoding(timed.value, True, waited, 0.0)
        return Encoding(timed.value, False, timed.queue_seconds, timed.compute_seconds)

    async def warm_up(self) -> None:
        """Runs the engine once, past the cache."""
        await self._worker.run(self._compute, "")

    async def _encode_and_keep(self, key: CacheKey, text: str) -> Timed[EncodedText]:
        timed = await self._worker.run_timed(self._compute, text, kind=self._digest)
        self._cache.put(key, timed.value)
        return timed

    def _compute(self, text: str) -> EncodedText:
        """Returns the embeddings of a text. Blocks: runs on the worker."""
        tokens = self._tokenizer.tokenize(text)
        # One text a call: a row's bits must not depend on what happens to wait beside it.
        outputs = self.engine.infer({"input_ids": tokens.ids[None]})
        embeddings = np.ascontiguousarray(outputs["last_hidden_state"][0], dtype=np.float32)
        if not np.isfinite(embeddings).all():
            raise CorruptTensor("the text encoder returned values that are not finite")
        embeddings.setflags(write=False)
        return EncodedText(embeddings, tokens.token_count, tokens.dropped_token_count)
