"""What the four stage services do alike: load models, find a request's, serve the engines.

A stage adds its RPC, how one of its models is opened and warmed up, and which engine runs it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import grpc
import structlog
from opentelemetry import trace

from . import telemetry as names
from .engines.engine import Engine
from .engines.execution_lane import ExecutionLane
from .engines.loading import load_engine
from .engines.remote_server import RemoteServer
from .engines.timing import Timing
from .engines.traced import TracedEngine, engine_attributes
from .errors import ModelNotFound, ModelNotReady, StageUnavailable
from .metrics.registry import Metrics
from .metrics.workers import WorkerMetrics
from .models.folder import ModelFolder, ModuleName
from .open_inference import ServedEngine, ServerIdentity, WorkerRunner, open_inference_handler
from .settings import ServiceSettings
from .telemetry import Telemetry
from .worker import EngineWorker

M = TypeVar("M")

_log = structlog.get_logger()


class ModelStage(ABC, Generic[M]):
    """A stage service of one process, all its models included.

    Args:
        settings: of the process.
        worker: runs the engines.
        max_batch_size: rows of one call over the Open Inference Protocol.
    """

    name: str
    # Whether its work goes first on a GPU that it shares.
    high_priority = False

    def __init__(
        self, settings: ServiceSettings, worker: EngineWorker, *, max_batch_size: int
    ) -> None:
        self._worker = worker
        worker.watch(settings.hang_limits, lambda: self._on_fatal())
        self._on_fatal: Callable[[], None] = lambda: None
        self._stage_settings = settings
        self._max_batch_size = max_batch_size
        self._models: dict[str, M] = {}
        self._loaded = False
        # The worker runs one engine at a time, so they share a lane.
        self._lane = ExecutionLane(high_priority=self.high_priority)
        self._tracer: trace.Tracer = trace.NoOpTracer()

    @abstractmethod
    def _open(self, path: Path) -> tuple[str, M]:
        """Returns a folder's model and its ID. Blocks: runs on the worker.

        Raises:
            ModelNotReady: the folder cannot be served.
        """

    @abstractmethod
    async def _warm_up(self, model: M) -> None:
        """Runs the model's engine once."""

    @abstractmethod
    def _engine(self, model: M) -> Engine:
        """Returns the engine that runs a model."""

    def _engines(self, model: M) -> Sequence[Engine]:
        """Returns every engine of a model, for a stage that has several for one."""
        return [self._engine(model)]

    @property
    def _all_workers(self) -> Sequence[EngineWorker]:
        """Every worker of the stage, for one that has several."""
        return [self._worker]

    def measure(self, metrics: Metrics) -> None:
        """Counts what its workers do."""
        WorkerMetrics(metrics, self._all_workers)

    def watch(self, on_fatal: Callable[[], None]) -> None:
        """Has `on_fatal` called when an engine hangs."""
        self._on_fatal = on_fatal

    async def load(self) -> None:
        """Loads every model and warms it up.

        Raises:
            ModelNotReady: there is no model, one cannot be served, or two have the same ID.
        """
        if not self._stage_settings.models:
            raise ModelNotReady("no model to serve; set SANGSANG_MODELS to its folder")
        for path in self._stage_settings.models:
            model_id, model = await self._worker.run(self._open, path)
            if model_id in self._models:
                raise ModelNotReady(f"{path}: there is another model {model_id!r}; rename one")
            self._models[model_id] = model
            await self._warm_up(model)
            _log.info("model_loaded", model_id=model_id, engine=self._engine(model).backend)
        self._loaded = True

    async def close(self) -> None:
        """Waits for what runs and frees the engines."""
        self._loaded = False
        await asyncio.to_thread(self._worker.close)
        for model in self._models.values():
            for engine in self._engines(model):
                engine.close()

    def _add_engines(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the engines over the Open Inference Protocol, and traces them from now on."""
        self._tracer = telemetry.tracer
        identity = ServerIdentity(f"sangsang-{self.name}", version("sangsang"))
        handler = open_inference_handler(
            self._served_engines, ready=lambda: self._loaded, identity=identity
        )
        server.add_generic_rpc_handlers((handler,))

    def _load_engine(self, folder: ModelFolder, module: ModuleName) -> Engine:
        """Returns the engine of a module, whose executions are traced. Blocks.

        Raises:
            ModelNotReady: it is not built, or its build is damaged.
            StageUnavailable: the server that runs it cannot be reached.
        """
        settings = self._stage_settings
        engine = load_engine(
            folder,
            module,
            backend=settings.backend,
            threads=settings.engine_threads,
            precision=settings.engine_precision,
            cache=settings.cache_dir,
            remote=RemoteServer(
                settings.triton_server_address,
                settings.triton_server_timeout_s,
                settings.triton_server_shared_memory,
            ),
            timing=Timing(settings.timed_profile, settings.timed_device),
            lane=self._lane,
        )
        return TracedEngine(engine, self._tracer)

    def _find(self, model_id: str) -> M:
        """Returns a request's model, and notes it in the span and the log.

        Raises:
            StageUnavailable: the models are still being loaded.
            ModelNotFound: there is no such model.
        """
        if not self._loaded:
            raise StageUnavailable("the service is still loading its models", retry_delay_s=1.0)
        model = self._models.get(model_id)
        if model is None:
            raise ModelNotFound(model_id, sorted(self._models))
        structlog.contextvars.bind_contextvars(model_id=model_id)
        trace.get_current_span().set_attributes(
            {
                names.MODEL_ID: model_id,
                names.STAGE: self.name,
                **engine_attributes(self._engine(model)),
            }
        )
        return model

    def _served_engines(self) -> dict[str, ServedEngine]:
        runner = WorkerRunner(self._worker)
        served: dict[str, ServedEngine] = {}
        for model_id, model in self._models.items():
            for engine in self._engines(model):
                served[f"{model_id}.{engine.name}"] = ServedEngine(
                    engine, runner, max_batch_size=self._max_batch_size
                )
        return served
