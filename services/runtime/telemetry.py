"""Traces: the tracer of a process, and the names that spans and attributes have.

The spans of a call are named after its method, other spans as here. Names follow OpenTelemetry's
RPC conventions where they exist and begin with `sangsang.` elsewhere. What each means is written in
`deploy/telemetry/registry.yaml`; a test holds that nothing is missing there, and that no name is
spelt out elsewhere in the code. Prompts are never recorded.
"""

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SPAN_ADMISSION_WAIT = "admission_wait"
SPAN_LANE_WAIT = "lane_wait"
SPAN_GENERATE_PICTURE = "generate_picture"
SPAN_ENGINE_INFER = "engine_infer"
SPAN_BATCH_STEP = "batch_step"

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
ERROR_TYPE = "error.type"
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
BATCH_JOBS = "sangsang.batch.job_count"
STEP_INDEX = "sangsang.batch.step_index"


class Telemetry:
    """The tracer provider of one process, or of one service of a process that hosts several.

    Without a processor no span is recorded; the context of traces is passed on all the same, and
    the logs have its ID.

    Attributes:
        tracer: makes the spans.
        records: whether anyone sees them.
    """

    def __init__(self, service: str, *, processors: tuple[SpanProcessor, ...] = ()) -> None:
        self.records = bool(processors)
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: f"sangsang-{service}"}),
            sampler=sampling.ParentBased(
                sampling.ALWAYS_ON if self.records else sampling.ALWAYS_OFF
            ),
            shutdown_on_exit=False,
        )
        for processor in processors:
            self._provider.add_span_processor(processor)
        self.tracer: trace.Tracer = self._provider.get_tracer("sangsang")

    @classmethod
    def to_collector(cls, service: str, endpoint: str) -> "Telemetry":
        """Returns telemetry that exports to an OTLP collector; to none for an empty endpoint."""
        if not endpoint:
            return cls(service)
        # Costs a tenth of a second, which a process that exports nothing does not spend.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        insecure = not endpoint.startswith("https://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure)
        return cls(service, processors=(BatchSpanProcessor(exporter),))

    def close(self) -> None:
        """Exports what is left."""
        self._provider.shutdown()
