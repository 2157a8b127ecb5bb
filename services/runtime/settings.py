"""Settings that every service shares.

One frozen class for each process, read once from `SANGSANG_...` variables in `__main__` and passed
down; nobody else reads the environment.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .watchdog import HangLimits

MEBIBYTE = 1024 * 1024
# Where the address of a collector may be found, the first that is set.
OTLP_VARIABLES = (
    "SANGSANG_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)


class ProcessSettings(BaseSettings):
    """Settings of any process of the mesh."""

    model_config = SettingsConfigDict(
        env_prefix="SANGSANG_",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` in a container."""

    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port that serves the metrics to Prometheus, over HTTP; 0 serves none."""

    metrics_host: str = ""
    """Address that the metrics are served on; by default that of the calls."""

    models: Annotated[tuple[Path, ...], NoDecode] = ()
    """Model folders to serve, separated by `:`."""

    cache_dir: Path = Path.home() / ".cache" / "sangsang"
    """Where compiled engines are kept."""

    max_message_bytes: int = Field(default=16 * MEBIBYTE, ge=MEBIBYTE)
    """Largest gRPC message taken or sent, in bytes."""

    lame_duck_s: float = Field(default=0.5, ge=0)
    """Seconds between telling NOT_SERVING and refusing calls, so that callers look elsewhere."""

    grace_s: float = Field(default=10.0, ge=0)
    """Seconds that running calls have to finish at the end; the others end UNAVAILABLE."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """Form of a log line; `auto` is console on a terminal and JSON elsewhere."""

    tracing: bool = True
    """Whether calls are traced: for the collector or, without one, in the orchestrator's memory."""

    otlp_endpoint: str = Field(
        default="",
        validation_alias=AliasChoices(*OTLP_VARIABLES),
    )
    """OTLP collector that gets the traces, e.g. `http://localhost:4317`; empty for none."""

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        return tuple(filter(None, value.split(":"))) if isinstance(value, str) else value


class ServiceSettings(ProcessSettings):
    """Settings of a stage service."""

    backend: Literal[
        "onnxruntime",
        "openvino",
        "tensorrt",
        "tensorrt_rtx",
        "timed",
        "torch",
        "triton_server",
    ] = "onnxruntime"
    """Engine backend."""

    engine_precision: Literal["f16", "int8", "fp8"] = "f16"
    """What a UNet computes in on the backend tensorrt_rtx; it has to be built for it."""

    engine_threads: int = Field(default=1, ge=1)
    """Threads of one engine call. One is best when rows are batched: see services/README.md."""

    timed_profile: Path | None = None
    """What takes how long on the device of the backend `timed`: a file as in deploy/profiles."""

    timed_device: str = "0"
    """Name of that device; processes of this machine that give the same name share it."""

    triton_server_address: str = ""
    """`host:port` of the Open Inference Protocol server of the backend `triton_server`."""

    triton_server_timeout_s: float = Field(default=60.0, gt=0)
    """Most seconds of one call to that server; a request's own deadline may be nearer."""

    triton_server_shared_memory: bool = True
    """Whether tensors go to that server by shared memory, if it is on this machine."""

    hang_factor: float = Field(default=30.0, ge=0)
    """Times its usual duration after which an engine call hangs and the process ends; 0 never."""

    hang_least_s: float = Field(default=30.0, gt=0)
    """Seconds that an engine call may take at least, however short its kind usually is."""

    hang_unknown_s: float = Field(default=600.0, gt=0)
    """Seconds that the first engine call of a kind may take: one of its size, that is."""

    max_pending_calls: int = Field(default=256, ge=1)
    """Calls that may wait for the engine; one more is refused."""

    @property
    def hang_limits(self) -> HangLimits:
        """How long an engine call may take."""
        return HangLimits(self.hang_factor, self.hang_least_s, self.hang_unknown_s)
