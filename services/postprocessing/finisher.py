"""Latents to an encoded picture: decode on the engine's thread, encode on a pool of its own.

Encoding takes as long as a step of the model and needs no engine, so the next picture decodes
while this one is encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.worker import EngineWorker
from .decoder import LatentDecoder, Latents, Rgb
from .encoding import encode_picture
from .metadata import Parameter, PictureMetadata


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """What to make a picture of, and how to encode it.

    Attributes:
        latents: [channels, h, w], f32.
        mime_type: IANA media type of the picture.
        quality: of a lossy format, 1 to 100.
        parameters: to write into the metadata; may be empty.
    """

    latents: Latents
    mime_type: str
    quality: int
    parameters: Sequence[Parameter] = ()


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    """An encoded picture.

    Attributes:
        content: its bytes.
        width_px: width.
        height_px: height.
        queue_seconds: from the call to the start of its engine work.
        compute_seconds: engine work; encoding is not in it.
    """

    content: bytes
    width_px: int
    height_px: int
    queue_seconds: float
    compute_seconds: float


class PictureFinisher:
    """Finishes the pictures of one model.

    Args:
        decoder: the model's.
        engine_worker: runs the decoder.
        encoding_worker: encodes; pictures at once as it has threads.
        marked: whether pictures say that they were generated.
        png_compress_level: zlib's effort, 0 to 9.
    """

    def __init__(
        self,
        decoder: LatentDecoder,
        *,
        engine_worker: EngineWorker,
        encoding_worker: EngineWorker,
        marked: bool = True,
        png_compress_level: int = 1,
    ) -> None:
        self.decoder = decoder
        self._engine_worker = engine_worker
        self._encoding_worker = encoding_worker
        self._marked = marked
        self._png_compress_level = png_compress_level

    async def finish(self, request: PictureRequest) -> FinishedPicture:
        """Returns the encoded picture of some latents.

        Raises:
            CorruptTensor: the latents or the decoded picture hold NaN or Inf.
            Overloaded: too much waits.
        """
        latents, decoder = request.latents, self.decoder
        kind = (decoder.engine.digest, latents.shape)
        timed = await self._engine_worker.run_timed(decoder.decode, latents, kind=kind)
        height_px, width_px, _ = timed.value.shape
        content = await self._encoding_worker.run(self._encode, timed.value, request)
        return FinishedPicture(
            content, width_px, height_px, timed.queue_seconds, timed.compute_seconds
        )

    async def warm_up(self) -> None:
        """Runs the decoder once at the model's own size."""
        await self._engine_worker.run(self.decoder.warm_up)

    def _encode(self, rgb: Rgb, request: PictureRequest) -> bytes:
        return encode_picture(
            rgb,
            mime_type=request.mime_type,
            quality=request.quality,
            metadata=PictureMetadata(request.parameters, marked=self._marked),
            png_compress_level=self._png_compress_level,
        )
