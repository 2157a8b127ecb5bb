"""Traces: the tracer of a process, and the names that spans and attributes have.

The spans of a call are named after its method, other spans as here. Names follow OpenTelemetry's
RPC conventions where they exist and begin with `sangsang.` elsewhere. What each means is written in
`deploy/telemetry/registry.yaml`; a test holds that nothing is missing there, and that no name is
spelt out elsewhere in the code. Prompts are recorded only where a setting asks for it.
"""

import logging
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SpanExporter

from .span_batches import SpanBatches

SPAN_ADMISSION_WAIT = "admission_wait"
SPAN_LANE_WAIT = "lane_wait"
SPAN_GENERATE_PICTURE = "generate_picture"
SPAN_ENGINE_INFER = "engine_infer"
SPAN_BATCH_STEP = "batch_step"

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_OUTPUT = "gen_ai.output.type"
GEN_AI_MODEL = "gen_ai.request.model"
GEN_AI_COUNT = "gen_ai.request.choice.count"
GEN_AI_INPUT = "gen_ai.input.messages"
REQUEST_BYTES = "sangsang.request_bytes"
RESPONSE_BYTES = "sangsang.response_bytes"
REQUEST_ID = "sangsang.request.id"
MODEL_ID = "sangsang.model.id"
STAGE = "sangsang.stage"
DEVICE = "sangsang.device"
LANE = "sangsang.lane"
TIER = "sangsang.tier"
TENANT = "sangsang.tenant"
JOINED = "sangsang.request.joined"
STEP_COUNT = "sangsang.diffusion.step_count"
SCHEDULER = "sangsang.diffusion.scheduler"
GUIDANCE_SCALE = "sangsang.diffusion.guidance_scale"
WIDTH_PX = "sangsang.image.width_px"
HEIGHT_PX = "sangsang.image.height_px"
IMAGE_INDEX = "sangsang.image.index"
ENGINE_MODULE = "sangsang.engine.module"
ENGINE_BACKEND = "sangsang.engine.backend"
ENGINE_PRECISION = "sangsang.engine.precision"
QUEUE_SECONDS = "sangsang.queue_seconds"
COMPUTE_SECONDS = "sangsang.compute_seconds"
CACHE_HIT = "sangsang.cache_hit"
BATCH_ROWS = "sangsang.batch.row_count"
BATCH_PADDING = "sangsang.batch.padding_row_count"
BATCH_JOBS = "sangsang.batch.job_count"
STEP_INDEX = "sangsang.batch.step_index"


class Telemetry:
    """The tracer provider of one process, or of one service of a process that hosts several.

    Without a processor no span is recorded; the context of traces is passed on all the same, and
    the logs have its ID.

    Attributes:
        tracer: makes the spans.
    """

    def __init__(self, service: str, *, processors: tuple[SpanProcessor, ...] = ()) -> None:
        self._sampler = _WhileRecorded()
        self._batches: list[SpanBatches] = []
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: process_name(service)}),
            sampler=self._sampler,
            # A Denoise span names each of its steps; by default a long run's would be cut at 128.
            span_limits=SpanLimits(max_links=1024),
            shutdown_on_exit=False,
        )
        for processor in processors:
            self._add(processor)
        self.tracer: trace.Tracer = self._provider.get_tracer("sangsang")

    @classmethod
    def to_collector(cls, service: str, endpoint: str) -> "Telemetry":
        """Returns telemetry that exports to an OTLP collector; to none for an empty endpoint."""
        telemetry = cls(service)
        if endpoint:
            telemetry.export_to(endpoint)
        return telemetry

    @property
    def records(self) -> bool:
        """Whether anyone sees the spans."""
        return self._sampler.recorded

    @property
    def lost_span_count(self) -> int:
        """Spans that nobody took."""
        return sum(batches.lost_count for batches in self._batches)

    def export_to(self, endpoint: str) -> None:
        """Has the spans exported to an OTLP collector from now on.

        What else it takes (headers, certificates, compression) is in the standard variables
        `OTEL_EXPORTER_OTLP_...`, which the exporter reads.
        """
        # Costs a tenth of a second, which a process that exports nothing does not spend.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        # It logs every failed try; `SpanBatches` says once that spans are lost.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        # Without a scheme it would take the collector for an encrypted one.
        named = endpoint if "://" in endpoint else f"http://{endpoint}"
        self.add_exporter(OTLPSpanExporter(endpoint=named), target=endpoint)

    def add_exporter(self, exporter: SpanExporter, *, target: str) -> None:
        """Has an exporter get the spans from now on, in batches and on a thread of its own."""
        batches = SpanBatches(exporter, target=target)
        self._batches.append(batches)
        self._add(batches)

    def flush(self) -> None:
        """Exports what has ended. Blocks."""
        for batches in self._batches:
            batches.force_flush()

    def close(self) -> None:
        """Exports what is left, as far as that is soon done."""
        self._provider.shutdown()

    def _add(self, processor: SpanProcessor) -> None:
        self._provider.add_span_processor(processor)
        self._sampler.recorded = True


def process_name(service: str) -> str:
    """Returns what the spans of a service call their process."""
    return f"sangsang-{service}"


class _WhileRecorded(sampling.Sampler):
    """Follows the caller's decision, takes every trace that begins here, and none if nobody looks.

    Attributes:
        recorded: whether anybody does.
    """

    def __init__(self) -> None:
        self.recorded = False
        self._parents = sampling.ParentBased(sampling.ALWAYS_ON)

    def should_sample(self, *args: Any, **kwargs: Any) -> sampling.SamplingResult:
        sampler = self._parents if self.recorded else sampling.ALWAYS_OFF
        return sampler.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "WhileRecorded"
