import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_TEXT_ENCODING: _ClassVar[Stage]
    STAGE_PREPROCESSING: _ClassVar[Stage]
    STAGE_DIFFUSION: _ClassVar[Stage]
    STAGE_POSTPROCESSING: _ClassVar[Stage]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_FREE: _ClassVar[Tier]
    TIER_PRO: _ClassVar[Tier]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_OK: _ClassVar[Outcome]
    OUTCOME_FILTERED: _ClassVar[Outcome]
STAGE_UNSPECIFIED: Stage
STAGE_TEXT_ENCODING: Stage
STAGE_PREPROCESSING: Stage
STAGE_DIFFUSION: Stage
STAGE_POSTPROCESSING: Stage
TIER_UNSPECIFIED: Tier
TIER_FREE: Tier
TIER_PRO: Tier
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_OK: Outcome
OUTCOME_FILTERED: Outcome

class GenerateImagesRequest(_message.Message):
    __slots__ = ("spec", "request_id")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    spec: ImageSpec
    request_id: str
    def __init__(self, spec: _Optional[_Union[ImageSpec, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GenerateImagesResponse(_message.Message):
    __slots__ = ("images", "stats", "request_id")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[GeneratedImage]
    stats: GenerationStats
    request_id: str
    def __init__(self, images: _Optional[_Iterable[_Union[GeneratedImage, _Mapping]]] = ..., stats: _Optional[_Union[GenerationStats, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class StreamGenerateImagesRequest(_message.Message):
    __slots__ = ("spec", "request_id", "preview_interval_step_count")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_INTERVAL_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    spec: ImageSpec
    request_id: str
    preview_interval_step_count: int
    def __init__(self, spec: _Optional[_Union[ImageSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., preview_interval_step_count: _Optional[int] = ...) -> None: ...

class StreamGenerateImagesResponse(_message.Message):
    __slots__ = ("accepted", "progress", "image", "summary")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    accepted: GenerationAccepted
    progress: GenerationProgress
    image: GeneratedImage
    summary: GenerationStats
    def __init__(self, accepted: _Optional[_Union[GenerationAccepted, _Mapping]] = ..., progress: _Optional[_Union[GenerationProgress, _Mapping]] = ..., image: _Optional[_Union[GeneratedImage, _Mapping]] = ..., summary: _Optional[_Union[GenerationStats, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class ImageSpec(_message.Message):
    __slots__ = ("model_id", "prompt", "negative_prompt", "width_px", "height_px", "step_count", "guidance_scale", "seed", "image_count", "mime_type", "quality", "tier", "scheduler", "initial_image", "embed_parameters")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    INITIAL_IMAGE_FIELD_NUMBER: _ClassVar[int]
    EMBED_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    prompt: str
    negative_prompt: str
    width_px: int
    height_px: int
    step_count: int
    guidance_scale: float
    seed: int
    image_count: int
    mime_type: str
    quality: int
    tier: Tier
    scheduler: str
    initial_image: InitialImage
    embed_parameters: bool
    def __init__(self, model_id: _Optional[str] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., step_count: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., seed: _Optional[int] = ..., image_count: _Optional[int] = ..., mime_type: _Optional[str] = ..., quality: _Optional[int] = ..., tier: _Optional[_Union[Tier, str]] = ..., scheduler: _Optional[str] = ..., initial_image: _Optional[_Union[InitialImage, _Mapping]] = ..., embed_parameters: _Optional[bool] = ...) -> None: ...

class InitialImage(_message.Message):
    __slots__ = ("content", "strength")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    strength: float
    def __init__(self, content: _Optional[bytes] = ..., strength: _Optional[float] = ...) -> None: ...

class GenerationAccepted(_message.Message):
    __slots__ = ("request_id", "accept_time", "queue_position")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_TIME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    accept_time: _timestamp_pb2.Timestamp
    queue_position: int
    def __init__(self, request_id: _Optional[str] = ..., accept_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., queue_position: _Optional[int] = ...) -> None: ...

class GenerationProgress(_message.Message):
    __slots__ = ("stage", "completed_step_count", "step_count", "preview", "image_index")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    completed_step_count: int
    step_count: int
    preview: ImageData
    image_index: int
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., completed_step_count: _Optional[int] = ..., step_count: _Optional[int] = ..., preview: _Optional[_Union[ImageData, _Mapping]] = ..., image_index: _Optional[int] = ...) -> None: ...

class GeneratedImage(_message.Message):
    __slots__ = ("index", "data", "seed", "outcome")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: ImageData
    seed: int
    outcome: Outcome
    def __init__(self, index: _Optional[int] = ..., data: _Optional[_Union[ImageData, _Mapping]] = ..., seed: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ...) -> None: ...

class ImageData(_message.Message):
    __slots__ = ("content", "mime_type", "width_px", "height_px")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    mime_type: str
    width_px: int
    height_px: int
    def __init__(self, content: _Optional[bytes] = ..., mime_type: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ...) -> None: ...

class GenerationStats(_message.Message):
    __slots__ = ("queue_duration", "stages", "dropped_token_count", "total_duration", "compute_seconds", "unet_evaluation_count", "settings")
    QUEUE_DURATION_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    UNET_EVALUATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    queue_duration: _duration_pb2.Duration
    stages: _containers.RepeatedCompositeFieldContainer[StageStats]
    dropped_token_count: int
    total_duration: _duration_pb2.Duration
    compute_seconds: float
    unet_evaluation_count: int
    settings: EffectiveSettings
    def __init__(self, queue_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[StageStats, _Mapping]]] = ..., dropped_token_count: _Optional[int] = ..., total_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., compute_seconds: _Optional[float] = ..., unet_evaluation_count: _Optional[int] = ..., settings: _Optional[_Union[EffectiveSettings, _Mapping]] = ...) -> None: ...

class EffectiveSettings(_message.Message):
    __slots__ = ("tier", "step_count", "guidance_scale", "scheduler", "weights", "width_px", "height_px")
    TIER_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    step_count: int
    guidance_scale: float
    scheduler: str
    weights: str
    width_px: int
    height_px: int
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., step_count: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., scheduler: _Optional[str] = ..., weights: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ...) -> None: ...

class StageStats(_message.Message):
    __slots__ = ("stage", "duration", "compute_seconds", "engine", "precision")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    duration: _duration_pb2.Duration
    compute_seconds: float
    engine: str
    precision: str
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., compute_seconds: _Optional[float] = ..., engine: _Optional[str] = ..., precision: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("model_id", "description", "default_tier", "tiers", "schedulers", "limits", "weights")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TIER_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULERS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    description: str
    default_tier: Tier
    tiers: _containers.RepeatedCompositeFieldContainer[TierSettings]
    schedulers: _containers.RepeatedScalarFieldContainer[str]
    limits: ModelLimits
    weights: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model_id: _Optional[str] = ..., description: _Optional[str] = ..., default_tier: _Optional[_Union[Tier, str]] = ..., tiers: _Optional[_Iterable[_Union[TierSettings, _Mapping]]] = ..., schedulers: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[ModelLimits, _Mapping]] = ..., weights: _Optional[_Iterable[str]] = ...) -> None: ...

class TierSettings(_message.Message):
    __slots__ = ("tier", "step_count", "max_step_count", "guidance_scale", "scheduler", "weights", "unet_evaluation_count")
    TIER_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    UNET_EVALUATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    step_count: int
    max_step_count: int
    guidance_scale: float
    scheduler: str
    weights: str
    unet_evaluation_count: int
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., step_count: _Optional[int] = ..., max_step_count: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., scheduler: _Optional[str] = ..., weights: _Optional[str] = ..., unet_evaluation_count: _Optional[int] = ...) -> None: ...

class ModelLimits(_message.Message):
    __slots__ = ("min_step_count", "max_step_count", "min_width_px", "max_width_px", "min_height_px", "max_height_px", "max_pixel_count", "size_multiple_px", "default_width_px", "default_height_px", "max_guidance_scale", "max_image_count", "max_token_count")
    MIN_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    MIN_WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    MIN_HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_MULTIPLE_PX_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    min_step_count: int
    max_step_count: int
    min_width_px: int
    max_width_px: int
    min_height_px: int
    max_height_px: int
    max_pixel_count: int
    size_multiple_px: int
    default_width_px: int
    default_height_px: int
    max_guidance_scale: float
    max_image_count: int
    max_token_count: int
    def __init__(self, min_step_count: _Optional[int] = ..., max_step_count: _Optional[int] = ..., min_width_px: _Optional[int] = ..., max_width_px: _Optional[int] = ..., min_height_px: _Optional[int] = ..., max_height_px: _Optional[int] = ..., max_pixel_count: _Optional[int] = ..., size_multiple_px: _Optional[int] = ..., default_width_px: _Optional[int] = ..., default_height_px: _Optional[int] = ..., max_guidance_scale: _Optional[float] = ..., max_image_count: _Optional[int] = ..., max_token_count: _Optional[int] = ...) -> None: ...
