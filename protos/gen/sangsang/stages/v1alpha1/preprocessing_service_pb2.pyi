from sangsang.stages.v1alpha1 import tensor_pb2 as _tensor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrepareLatentsRequest(_message.Message):
    __slots__ = ("model_id", "width_px", "height_px", "seed", "initial_image")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INITIAL_IMAGE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    width_px: int
    height_px: int
    seed: int
    initial_image: bytes
    def __init__(self, model_id: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., seed: _Optional[int] = ..., initial_image: _Optional[bytes] = ...) -> None: ...

class PrepareLatentsResponse(_message.Message):
    __slots__ = ("noise", "initial_latents", "noise_draw_count", "usage")
    NOISE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_LATENTS_FIELD_NUMBER: _ClassVar[int]
    NOISE_DRAW_COUNT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    noise: _tensor_pb2.Tensor
    initial_latents: _tensor_pb2.Tensor
    noise_draw_count: int
    usage: _tensor_pb2.StageUsage
    def __init__(self, noise: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., initial_latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., noise_draw_count: _Optional[int] = ..., usage: _Optional[_Union[_tensor_pb2.StageUsage, _Mapping]] = ...) -> None: ...
