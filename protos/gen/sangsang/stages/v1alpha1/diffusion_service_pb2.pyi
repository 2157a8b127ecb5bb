from sangsang.stages.v1alpha1 import tensor_pb2 as _tensor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DenoiseRequest(_message.Message):
    __slots__ = ("model_id", "weights", "scheduler", "step_count", "strength", "guidance_scale", "embeddings", "negative_embeddings", "noise", "initial_latents", "seed", "noise_draw_count", "preview_interval_step_count", "tier", "tenant", "request_id", "min_progress_interval_ms", "finish_reserve_ms")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_LATENTS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NOISE_DRAW_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_INTERVAL_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_PROGRESS_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    FINISH_RESERVE_MS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    weights: str
    scheduler: str
    step_count: int
    strength: float
    guidance_scale: float
    embeddings: _tensor_pb2.Tensor
    negative_embeddings: _tensor_pb2.Tensor
    noise: _tensor_pb2.Tensor
    initial_latents: _tensor_pb2.Tensor
    seed: int
    noise_draw_count: int
    preview_interval_step_count: int
    tier: str
    tenant: str
    request_id: str
    min_progress_interval_ms: int
    finish_reserve_ms: int
    def __init__(self, model_id: _Optional[str] = ..., weights: _Optional[str] = ..., scheduler: _Optional[str] = ..., step_count: _Optional[int] = ..., strength: _Optional[float] = ..., guidance_scale: _Optional[float] = ..., embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., negative_embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., noise: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., initial_latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., seed: _Optional[int] = ..., noise_draw_count: _Optional[int] = ..., preview_interval_step_count: _Optional[int] = ..., tier: _Optional[str] = ..., tenant: _Optional[str] = ..., request_id: _Optional[str] = ..., min_progress_interval_ms: _Optional[int] = ..., finish_reserve_ms: _Optional[int] = ...) -> None: ...

class DenoiseResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: DenoiseProgress
    result: DenoiseResult
    def __init__(self, progress: _Optional[_Union[DenoiseProgress, _Mapping]] = ..., result: _Optional[_Union[DenoiseResult, _Mapping]] = ...) -> None: ...

class DenoiseProgress(_message.Message):
    __slots__ = ("completed_step_count", "step_count", "preview")
    COMPLETED_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    completed_step_count: int
    step_count: int
    preview: _tensor_pb2.Tensor
    def __init__(self, completed_step_count: _Optional[int] = ..., step_count: _Optional[int] = ..., preview: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class DenoiseResult(_message.Message):
    __slots__ = ("latents", "usage", "mean_batch_row_count")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MEAN_BATCH_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    latents: _tensor_pb2.Tensor
    usage: _tensor_pb2.StageUsage
    mean_batch_row_count: float
    def __init__(self, latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., usage: _Optional[_Union[_tensor_pb2.StageUsage, _Mapping]] = ..., mean_batch_row_count: _Optional[float] = ...) -> None: ...
