from sangsang.stages.v1alpha1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecodeLatentsRequest(_message.Message):
    __slots__ = ("model_id", "latents", "mime_type", "quality", "parameters")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    latents: _tensor_pb2.Tensor
    mime_type: str
    quality: int
    parameters: _containers.RepeatedCompositeFieldContainer[GenerationParameter]
    def __init__(self, model_id: _Optional[str] = ..., latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., mime_type: _Optional[str] = ..., quality: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[GenerationParameter, _Mapping]]] = ...) -> None: ...

class GenerationParameter(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class DecodeLatentsResponse(_message.Message):
    __slots__ = ("content", "mime_type", "width_px", "height_px", "usage")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    mime_type: str
    width_px: int
    height_px: int
    usage: _tensor_pb2.StageUsage
    def __init__(self, content: _Optional[bytes] = ..., mime_type: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., usage: _Optional[_Union[_tensor_pb2.StageUsage, _Mapping]] = ...) -> None: ...
