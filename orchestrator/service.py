"""The orchestrator as a service: the public API over four stage services."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as tracing

from ..services.runtime.errors import StageUnavailable
from ..services.runtime.metrics import declarations
from ..services.runtime.metrics.registry import Metrics
from ..services.runtime.telemetry import Telemetry
from .catalogue import open_catalogue
from .dispatcher import Dispatcher
from .gateway import ImageGenerationGateway
from .generation import Generator
from .lane_metrics import LaneMetrics
from .plan import TIERS
from .profiles import read_profiles
from .quarantine import Quarantine
from .replica_health import Replica, ReplicaHealth
from .request_metrics import RequestMetrics
from .scheduling.admission import AdmissionLimits
from .scheduling.costs import Costs
from .scheduling.scheduler import Policy, Scheduler
from .scheduling.work import StageName
from .settings import OrchestratorSettings
from .stages import Stages
from .suspects import Suspects
from .tenants import Tenants
from .tracing.service import add_trace_store

POLL_INTERVAL_S = 0.05
_SERVICE = imaging.DESCRIPTOR.services_by_name["ImageGenerationService"].full_name
_INSPECTION = tracing.DESCRIPTOR.services_by_name["TraceInspectionService"].full_name
_log = structlog.get_logger()


class OrchestratorService:
    """Serves `ImageGenerationService`; ready once every stage is."""

    name = "orchestrator"
    service_names: Sequence[str] = (_SERVICE, _INSPECTION)

    def __init__(self, settings: OrchestratorSettings) -> None:
        self._settings = settings
        self._stages: Stages | None = None
        self._health: ReplicaHealth | None = None
        self._gateway: ImageGenerationGateway | None = None
        self._catalogue = open_catalogue(settings.models, settings.cache_dir)
        self._metrics: Metrics | None = None

    def measure(self, metrics: Metrics) -> None:
        """Counts its requests, lanes and replicas."""
        self._metrics = metrics

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the gateway."""
        settings = self._settings
        self._stages = Stages(
            settings.addresses, telemetry.tracer, max_message_bytes=settings.max_message_bytes
        )
        dispatcher = make_dispatcher(settings, self._metrics)
        self._health = ReplicaHealth(
            self._stages.channels,
            on_change=lambda stage, address, usable: dispatcher.set_usable(
                stage, address, usable=usable
            ),
            on_silence=dispatcher.note_silence,
        )
        suspects = Suspects(
            Quarantine(death_limit=settings.quarantine_deaths, duration_s=settings.quarantine_s)
        )
        generator = Generator(
            self._stages,
            dispatcher,
            Tenants(settings.tenant_limits),
            suspects,
            telemetry.tracer,
            _request_metrics(self._metrics, dispatcher, self._health),
        )
        self._gateway = ImageGenerationGateway(
            self._catalogue,
            generator,
            settings.keep_limits,
            max_picture_pixels=settings.max_picture_pixels,
            trace_prompts=settings.trace_prompts,
        )
        add_trace_store(server, telemetry, settings.trace_limits)
        imaging_grpc.add_ImageGenerationServiceServicer_to_server(self._gateway, server)

    def watch(self, on_fatal: Callable[[], None]) -> None:
        """Does nothing: what fails here fails in a call, whose interceptor sees it."""

    async def load(self) -> None:
        """Waits until every stage serves, and follows from then on which replicas do.

        One replica of each is enough: others have `replica_start_s` more, and join when they come.

        Raises:
            StageUnavailable: no replica of a stage serves within `stage_start_timeout_s`.
        """
        if self._stages is None or self._health is None:
            raise RuntimeError("add_to_server comes first")
        settings = self._settings
        missing = await find_missing(
            self._stages.channels, settings.stage_start_timeout_s, settings.replica_start_s
        )
        for stage, address in sorted(missing):
            _log.warning("replica_missing", stage=stage, address=address)
        self._health.start(missing)

    async def close(self) -> None:
        """Closes the channels to the stages."""
        if self._health is not None:
            await self._health.close()
        if self._stages is not None:
            await self._stages.close()


def _request_metrics(
    metrics: Metrics | None, dispatcher: Dispatcher, health: ReplicaHealth
) -> RequestMetrics | None:
    """Returns what counts requests, if somebody asks; has replicas counted too."""
    if metrics is None:
        return None
    metrics.read(declarations.REPLICAS, lambda: _by_stage(health.usable_counts))
    metrics.read(declarations.REPLICA_LOSSES, lambda: _by_stage(health.loss_counts))
    return RequestMetrics(metrics, dispatcher.scheduler.backlog)


def _by_stage(counts: Mapping[StageName, int]) -> dict[tuple[str, ...], float]:
    return {(stage,): float(count) for stage, count in counts.items()}


def make_dispatcher(settings: OrchestratorSettings, metrics: Metrics | None = None) -> Dispatcher:
    """Returns what gives lanes, over the devices of the settings; observed if there are metrics."""
    known = read_profiles(
        settings.models, row_limit=settings.batch_row_limit, min_gain=settings.batch_min_gain
    )
    policy = Policy(
        tier_weights=settings.tier_weights,
        row_limit=settings.batch_row_limit,
        row_limits=known.row_limits,
        forbidden=known.forbidden,
    )
    scheduler = Scheduler(
        settings.devices,
        policy=policy,
        limits=AdmissionLimits(settings.max_queued_requests, settings.max_queued_s),
        costs=Costs(known.costs),
    )
    lanes = None if metrics is None else LaneMetrics(metrics, settings.devices, TIERS)
    return Dispatcher(scheduler, absence_s=settings.replica_absence_s, observer=lanes)


async def find_missing(
    channels: Mapping[Replica, grpc.aio.Channel], timeout_s: float, others_s: float
) -> frozenset[Replica]:
    """Returns the replicas that do not serve once each stage has one that does.

    Args:
        channels: of all replicas.
        timeout_s: how long a stage may take to have one.
        others_s: how long the others have after that.

    Raises:
        StageUnavailable: a stage has none in time.
    """
    waits = {
        replica: asyncio.create_task(
            wait_until_serving(channel, f"{replica[0]} at {replica[1]}", timeout_s)
        )
        for replica, channel in channels.items()
    }
    try:
        by_stage: dict[StageName, list[asyncio.Task[None]]] = {}
        for (stage, _), wait in waits.items():
            by_stage.setdefault(stage, []).append(wait)
        await asyncio.gather(*map(_first_served, by_stage.values()))
        await asyncio.wait(waits.values(), timeout=others_s)
        return frozenset(replica for replica, wait in waits.items() if not _served(wait))
    finally:
        for wait in waits.values():
            wait.cancel()
        await asyncio.gather(*waits.values(), return_exceptions=True)


async def _first_served(waits: Sequence[asyncio.Task[None]]) -> None:
    """Returns once one of a stage's replicas serves; raises what the last one raised, if none."""
    pending = set(waits)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if any(map(_served, done)):
            return
    await waits[-1]


def _served(wait: asyncio.Task[None]) -> bool:
    return wait.done() and not wait.cancelled() and wait.exception() is None


async def wait_until_serving(channel: grpc.aio.Channel, name: str, timeout_s: float) -> None:
    """Returns once the server behind a channel says SERVING.

    Raises:
        StageUnavailable: it does not in time; the message has the last answer.
    """
    stub: Any = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + timeout_s
    answer = "no answer"
    while time.monotonic() < deadline:
        try:
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.aio.AioRpcError as error:
            answer = error.code().name
        else:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return
            answer = "NOT_SERVING"
        await asyncio.sleep(POLL_INTERVAL_S)
    raise StageUnavailable(
        f"{name} did not serve within {timeout_s:g} s ({answer})", metadata={"answer": answer}
    )
