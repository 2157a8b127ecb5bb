import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListTracesRequest(_message.Message):
    __slots__ = ("limit", "slow", "failed")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    limit: int
    slow: bool
    failed: bool
    def __init__(self, limit: _Optional[int] = ..., slow: _Optional[bool] = ..., failed: _Optional[bool] = ...) -> None: ...

class ListTracesResponse(_message.Message):
    __slots__ = ("traces", "stats")
    TRACES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    traces: _containers.RepeatedCompositeFieldContainer[TraceSummary]
    stats: TraceStoreStats
    def __init__(self, traces: _Optional[_Iterable[_Union[TraceSummary, _Mapping]]] = ..., stats: _Optional[_Union[TraceStoreStats, _Mapping]] = ...) -> None: ...

class GetTraceRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetTraceResponse(_message.Message):
    __slots__ = ("summary", "traces_data", "neighbours")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TRACES_DATA_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    summary: TraceSummary
    traces_data: bytes
    neighbours: _containers.RepeatedCompositeFieldContainer[TraceSummary]
    def __init__(self, summary: _Optional[_Union[TraceSummary, _Mapping]] = ..., traces_data: _Optional[bytes] = ..., neighbours: _Optional[_Iterable[_Union[TraceSummary, _Mapping]]] = ...) -> None: ...

class StreamTracesRequest(_message.Message):
    __slots__ = ("start_time", "end_time")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StreamTracesResponse(_message.Message):
    __slots__ = ("summary", "traces_data")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TRACES_DATA_FIELD_NUMBER: _ClassVar[int]
    summary: TraceSummary
    traces_data: bytes
    def __init__(self, summary: _Optional[_Union[TraceSummary, _Mapping]] = ..., traces_data: _Optional[bytes] = ...) -> None: ...

class TraceSummary(_message.Message):
    __slots__ = ("trace_id", "root_span_id", "request_id", "method", "model_id", "tier", "tenant", "status", "start_time", "duration", "slow", "time_shares")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    TIME_SHARES_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    root_span_id: str
    request_id: str
    method: str
    model_id: str
    tier: str
    tenant: str
    status: str
    start_time: _timestamp_pb2.Timestamp
    duration: _duration_pb2.Duration
    slow: bool
    time_shares: _containers.RepeatedCompositeFieldContainer[TimeShare]
    def __init__(self, trace_id: _Optional[str] = ..., root_span_id: _Optional[str] = ..., request_id: _Optional[str] = ..., method: _Optional[str] = ..., model_id: _Optional[str] = ..., tier: _Optional[str] = ..., tenant: _Optional[str] = ..., status: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., slow: _Optional[bool] = ..., time_shares: _Optional[_Iterable[_Union[TimeShare, _Mapping]]] = ...) -> None: ...

class TimeShare(_message.Message):
    __slots__ = ("name", "duration")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    duration: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TraceStoreStats(_message.Message):
    __slots__ = ("kept_trace_count", "kept_bytes", "dropped_trace_count", "dropped_span_count", "lost_span_count")
    KEPT_TRACE_COUNT_FIELD_NUMBER: _ClassVar[int]
    KEPT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_TRACE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_SPAN_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOST_SPAN_COUNT_FIELD_NUMBER: _ClassVar[int]
    kept_trace_count: int
    kept_bytes: int
    dropped_trace_count: int
    dropped_span_count: int
    lost_span_count: int
    def __init__(self, kept_trace_count: _Optional[int] = ..., kept_bytes: _Optional[int] = ..., dropped_trace_count: _Optional[int] = ..., dropped_span_count: _Optional[int] = ..., lost_span_count: _Optional[int] = ...) -> None: ...
