"""Every metric of the mesh: its name, what it says, and what tells its series apart.

What each means is written in `deploy/telemetry/registry.yaml` too, for whoever reads no code; a
test holds that both agree, that each is made somewhere, and that no name is spelt out elsewhere in
the code. Labels have few values, known beforehand: never a tenant, a request or a prompt.
"""

from dataclasses import dataclass
from typing import Literal

# From 1 ms to a minute, close enough that a quantile is off by a quarter at most.
SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.007),
    *(0.01, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.2, 0.3, 0.5, 0.7),
    *(1.0, 2.0, 3.0, 5.0, 7.0),
    *(10.0, 20.0, 30.0, 45.0, 60.0),
)
ROWS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as it is known to all.

    Attributes:
        kind: how Prometheus is to read it.
        name: with its unit, as Prometheus has it; a counter's ends with `_total`.
        text: what it says.
        labels: what tells its series apart.
        buckets: upper bounds of a histogram's buckets.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Declared:
    return Declared("counter", name, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Declared:
    return Declared("gauge", name, text, labels)


def _histogram(
    name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
) -> Declared:
    return Declared("histogram", name, text, labels, buckets)


# Every service.
START_TIME = _gauge(
    "sangsang_start_time_seconds",
    "When the service was started, in seconds since the epoch; it changes with a restart.",
    "service",
)
CALLS = _counter(
    "sangsang_calls_total",
    "Calls that have ended, by method and name of the gRPC status.",
    "method",
    "code",
)
CALL_SECONDS = _histogram(
    "sangsang_call_seconds", "Duration of calls, however they ended.", "method"
)
SPANS_LOST = _counter(
    "sangsang_spans_lost_total",
    "Spans that whoever keeps the traces did not take: it was away, too slow, or refused them.",
)

# Every stage.
ENGINE_QUEUE_DEPTH = _gauge(
    "sangsang_engine_queue_depth",
    "Functions that wait for a worker's thread or run on it now.",
    "worker",
)
ENGINE_WAIT_SECONDS = _histogram(
    "sangsang_engine_wait_seconds", "Wait for a worker's thread.", "worker"
)
ENGINE_BUSY_SECONDS = _counter(
    "sangsang_engine_busy_seconds_total", "Seconds that a worker's threads have worked.", "worker"
)
ENGINE_CALL_AGE = _gauge(
    "sangsang_engine_call_age_seconds",
    "For how long the engine call that runs now has run, counted every half second; 0 for none.",
    "worker",
)
ENGINE_HANGS = _counter(
    "sangsang_engine_hangs_total",
    "Engine calls that have not come back. The process ends right after one, so watch the age too.",
    "worker",
)

# The diffusion stage.
STEP_SECONDS = _histogram(
    "sangsang_step_seconds", "Duration of batch steps: UNet evaluations that succeeded.", "model"
)
STEP_ROWS = _histogram(
    "sangsang_step_rows", "Rows of batch steps, without padding.", "model", buckets=ROWS
)
STEP_ROW_LIMIT = _gauge("sangsang_step_row_limit", "Most rows of a batch step.", "model")
STEP_PADDING_ROWS = _counter(
    "sangsang_step_padding_rows_total",
    "Rows that the UNet computed for nobody, to fill up a size that its engine was built for.",
    "model",
)
ROWS_IN_FLIGHT = _gauge("sangsang_rows_in_flight", "Rows that are being denoised.", "model")
WASTED_STEPS = _counter(
    "sangsang_wasted_steps_total",
    "Steps of a call that ended after its caller had left or its time was up.",
    "model",
)
JOBS = _counter(
    "sangsang_jobs_total",
    "Denoising calls that have ended: `finished`, `failed`, or `left` by their caller.",
    "model",
    "outcome",
)

# The orchestrator: its queue.
QUEUE_DEPTH = _gauge(
    "sangsang_queue_depth",
    "Calls of pictures that wait for a lane, by the stage that they are for.",
    "stage",
    "tier",
)
REQUESTS_WAITING = _gauge(
    "sangsang_requests_waiting", "Admitted requests of which no picture has started."
)
REQUESTS_RUNNING = _gauge(
    "sangsang_requests_running", "Admitted requests of which some picture has started."
)
BACKLOG_SECONDS = _gauge(
    "sangsang_backlog_seconds", "Estimated device-seconds of admitted work that is left.", "tier"
)
ADMISSION_WAIT_SECONDS = _histogram(
    "sangsang_admission_wait_seconds",
    "Wait of a picture from its arrival until its first call has a lane.",
    "tier",
)
ADMISSIONS = _counter("sangsang_admissions_total", "Requests that were let in.", "tier")
REFUSALS = _counter(
    "sangsang_refusals_total",
    "Sound requests that were not let in, by the reason that their callers were told.",
    "tier",
    "reason",
)

# The orchestrator: lanes and stages.
DEVICE_LANES = _gauge("sangsang_device_lanes", "Lanes of a device; 0 for any number.", "device")
LANE_BUSY_SECONDS = _counter(
    "sangsang_lane_busy_seconds_total",
    "Seconds that a lane was held, by the stage that held it.",
    "device",
    "lane",
    "stage",
)
LANE_CALLS = _gauge(
    "sangsang_lane_calls",
    "Calls in a lane now; a lane that nobody holds has none.",
    "device",
    "lane",
    "stage",
    "model",
)
LANE_ROWS = _gauge(
    "sangsang_lane_rows", "Rows of the calls in a lane now.", "device", "lane", "stage", "model"
)
LANE_WAIT_SECONDS = _histogram(
    "sangsang_lane_wait_seconds",
    "Wait of a call that does not start its picture, from when it is ready until it has a lane.",
    "stage",
)
STAGE_SECONDS = _histogram(
    "sangsang_stage_seconds",
    "Duration of calls to a stage that succeeded, the way there included.",
    "stage",
    "model",
)
REPLICAS = _gauge("sangsang_replicas_usable", "Replicas of a stage that take calls.", "stage")
REPLICA_LOSSES = _counter(
    "sangsang_replica_losses_total",
    "Times that a replica ceased to take calls: it ended, drains, or does not answer.",
    "stage",
)

# The orchestrator: requests and pictures.
REQUEST_SECONDS = _histogram(
    "sangsang_request_seconds",
    "From the arrival of a request to its last picture, if all of them were finished.",
    "tier",
)
PICTURES = _counter(
    "sangsang_pictures_total",
    "Admitted pictures that have ended: `finished`, `late`, `failed`, or `left` by their caller.",
    "model",
    "tier",
    "outcome",
)
PICTURES_IN_TIME = _counter(
    "sangsang_pictures_in_time_total",
    "Finished pictures of requests that ended before their deadline or had none.",
    "tier",
)
PICTURE_COMPUTE_SECONDS = _histogram(
    "sangsang_picture_compute_seconds",
    "Engine seconds that a finished picture is charged for, all stages together.",
    "tier",
)
DEADLINE_MISSES = _counter(
    "sangsang_deadline_misses_total",
    "Admitted requests whose time ran out: `waiting` for their first lane, or `running`.",
    "tier",
    "phase",
)
