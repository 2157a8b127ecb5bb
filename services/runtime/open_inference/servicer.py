"""The Open Inference Protocol over the engines of a stage.

Every method finds its engine, converts, calls and converts back. Errors are raised as `MeshError`;
the server's interceptor turns them into a status.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import structlog

from ..engines.engine import Array
from ..errors import (
    DeadlinePassed,
    FieldViolation,
    InvalidRequest,
    MeshError,
    ModelNotFound,
    StageFailed,
    StageUnavailable,
)
from . import messages
from .checks import check_structure
from .descriptions import MOST_ROWS_NAME, VERSION, model_config, model_metadata
from .inference_statistics import EngineStatistics, Stopwatch
from .messages import Proto
from .parameters import timeout_s
from .served_engine import ServedEngine, TimedEngine
from .tensors import decode_inputs, encode_outputs

EXTENSIONS = ("model_configuration", "statistics")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Who answers, for `ServerMetadata`."""

    name: str
    version: str


class OpenInferenceServicer:
    """Answers the protocol's methods; each takes a request and gRPC's context."""

    def __init__(
        self,
        engines: Callable[[], Mapping[str, ServedEngine]],
        ready: Callable[[], bool],
        identity: ServerIdentity,
    ) -> None:
        self._engines = engines
        self._ready = ready
        self._identity = identity
        self._statistics: dict[str, EngineStatistics] = {}

    async def server_live(self, _request: Proto, _context: object) -> Proto:
        """Returns live: a process that cannot answer does not say so."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, _request: Proto, _context: object) -> Proto:
        """Returns whether the stage takes work."""
        return messages.ServerReadyResponse(ready=self._ready())

    async def model_ready(self, request: Proto, _context: object) -> Proto:
        """Returns whether this engine takes work; an unknown one does not."""
        known = request.name in self._engines() and request.version in ("", VERSION)
        return messages.ModelReadyResponse(ready=known and self._ready())

    async def server_metadata(self, _request: Proto, _context: object) -> Proto:
        """Returns who answers and which extensions are served."""
        return messages.ServerMetadataResponse(
            name=self._identity.name, version=self._identity.version, extensions=EXTENSIONS
        )

    async def model_metadata(self, request: Proto, _context: object) -> Proto:
        """Returns the tensors of an engine."""
        return model_metadata(request.name, self._find(request.name, request.version))

    async def model_config(self, request: Proto, _context: object) -> Proto:
        """Returns the configuration of an engine."""
        served = self._find(request.name, request.version)
        config = model_config(request.name, served.engine, served.configured_batch_size)
        if served.max_batch_size and not served.configured_batch_size:
            config.parameters[MOST_ROWS_NAME].string_value = str(served.max_batch_size)
        return messages.ModelConfigResponse(config=config)

    async def model_statistics(self, request: Proto, _context: object) -> Proto:
        """Returns the statistics of one engine, or of all for an empty name."""
        if request.name:
            self._find(request.name, request.version)
        names = [request.name] if request.name else sorted(self._engines())
        stats = [self._statistics_of(name).to_proto(name, VERSION) for name in names]
        return messages.ModelStatisticsResponse(model_stats=stats)

    async def repository_index(self, request: Proto, _context: object) -> Proto:
        """Returns the engines served here."""
        if request.repository_name:
            raise InvalidRequest([FieldViolation("repository_name", "must be empty")])
        response = messages.RepositoryIndexResponse()
        ready = self._ready()
        if request.ready and not ready:
            return response
        state, reason = ("READY", "") if ready else ("UNAVAILABLE", "the stage is not ready")
        for name in sorted(self._engines()):
            response.models.add(name=name, version=VERSION, state=state, reason=reason)
        return response

    async def model_infer(self, request: Proto, _context: object) -> Proto:
        """Returns the outputs of one execution."""
        served = self._find(request.model_name, request.model_version)
        stopwatch = Stopwatch()
        check_structure(request, served.engine)
        inputs = decode_inputs(request, served)
        statistics = self._statistics_of(request.model_name)
        try:
            return await self._infer(request, served, inputs, stopwatch)
        except BaseException:
            # BaseException: a cancelled call is a failed one too.
            statistics.record_failure(stopwatch.elapsed_ns())
            raise

    async def model_stream_infer(
        self, requests: AsyncIterator[Proto], context: object
    ) -> AsyncGenerator[Proto, None]:
        """Yields one response for each request, in their order.

        An error is answered in its place and the stream goes on, as the protocol has it. A fatal
        one ends the stream: the process is about to end too.
        """
        async for request in requests:
            try:
                response = await self.model_infer(request, context)
            except MeshError as error:
                if isinstance(error, StageFailed) and error.fatal:
                    raise
                yield _failed_item(request, error.message)
            except Exception:
                _log.exception("stream_item_crashed", model_id=request.model_name[:80])
                yield _failed_item(request, "internal error; the service's log has the details")
            else:
                response.parameters["triton_final_response"].bool_param = True
                yield messages.ModelStreamInferResponse(infer_response=response)

    async def _infer(
        self,
        request: Proto,
        served: ServedEngine,
        inputs: Mapping[str, Array],
        stopwatch: Stopwatch,
    ) -> Proto:
        """Returns the response to checked inputs, and counts it."""
        engine = TimedEngine(served.engine)
        stopwatch.submitted()
        outputs = await _run_in_time(served, engine, inputs, timeout_s(request))
        stopwatch.returned()
        response = messages.ModelInferResponse(
            model_name=request.model_name, model_version=VERSION, id=request.id
        )
        wanted = {output.name for output in request.outputs}
        specs = [spec for spec in engine.outputs if not wanted or spec.name in wanted]
        encode_outputs(response, outputs, specs)
        row_count = request.inputs[0].shape[0] if served.batch_rank else 1
        self._statistics_of(request.model_name).record_success(
            row_count, engine.execution_count, stopwatch.times(engine)
        )
        return response

    def _find(self, name: str, version: str) -> ServedEngine:
        """Returns an engine.

        Raises:
            ModelNotFound: there is none of this name and version.
            StageUnavailable: there is none yet, and the stage is still starting.
        """
        engines = self._engines()
        if name not in engines:
            if not self._ready():
                raise StageUnavailable("the stage is not ready, its engines are not known yet")
            raise ModelNotFound(name, sorted(engines))
        if version not in ("", VERSION):
            raise ModelNotFound(f"{name}:{version}", [f"{name}:{VERSION}"])
        return engines[name]

    def _statistics_of(self, name: str) -> EngineStatistics:
        return self._statistics.setdefault(name, EngineStatistics())


def _failed_item(request: Proto, message: str) -> Proto:
    response = messages.ModelStreamInferResponse(error_message=message)
    # The id lets a client tell which of its requests failed.
    response.infer_response.id = request.id
    return response


async def _run_in_time(
    served: ServedEngine,
    engine: TimedEngine,
    inputs: Mapping[str, Array],
    limit_s: float | None,
) -> dict[str, Array]:
    """Returns the engine's outputs.

    Raises:
        DeadlinePassed: the request's own time limit passed first.
    """
    scope = asyncio.timeout(limit_s)
    try:
        async with scope:
            return await served.runner.run(engine, inputs)
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise DeadlinePassed(f"the timeout of {limit_s} s in the request passed") from error
