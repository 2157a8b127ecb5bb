from sangsang.stages.v1alpha1 import tensor_pb2 as _tensor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncodeTextRequest(_message.Message):
    __slots__ = ("model_id", "text")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    text: str
    def __init__(self, model_id: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class EncodeTextResponse(_message.Message):
    __slots__ = ("embeddings", "token_count", "dropped_token_count", "cache_hit", "usage")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    embeddings: _tensor_pb2.Tensor
    token_count: int
    dropped_token_count: int
    cache_hit: bool
    usage: _tensor_pb2.StageUsage
    def __init__(self, embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., token_count: _Optional[int] = ..., dropped_token_count: _Optional[int] = ..., cache_hit: _Optional[bool] = ..., usage: _Optional[_Union[_tensor_pb2.StageUsage, _Mapping]] = ...) -> None: ...
