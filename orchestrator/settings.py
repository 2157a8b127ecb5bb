"""Settings of the orchestrator."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from ..services.runtime.picture_checks import PictureLimits
from ..services.runtime.row_scheduling import DEFAULT_TIER_WEIGHTS
from ..services.runtime.settings import MEBIBYTE, ProcessSettings
from .kept_results import KeepLimits
from .scheduling.cluster import DeviceSpec
from .scheduling.work import HEAVY_STAGE, STAGES, StageName
from .tenants import TenantLimits
from .tracing.trace_limits import TraceLimits

DEFAULT_PORT = 50050
# Where exporters for Prometheus listen by OpenTelemetry's custom; for a mesh that is started as a
# whole, for a process of its own serves metrics only if it is told to.
DEFAULT_METRICS_PORT = 9464


class OrchestratorSettings(ProcessSettings):
    """Settings of the orchestrator, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    text_encoding_address: str = "127.0.0.1:50051"
    """`host:port` of the text encoding service, or of several, separated by commas."""

    preprocessing_address: str = "127.0.0.1:50052"
    """The same of the preprocessing service."""

    diffusion_address: str = "127.0.0.1:50053"
    """The same of the diffusion service. Each is on a device of its own, which the replicas of the
    other stages are dealt out to in turn."""

    postprocessing_address: str = "127.0.0.1:50054"
    """The same of the postprocessing service."""

    lanes_per_device: int = Field(default=2, ge=0)
    """Models that may run on a device at one moment; 0 for any number."""

    batch_row_limit: int = Field(default=8, ge=2)
    """Rows of a full batch; the diffusion service reads the same variable."""

    batch_min_gain: float = Field(default=0.1, ge=0)
    """How much cheaper more rows must make a row; the diffusion service reads the same variable."""

    tier_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=dict(DEFAULT_TIER_WEIGHTS), min_length=1
    )
    """Shares of the devices by tier, as JSON; the diffusion service reads the same variable."""

    max_queued_requests: int = Field(default=256, ge=0)
    """Requests that may wait; one more is refused with RESOURCE_EXHAUSTED."""

    max_queued_s: float = Field(default=60.0, gt=0)
    """Estimated seconds that a request may have to wait; else it is refused at once."""

    tenant_rate_per_s: float = Field(default=0.0, ge=0)
    """Requests that each tenant may send a second, in the long run; 0 for any number."""

    tenant_burst_count: int = Field(default=10, ge=1)
    """Requests that a tenant with a rate may send at once after a quiet while."""

    tenant_in_flight_count: int = Field(default=0, ge=0)
    """Requests of each tenant that may run or wait at one moment; 0 for any number."""

    result_keep_s: float = Field(default=300.0, ge=0)
    """Seconds that the result of a call with a `request_id` is kept for a repeated one."""

    result_keep_count: int = Field(default=1000, ge=0)
    """Most results that are kept; the oldest go first."""

    result_keep_bytes: int = Field(default=256 * MEBIBYTE, ge=0)
    """Most bytes that the kept results take."""

    quarantine_deaths: int = Field(default=2, ge=0)
    """Stage deaths under one spec after which it is refused for a while; 0 refuses none."""

    quarantine_s: float = Field(default=600.0, gt=0)
    """Seconds that a death is held against a spec, and that a spec is refused."""

    replica_absence_s: float = Field(default=5.0, ge=0)
    """Seconds that a running request waits for a stage of which no replica takes calls."""

    max_picture_pixels: int = Field(default=PictureLimits().max_pixels, ge=1)
    """Most pixels of an initial image; the preprocessing service reads the same variable."""

    trace_keep_count: int = Field(default=1000, ge=0)
    """Most traces that are kept in memory when there is no collector; 0 keeps none."""

    trace_keep_bytes: int = Field(default=64 * MEBIBYTE, ge=0)
    """Most bytes that the kept traces take, about."""

    trace_prompts: bool = False
    """Whether traces have the prompts of requests. Mind whose words they are."""

    stage_start_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait at the start until each stage has a replica that serves; then it gives up."""

    replica_start_s: float = Field(default=10.0, ge=0)
    """Seconds that the other replicas have after that; those that come later join when they do."""

    @property
    def tenant_limits(self) -> TenantLimits:
        """What each tenant may have."""
        return TenantLimits(
            self.tenant_rate_per_s, self.tenant_burst_count, self.tenant_in_flight_count
        )

    @property
    def keep_limits(self) -> KeepLimits:
        """What is kept of finished requests."""
        return KeepLimits(self.result_keep_s, self.result_keep_count, self.result_keep_bytes)

    @property
    def trace_limits(self) -> TraceLimits | None:
        """What the kept traces may take; None if none are kept."""
        if not self.tracing or self.otlp_endpoint or not self.trace_keep_count:
            return None
        return TraceLimits(self.trace_keep_count, self.trace_keep_bytes)

    @property
    def addresses(self) -> Mapping[StageName, tuple[str, ...]]:
        """The replicas of each stage."""
        return {stage: self._split(stage) for stage in STAGES}

    @property
    def devices(self) -> tuple[DeviceSpec, ...]:
        """The devices, one for each diffusion replica; further ones if a light stage has more."""
        return tuple(
            DeviceSpec(f"device{index}", self._hosted(index), self.lanes_per_device)
            for index in range(max(map(len, self.addresses.values())))
        )

    @model_validator(mode="after")
    def _named_replicas(self) -> "OrchestratorSettings":
        for stage, named in self.addresses.items():
            if not named:
                raise ValueError(f"{stage}_address names no replica")
        return self

    def _hosted(self, index: int) -> dict[StageName, str]:
        return {
            stage: named[index % len(named)]
            for stage, named in self.addresses.items()
            # A light replica may serve several devices; a heavy one is one device's.
            if stage != HEAVY_STAGE or index < len(named)
        }

    def _split(self, stage: StageName) -> tuple[str, ...]:
        named: str = getattr(self, f"{stage}_address")
        return tuple(filter(None, (address.strip() for address in named.split(","))))
